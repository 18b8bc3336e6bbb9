"""Prediction: a file, a folder or an array in, label maps in the image's own geometry out.

Needs the student file alone: no SAM, no method, no training dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from knowsam.checkpoint import StudentInfo, load_student
from knowsam.classes import most_probable_class
from knowsam.data.preprocess import to_unit_range
from knowsam.errors import InputError
from knowsam.io import (
    DISAGREEMENT_SUFFIX,
    ENTROPY_SUFFIX,
    IMAGE_SUFFIXES,
    OVERLAY_SUFFIX,
    PROBABILITY_SUFFIX,
    file_stem,
    file_suffix,
    read_image,
    write_label,
    write_map,
    write_probabilities,
)
from knowsam.networks.folding import fold_batch_norm
from knowsam.orientation import view_of
from knowsam.pictures import overlay, volume_sheet, write_png
from knowsam.types import MedicalImage
from knowsam.uncertainty import CaseSums, Uncertainty, measure
from knowsam.validate import predict_all, probabilities_at

SLICES_PER_PASS = 8
STUDENT_FILE = "student.safetensors"
ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image, in the image's own axes.

    Attributes:
        label: Class indices, uint8 or uint16, `(H, W)` or `(X, Y, Z)`.
        probabilities: `(K, *spatial)` float32, or None if not asked for.
        uncertainty: How sure the network is, or None if not asked for.
    """

    label: np.ndarray
    probabilities: np.ndarray | None
    uncertainty: Uncertainty | None = None


def find_student(path: Path) -> Path:
    """The file to predict with: the path itself, or a run folder's student.

    Raises:
        InputError: If there is none.
    """
    if path.is_dir():
        path = path / STUDENT_FILE
    if not path.exists():
        raise InputError(
            f"{path}: no such file was found, but expected a run folder or a {STUDENT_FILE}; check the path, or"
            " wait for the run's first validation (without validation: its first checkpoint)."
        )
    return path


class Predictor:
    """A trained student, ready to predict.

    Attributes:
        path: The student file.

    Args:
        path: A run folder, a `student.safetensors`, or an ONNX file written by `knowsam export`.
        device: `"cpu"`, `"cuda"`, or None for a GPU where there is one. An ONNX file runs on the CPU.
        amp: `"bf16"` runs the network's convolutions in bfloat16: several times as fast where the processor has it,
            slower where it has not, and pixels that are nearly a tie may fall the other way.

    Raises:
        InputError: If there is no such file, it is neither, or an ONNX file is asked to run in bfloat16.
    """

    def __init__(self, path: str | Path, device: str | None = None, amp: Literal["no", "bf16"] = "no") -> None:
        path = self.path = find_student(Path(path))
        self.student: Any  # images -> logits: a network, or an ONNX file that is called like one
        self.amp = amp
        if path.suffix.lower() == ONNX_SUFFIX:
            if amp != "no":
                raise InputError(
                    f"{path}: amp={amp} was found, but an ONNX file runs at the precision it was written in; leave amp"
                    " out, or predict with the run folder or student.safetensors."
                )
            from knowsam.onnx_student import load_onnx_student

            self.student, self.info = load_onnx_student(path, device)
            self.device = "cpu"
            return
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network, self.info = load_student(path, self.device)
        self.student = fold_batch_norm(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def classes(self) -> int:
        """K, background included."""
        return len(self.info.class_names)

    @torch.inference_mode()
    def predict(self, image: MedicalImage, probabilities: bool = False, uncertainty: bool = False) -> Prediction:
        """Segment one image at its native size.

        Args:
            image: A picture or a volume, as `knowsam.io.read_image` gives it.
            probabilities: Also return the soft maps.
            uncertainty: Also return entropy and disagreement, of the same forward pass.

        Returns:
            Label map and whatever else was asked for, in the image's own axes.
        """
        preprocessing = self.info.preprocessing
        slices = preprocessing.slices(image)
        spatial = list(image.spatial_shape)
        if image.is_volume:
            del spatial[preprocessing.axis_of(image)]
        native = (spatial[0], spatial[1])
        labels, soft, unsure = [], [], []
        for first in range(0, len(slices), SLICES_PER_PASS):
            batch = slices[first : first + SLICES_PER_PASS].to(self.device)
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.amp == "bf16"):
                outputs = predict_all(self.student, batch.contiguous(memory_format=torch.channels_last))
            used, *behind = outputs.values()
            probs = probabilities_at(used, native)
            labels.append(most_probable_class(probs).to("cpu", torch.int32).numpy())
            if probabilities:
                soft.append(probs.cpu().numpy())
            if uncertainty:
                unsure.append(measure(probs, [probabilities_at(logits, native) for logits in behind]))
        dtype = np.uint8 if self.classes <= 256 else np.uint16
        label = preprocessing.restore(np.concatenate(labels).astype(dtype), image)
        restored = preprocessing.restore(np.concatenate(soft), image) if probabilities else None
        measured = self._whole_image(unsure, image) if uncertainty else None
        return Prediction(np.ascontiguousarray(label), restored, measured)

    def _whole_image(self, parts: list[tuple[Tensor, Tensor | None, CaseSums]], image: MedicalImage) -> Uncertainty:
        """What was measured on some slices at a time, put together in the image's own axes."""
        entropy, disagreement, sums = zip(*parts, strict=True)

        def restored(maps: Sequence[Tensor]) -> np.ndarray:
            return self.info.preprocessing.restore(torch.cat(list(maps)).cpu().numpy(), image)

        given = [one for one in disagreement if one is not None]
        return Uncertainty(restored(entropy), restored(given) if given else None, reduce(add, sums))


@dataclass(frozen=True)
class PredictedFile:
    """One file of a folder prediction.

    Attributes:
        image: The input.
        label: The label map written, None if the input could not be read.
        error: Why not, in one sentence.
        sums: What the network says of its own reliability, None if not asked for.
    """

    image: Path
    label: Path | None
    error: str | None = None
    sums: CaseSums | None = None


def list_inputs(source: Path, own: Path | None = None) -> list[Path]:
    """The image files to predict: the file itself, or all images of a folder, sorted by name.

    Args:
        source: A file or a folder (a data folder with `images/` stands for its images).
        own: The output folder, whose files are no inputs.

    Raises:
        InputError: If there is nothing to predict, or two inputs would write the same output.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: nothing was found, but expected an image or a folder of images; check the path.")
    folder = source / "images" if (source / "images").is_dir() else source
    files = sorted(path for path in folder.iterdir() if path.is_file() and file_suffix(path) and path.parent != own)
    if not files:
        raise InputError(
            f"{folder}: no image was found, but expected files ending in {' '.join(IMAGE_SUFFIXES)}; check the path."
        )
    by_stem: dict[str, Path] = {}
    for path in files:
        other = by_stem.setdefault(file_stem(path), path)
        if other != path:
            raise InputError(
                f"{path}: {other.name} has the same stem, but expected one image per name, because both"
                " predictions would be"
                " written to one file; rename one."
            )
    return files


def predict_files(
    predictor: Predictor,
    source: str | Path,
    out: str | Path,
    with_overlay: bool = False,
    with_probabilities: bool = False,
    stems: Callable[[str], bool] | None = None,
    with_uncertainty: bool = False,
) -> Iterator[PredictedFile]:
    """Predict a file or a folder, one file at a time; a broken file does not stop the others.

    Args:
        predictor: The network.
        source: A file or a folder.
        out: Where to write; label maps are named like their images.
        with_overlay: Also write `<stem>_overlay.png`; for a volume a sheet of slices.
        with_probabilities: Also write `<stem>_prob` with the soft maps.
        stems: Predict only images whose stem this accepts.
        with_uncertainty: Also write `<stem>_entropy` and, of a network of several students, `<stem>_disagreement`.

    Yields:
        What happened to each file.
    """
    source, out = Path(source), Path(out)
    files = [path for path in list_inputs(source, out) if stems is None or stems(file_stem(path))]
    if any(path.resolve().parent == out.resolve() for path in files):
        raise InputError(
            f"{out}: the images themselves lie there, but expected another output folder; choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        try:
            image = read_image(path)
            prediction = predictor.predict(image, with_probabilities, with_uncertainty)
        except InputError as error:
            yield PredictedFile(path, None, str(error))
            continue
        stem = file_stem(path)
        if prediction.probabilities is not None:
            write_probabilities(out / (stem + PROBABILITY_SUFFIX), prediction.probabilities, image)
        if with_overlay:
            write_png(out / f"{stem}{OVERLAY_SUFFIX}.png", draw(image, prediction.label, predictor.info))
        unsure = prediction.uncertainty
        if unsure is not None:
            write_map(out / (stem + ENTROPY_SUFFIX), unsure.entropy, image)
            if unsure.disagreement is not None:
                write_map(out / (stem + DISAGREEMENT_SUFFIX), unsure.disagreement, image)
        written = write_label(out / stem, prediction.label, image)
        yield PredictedFile(path, written, sums=None if unsure is None else unsure.sums)


def draw(image: MedicalImage, label: np.ndarray, info: StudentInfo) -> np.ndarray:
    """The label map over the image, `(h, w, 3)` uint8; a volume becomes a sheet of slices, turned as `view_of` says."""
    array = to_unit_range(image, info.preprocessing.normalise)
    if not image.is_volume:
        view = view_of(image)
        return overlay(view.turn(array), view.turn(label))
    axis = info.preprocessing.axis_of(image)
    view = view_of(image, axis)
    slices, labels = (view.turn(np.moveaxis(values, axis, 0), rows=1) for values in (array, label))
    return volume_sheet(slices, labels)

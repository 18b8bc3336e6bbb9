"""Prediction: an array or an image with its geometry in, a label map of the same shape out.

Needs the student file alone: no SAM, no method, no training dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from knowsam.functional.probabilities import most_probable_class, probabilities_at
from knowsam.functional.uncertainty import CaseSums, Uncertainty, measure_uncertainty
from knowsam.inference.forward import predict_all
from knowsam.io.checks import check_finite, check_not_empty
from knowsam.networks.fold_batch_norm import fold_batch_norm
from knowsam.runs.device import resolve_device
from knowsam.runs.student_file import find_student, load_student, outdated_by
from knowsam.types import Geometry, MedicalImage

SLICES_PER_PASS = 8
COLOUR, WITH_ALPHA = (1, 3), (2, 4)
"""Lengths of a last axis that holds the channels of a picture; those of pictures with transparency."""
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


class Predictor:
    """A trained student, ready to predict: `model(array)` is the label map of an array.

    Attributes:
        path: The student file.
        info: What belongs to the student: network, preprocessing, class names, validation Dice.
        outdated: What to say if the run has a newer student to give, one sentence; else None.

    Args:
        path: A run folder, a `student.safetensors`, or an ONNX file written by `knowsam export`.
        device: As in `resolve_device`. An ONNX file runs on the CPU.
        amp: `"bf16"` runs the network's convolutions in bfloat16: several times as fast where the processor has it,
            slower where it has not, and pixels that are nearly a tie may fall the other way.
        network: As in `find_student`.

    Raises:
        InputError: If there is no such file or device, it is neither, `amp` is another word, or an ONNX file is asked
            to run in bfloat16.
    """

    def __init__(
        self, path: str | Path, device: str | None = None, amp: str = "no", network: str | None = None
    ) -> None:
        self.amp = known_amp(amp)
        path = self.path = find_student(Path(path), network)
        self.outdated: str | None = None
        self.student: Any  # images -> logits: a network, or an ONNX file that is called like one
        if path.suffix.lower() == ONNX_SUFFIX:
            if amp != "no":
                raise InputError(
                    f"{path}: amp={amp} was found, but an ONNX file runs at the precision it was written in; leave amp"
                    " out, or predict with the run folder or student.safetensors."
                )
            from knowsam.inference.onnx import load_onnx_student

            self.student, self.info = load_onnx_student(path, device)
            self.device = "cpu"
            return
        self.device = resolve_device(device)
        student, self.info = load_student(path, self.device)
        self.outdated = outdated_by(path, self.info)
        self.student = fold_batch_norm(student).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def classes(self) -> int:
        """K, background included."""
        return len(self.info.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes, background first."""
        return self.info.class_names

    def __call__(self, array: np.ndarray, *, volume: bool = False, axis: int | None = None) -> np.ndarray:
        """The label map of an array: class indices, uint8 (uint16 of more than 256 classes), of its spatial shape.

        Args:
            array: As in `predict`.
            volume: As in `predict`.
            axis: As in `predict`.

        Raises:
            InputError: As in `predict`.
        """
        return self.predict(array, volume=volume, axis=axis).label

    @torch.inference_mode()
    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Every prediction for prepared images, the one that is used first.

        Args:
            images: `(B, C, H, W)` float32 in [0, 1], as `Preprocessing.slices` gives them.

        Returns:
            Logits `(B, K, H, W)` by name.
        """
        batch = images.to(self.device)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.amp == "bf16"):
            return predict_all(self.student, batch.contiguous(memory_format=torch.channels_last))

    @torch.inference_mode()
    def predict(
        self,
        image: MedicalImage | np.ndarray,
        probabilities: bool = False,
        uncertainty: bool = False,
        *,
        volume: bool = False,
        axis: int | None = None,
    ) -> Prediction:
        """Segment one image at its native size.

        Args:
            image: A picture or a volume, as `knowsam.io.read_image` gives it, or an array as in `image_from_array`.
            probabilities: Also return the soft maps.
            uncertainty: Also return entropy and disagreement, of the same forward pass.
            volume: Whether a 3-D array is a volume even where its last axis has length 1 or 3.
            axis: Axis 0, 1 or 2 of a volume along which it is cut into slices, 0 for `(Z, H, W)`. None: that of the
                network's training volumes, or else that of the file, of an array the last.

        Returns:
            Label map and whatever else was asked for, in the image's own axes.

        Raises:
            InputError: If an array is not an image, or there is no such axis.
        """
        preprocessing = self.info.preprocessing
        if not isinstance(image, MedicalImage):
            image = image_from_array(image, volume)
            axis = preprocessing.slice_axis if axis is None else axis
        if axis is not None:
            preprocessing = replace(preprocessing, slice_axis=axis, spacing_mm=None)
        slices = preprocessing.slices(image)
        spatial = list(image.spatial_shape)
        if image.is_volume:
            del spatial[preprocessing.axis_of(image)]
        native = (spatial[0], spatial[1])
        labels, soft, unsure = [], [], []
        for first in range(0, len(slices), SLICES_PER_PASS):
            used, *behind = self.outputs(slices[first : first + SLICES_PER_PASS]).values()
            probs = probabilities_at(used, native)
            labels.append(most_probable_class(probs).to("cpu", torch.int32).numpy())
            if probabilities:
                soft.append(probs.cpu().numpy())
            if uncertainty:
                unsure.append(measure_uncertainty(probs, [probabilities_at(logits, native) for logits in behind]))
        dtype = np.uint8 if self.classes <= 256 else np.uint16
        label = preprocessing.restore(np.concatenate(labels).astype(dtype), image)
        restored = preprocessing.restore(np.concatenate(soft), image) if probabilities else None
        measured = _whole_image(unsure, image, preprocessing) if uncertainty else None
        return Prediction(np.ascontiguousarray(label), restored, measured)


def _whole_image(
    parts: list[tuple[Tensor, Tensor | None, CaseSums]], image: MedicalImage, preprocessing: Preprocessing
) -> Uncertainty:
    """What was measured on some slices at a time, put together in the image's own axes."""
    entropy, disagreement, sums = zip(*parts, strict=True)

    def restored(maps: Sequence[Tensor]) -> np.ndarray:
        return preprocessing.restore(torch.cat(list(maps)).cpu().numpy(), image)

    given = [one for one in disagreement if one is not None]
    return Uncertainty(restored(entropy), restored(given) if given else None, reduce(add, sums))


def image_from_array(array: np.ndarray, volume: bool = False) -> MedicalImage:
    """An array as an image without geometry.

    A last axis of length 1 or 3 of a 3-D array is the colour of a picture, unless `volume` says otherwise; of a 4-D
    array it always is. The values mean what they mean in a file: those of a picture in uint8 are 0 to 255; all others
    (any integer or float, every volume) are scaled by their own 0.5th and 99.5th percentile, as `data.normalise` of the
    network's training says.

    Args:
        array: A picture `(H, W)`, `(H, W, 1)` or `(H, W, 3)`, or a volume `(X, Y, Z)`, `(X, Y, Z, 1)` or
            `(X, Y, Z, 3)`; bool, integer or float, finite.
        volume: Whether a 3-D array is a volume in any case.

    Raises:
        InputError: For another shape or dtype, no pixel, values that are NaN or infinite, or without `volume` for a
            last axis of length 2 or 4 (transparency, or so few slices?).
    """
    array, place = np.asarray(array), Path("array")
    coloured = array.ndim == 4 or (array.ndim == 3 and not volume and array.shape[-1] in COLOUR)
    if not 2 <= array.ndim <= 4 or (array.ndim == 4 and array.shape[-1] not in COLOUR) or (volume and array.ndim == 2):
        kind = "a volume (X, Y, Z)" if volume else "a picture (H, W) or (H, W, 3), or a volume (X, Y, Z)"
        raise InputError(
            f"{place}: the shape {array.shape} was found, but expected {kind}; predict one image at a time, channels"
            " last."
        )
    if array.ndim == 3 and not volume and array.shape[-1] in WITH_ALPHA:
        raise InputError(
            f"{place}: the shape {array.shape} was found, but expected 1 or 3 channels of a picture, or a volume; leave"
            " the alpha channel out, or say volume=True."
        )
    if array.dtype.kind not in "buif":
        raise InputError(f"{place}: {array.dtype} values were found, but expected integers or floats; convert them.")
    check_not_empty(array, place)
    check_finite(array, place)
    return MedicalImage(array if coloured else array[..., None], Geometry(slice_axis=2), place)


def known_amp(text: str) -> Literal["no", "bf16"]:
    """The precision to predict in.

    Raises:
        InputError: For anything but `"no"` and `"bf16"`.
    """
    known: dict[str, Literal["no", "bf16"]] = {"no": "no", "bf16": "bf16"}
    if text in known:
        return known[text]
    raise InputError(f"amp: '{text}' was found, but expected no or bf16; correct it.")

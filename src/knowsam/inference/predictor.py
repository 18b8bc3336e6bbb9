"""Prediction: a file, a folder or an array in, label maps in the image's own geometry out.

Needs the student file alone: no SAM, no method, no training dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from knowsam.errors import InputError
from knowsam.functional.probabilities import most_probable_class, probabilities_at
from knowsam.functional.uncertainty import CaseSums, Uncertainty, measure_uncertainty
from knowsam.inference.forward import predict_all
from knowsam.networks.fold_batch_norm import fold_batch_norm
from knowsam.runs.student_file import find_student, load_student
from knowsam.types import MedicalImage

SLICES_PER_PASS = 8
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
            from knowsam.inference.onnx import load_onnx_student

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
        measured = self._whole_image(unsure, image) if uncertainty else None
        return Prediction(np.ascontiguousarray(label), restored, measured)

    def _whole_image(self, parts: list[tuple[Tensor, Tensor | None, CaseSums]], image: MedicalImage) -> Uncertainty:
        """What was measured on some slices at a time, put together in the image's own axes."""
        entropy, disagreement, sums = zip(*parts, strict=True)

        def restored(maps: Sequence[Tensor]) -> np.ndarray:
            return self.info.preprocessing.restore(torch.cat(list(maps)).cpu().numpy(), image)

        given = [one for one in disagreement if one is not None]
        return Uncertainty(restored(entropy), restored(given) if given else None, reduce(add, sums))

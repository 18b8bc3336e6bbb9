"""Every prediction a student gives for a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from knowsam.types import SAM


def predict_all(student: Any, image: Tensor, sam: Any = None) -> dict[str, Tensor]:
    """Every prediction there is for `(B, C, H, W)`: logits `(B, K, H, W)` by name, the one that is used first.

    Args:
        student: A network; one with `outputs` gives several predictions.
        image: `(B, C, H, W)` float in [0, 1].
        sam: A `SamDistillation`, prompted by the student's prediction; adds `"sam"`.
    """
    several: Callable[[Tensor], dict[str, Tensor]] | None = getattr(student, "outputs", None)
    outputs = {"student": student(image)} if several is None else several(image)
    if sam is not None:
        outputs = outputs | {SAM: sam.predict(image, next(iter(outputs.values())))}
    return outputs

"""What a segmentation network may offer beside its logits, with the answers of a network that has one prediction."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class SegmentationNetwork(nn.Module):
    """A network from images `(B, C, H, W)` to logits `(B, K, H, W)`, and its predictions by name.

    Training, prediction, export and `suggest` know no network's insides: they ask these methods. A network whose
    answer is another one overrides them.

    Attributes:
        stride: Height and width of the input must be divisible by it.
        exportable: Whether `knowsam export` can write it, for images of any size.
        one_pass: The method that makes a pass, which `train.checkpointing` computes again instead of keeping it.
    """

    stride: int
    exportable: ClassVar[bool] = True
    one_pass: ClassVar[str] = "forward"

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """All predictions by name, the one that is used first.

        Args:
            image: `(B, C, H, W)`.

        Returns:
            Logits `(B, K, H, W)` each.
        """
        return {"student": self(image)}

    def parts(self) -> dict[str, SegmentationNetwork]:
        """The predictions that can be exported alone, each as a network from images to logits, the used one first.

        Empty where the whole network is the only one.
        """
        return {}

    def near_tie(self, image: Tensor) -> Tensor:
        """Pixels at which rounding may change the answer, because it depends on which of two equal numbers is larger.

        Args:
            image: `(B, C, H, W)`.

        Returns:
            `(B, H, W)` bool.
        """
        return torch.zeros(len(image), *image.shape[-2:], dtype=torch.bool, device=image.device)

    def deepest_stage(self) -> nn.Module | None:
        """The submodule whose output `(B, D, h, w)` is the deepest features; None where there is no such stage."""
        return None

"""Prediction heads at the coarser scales of a network (deep supervision): what URPC adds to a U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class SideHeads(nn.Module):
    """One 3x3 convolution per coarser decoder stage, its logits resized to the image.

    Whole channels are dropped before each head while training, so that the scales differ by more than their resolution.

    Args:
        channels: Channels of the features, coarsest first.
        classes: K of the logits, background included.
        dropout: Probability of dropping a channel, one per head, coarsest first.
    """

    def __init__(self, channels: Sequence[int], classes: int, dropout: Sequence[float]) -> None:
        super().__init__()
        if len(channels) != len(dropout):
            raise ValueError(f"got {len(channels)} scales and {len(dropout)} dropout probabilities, expected as many")
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Dropout2d(p), nn.Conv2d(width, classes, 3, padding=1))
            for width, p in zip(channels, dropout, strict=True)
        )

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Logits of every scale at the size of the image.

        Args:
            features: One `(B, channels, h, w)` per head, coarsest first.
            size: H and W of the image.

        Returns:
            As many logits `(B, K, H, W)`, coarsest first.
        """
        return [
            F.interpolate(head(feature), size=size, mode="bilinear", align_corners=False)
            for head, feature in zip(self.heads, features, strict=True)
        ]

"""Discriminative feature enhancement (DFE) between two views of an image (SSS; Zhu et al., 2025).

What two views have in common is passed on, where they differ the difference is added. It works on any list of feature
maps: those of a student's encoder, or of a SAM's. It begins as nothing: at step 0 a network is what it is without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Combine = Literal["add", "replace"]


def discriminative_features(other: Tensor, own: Tensor, perceptron: Callable[[Tensor], Tensor]) -> Tensor:
    """Enhance the features of one view by those of another: the equation of DFE.

        s   = cos(mean(F_1), mean(F_2)) per image,   w = sigmoid(s)
        out = w P(F_1) + (1 - w) P(F_2) + (1 - s) (F_2 - F_1)

    Args:
        other: F_1, `(B, C, h, w)`: features of the other view.
        own: F_2, of the same shape: features of the view that is enhanced.
        perceptron: P, from such a map to one of the same shape.

    Returns:
        `(B, C, h, w)`; features that are 0 everywhere count as s = 0.
    """
    similarity = F.cosine_similarity(other.mean(dim=(2, 3)).float(), own.mean(dim=(2, 3)).float())
    s = similarity.to(own.dtype).view(-1, 1, 1, 1)
    w = s.sigmoid()
    return w * perceptron(other) + (1 - w) * perceptron(own) + (1 - s) * (own - other)


class PixelPerceptron(nn.Module):
    """Four linear layers at each pixel, C -> 2C -> 2C -> C -> C, layer normalisation and ReLU after the first three."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 2), (2, 2), (2, 1)):
            width = after * channels
            layers += [nn.Linear(before * channels, width), nn.LayerNorm(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, C, h, w)` -> the same shape."""
        return self.layers(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ScaleEnhancement(nn.Module):
    """DFE for maps of one scale.

    Args:
        channels: C of the maps.
        combine: `"add"`: the enhanced features are added to a view's own through a 1x1 convolution that begins at 0,
            as in the paper's figure. `"replace"`: they take the place of a share of them, learned for each channel,
            that begins at 0; the release replaces them at once.
        width: Channels within; None: C.
    """

    def __init__(self, channels: int, combine: Combine = "add", width: int | None = None) -> None:
        super().__init__()
        self.combine = combine
        inner = width or channels
        self.project = nn.Identity() if inner == channels else nn.Conv2d(channels, inner, 1)
        self.align = nn.Conv2d(inner, inner, 3, padding=1)
        self.perceptron = PixelPerceptron(inner)
        self.back = nn.Conv2d(inner, channels, 1)
        if combine == "add":
            nn.init.zeros_(self.back.weight)
            assert self.back.bias is not None
            nn.init.zeros_(self.back.bias)
        else:
            self.share = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, other: Tensor, own: Tensor) -> Tensor:
        """`(B, C, h, w)` of either view -> the enhanced features of the second one, of the same shape."""
        aligned = [self.align(self.project(view)) for view in (other, own)]
        enhanced = self.back(discriminative_features(aligned[0], aligned[1], self.perceptron))
        return own + enhanced if self.combine == "add" else own + self.share * (enhanced - own)


class FeatureEnhancement(nn.Module):
    """DFE for a list of maps, each scale with its own weights.

    Args:
        channels: C of each map.
        combine: See `ScaleEnhancement`.
        width: See `ScaleEnhancement`.
    """

    def __init__(self, channels: Sequence[int], combine: Combine = "add", width: int | None = None) -> None:
        super().__init__()
        self.scales = nn.ModuleList(ScaleEnhancement(count, combine, width) for count in channels)

    def forward(self, other: Sequence[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
        """Enhance a view's maps `(B, C_l, h_l, w_l)` by another's; the same shapes come back."""
        return [scale(first, second) for scale, first, second in zip(self.scales, other, own, strict=True)]

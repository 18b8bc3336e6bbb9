"""The adapters that SAM-Med2D put into SAM's encoder: part of its pretrained function, frozen like the rest of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ChannelSpatialBranch(nn.Module):
    """Weighs channels by their mean over the image, convolves at half resolution, adds, normalises.

    `norm(x + deconv(conv(x * gate(mean(x)))))`. Names and layers are those of SAM-Med2D's files.

    Args:
        dim: Channels of a token.
        hidden: Width of the gate.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `(B, h, w, dim)`, h and w even, -> the same shape."""
        gate = self.channel(tokens.mean(dim=(1, 2)))
        weighed = (tokens * gate[:, None, None]).permute(0, 3, 1, 2)
        return self.norm(tokens + self.spatial(weighed).permute(0, 2, 3, 1))


class BranchedMlp(nn.Module):
    """A block's MLP with SAM-Med2D's branch beside it: `mlp(x) + branch(x)`."""

    def __init__(self, base: nn.Module, branch: ChannelSpatialBranch) -> None:
        super().__init__()
        self.base = base
        self.branch = branch

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Tokens `(B, h, w, dim)` -> the same shape."""
        return self.base(hidden_states) + self.branch(hidden_states)


def insert_branches(sam: Any, hidden: int) -> None:
    """Put a branch beside every MLP of the encoder, in place; the token grid must be even from then on."""
    dim = sam.config.vision_config.hidden_size
    for layer in sam.vision_encoder.layers:
        layer.mlp = BranchedMlp(layer.mlp, ChannelSpatialBranch(dim, hidden))
    sam.needs_even_grid = True

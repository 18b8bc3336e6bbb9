"""Learnable prompts: two tokens per class, made from the image embedding (docs/method.md, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from knowsam.networks.batch_norm import BatchNorm2d

TOKENS_PER_CLASS = 2
LAST_WEIGHT, LAST_BIAS = "feed_forward.2.weight", "feed_forward.2.bias"
"""The layer of a `ClassPrompt` whose output are its tokens."""


def _conv_block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        BatchNorm2d(channels),
        nn.LeakyReLU(0.01),
        nn.Conv2d(channels, channels, 3, padding=1),
        BatchNorm2d(channels),
        nn.LeakyReLU(0.01),
    )


class ClassPrompt(nn.Module):
    """The prompt head of one class.

    ConvBlock, DownBlock, ConvBlock, DownBlock, conv1x1, global mean, FFN `dim -> 4 dim -> 2 dim`; a DownBlock is a
    2x2 max-pool and a ConvBlock.
    """

    def __init__(self, dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        self.conv1 = _conv_block(dim)
        self.down1 = _conv_block(dim)
        self.conv2 = _conv_block(dim)
        self.down2 = _conv_block(dim)
        self.project = nn.Conv2d(dim, dim, 1)
        self.pool = nn.MaxPool2d(2)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, TOKENS_PER_CLASS * dim)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Image embedding `(B, dim, g_h, g_w)`, g >= 4 -> sparse prompt tokens `(B, 2, dim)`."""
        x = self.down1(self.pool(self.conv1(embedding)))
        x = self.down2(self.pool(self.conv2(x)))
        x = self.project(x).mean(dim=(2, 3))
        return self.feed_forward(x).view(-1, TOKENS_PER_CLASS, self.dim)


class LearnablePrompts(nn.Module):
    """One `ClassPrompt` per class, background included."""

    def __init__(self, classes: int, dim: int = 256) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ClassPrompt(dim) for _ in range(classes))

    def forward(self, embedding: Tensor) -> Tensor:
        """Image embedding `(B, dim, g_h, g_w)` -> tokens `(B, K, 2, dim)`."""
        return torch.stack([head(embedding) for head in self.heads], dim=1)

    @torch.no_grad()
    def start_at(self, token: Tensor) -> None:
        """Set the weights so that every token of every class is `token` `(dim,)` at step 0, whatever the image."""
        for name, parameter in self.named_parameters():
            if name.endswith(LAST_WEIGHT):
                nn.init.zeros_(parameter)
            elif name.endswith(LAST_BIAS):
                parameter.copy_(token.repeat(TOKENS_PER_CLASS))


class TextPrompts(nn.Module):
    """One more token per class, from the embedding of a text about it (SAM-DPO): a linear map.

    Args:
        vectors: `(K, D)`, the background's first.
        token: `(dim,)`, what every token is at step 0, such as SAM's 'no point'.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, token: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.float())
        self.project = nn.Linear(vectors.shape[1], len(token))
        nn.init.zeros_(self.project.weight)
        with torch.no_grad():
            self.project.bias.copy_(token)

    def forward(self, images: int) -> Tensor:
        """Tokens `(images, K, 1, dim)`."""
        return self.project(self.vectors)[None, :, None].expand(images, -1, -1, -1)

"""The U-Net student (Ronneberger et al., 2015; docs/method.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from knowsam.networks.batch_norm import BatchNorm2d
from knowsam.networks.encoder_decoder import EncoderDecoder
from knowsam.networks.input import prepare_image


class UNet(EncoderDecoder):
    """2-D U-Net with batch normalisation, LeakyReLU(.01) and dropout growing with depth.

    Max pooling on the way down, 2x2 stride-2 transposed convolutions on the way up, skips by concatenation.

    Attributes:
        stride: Height and width of the input must be divisible by it: 2 to the number of poolings, 16 by
            default.
        feature_channels: Channels of `features`, coarsest first.

    Args:
        in_channels: C of the image.
        classes: K of the logits, background included.
        widths: Channels of each stage, from full resolution down.
        dropout: Probability in each of these stages; the way up has none.
        standardise: Remove each image's own brightness and contrast first, see `standardise_image`.
    """

    stride: int = 16

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
        standardise: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(dropout):
            raise ValueError(f"got {len(widths)} widths and {len(dropout)} dropout probabilities, expected as many")
        self.in_channels = in_channels
        self.classes = classes
        self.standardise = standardise
        self.stride = 2 ** (len(widths) - 1)
        self.feature_channels = tuple(reversed(widths))[1:]
        sizes = pairwise((in_channels, *widths))
        self.encoder = nn.ModuleList(_block(a, b, p) for (a, b), p in zip(sizes, dropout, strict=True))
        self.pool = nn.MaxPool2d(2)
        upwards = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in upwards)
        self.decoder = nn.ModuleList(_block(2 * b, b, 0.0) for _, b in upwards)
        self.head = nn.Conv2d(widths[0], classes, 3, padding=1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """See `EncoderDecoder`."""
        x = prepare_image(image, self.in_channels, self.stride, self.standardise)
        encoded = []
        for depth, block in enumerate(self.encoder):
            x = block(self.pool(x) if depth else x)
            encoded.append(x)
        return encoded

    def decode(self, encoded: list[Tensor]) -> list[Tensor]:
        """See `EncoderDecoder`."""
        *skips, x = encoded
        decoded = []
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
            decoded.append(x)
        return decoded


def _block(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        BatchNorm2d(out_channels),
        nn.LeakyReLU(0.01, inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        BatchNorm2d(out_channels),
        nn.LeakyReLU(0.01, inplace=True),
    )

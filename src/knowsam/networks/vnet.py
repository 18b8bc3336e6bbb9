"""The V-Net student, in 2-D (Milletari et al., 2016; docs/method.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from knowsam.networks.batch_norm import BatchNorm2d
from knowsam.networks.encoder_decoder import EncoderDecoder
from knowsam.networks.input import prepare_image

DOWN_CONVOLUTIONS = (1, 2, 3, 3, 3)
"""3x3 convolutions of each stage on the way down, from full resolution."""

UP_CONVOLUTIONS = (3, 3, 2, 1)
"""The same on the way up, from the second deepest stage."""


class VNet(EncoderDecoder):
    """2-D V-Net: strided convolutions down, transposed ones up, skips by addition, ReLU throughout.

    As in the authors' network, and unlike Milletari et al., the skip of a stage below full resolution is the
    stage's input (what its strided convolution gave), not the output of its 3x3 convolutions.

    Attributes:
        stride: Height and width of the input must be divisible by it.
        feature_channels: Channels of `features`, coarsest first.

    Args:
        in_channels: C of the image.
        classes: K of the logits, background included.
        widths: Channels of each of the five stages, from full resolution down.
        normalisation: `"none"` as in the paper, or `"batch"` for batch normalisation between every
            convolution and its ReLU (such a convolution has no bias of its own). Without it the network's
            output scales with its input.
        standardise: Remove each image's own brightness and contrast first, see `standardise_image`.
    """

    stride: int = 16
    head: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        normalisation: Literal["none", "batch"] = "none",
        standardise: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(DOWN_CONVOLUTIONS):
            raise ValueError(f"got {len(widths)} widths, expected {len(DOWN_CONVOLUTIONS)}")
        if normalisation not in ("none", "batch"):
            raise ValueError(f'normalisation is {normalisation!r}, expected "none" or "batch"')
        self.in_channels = in_channels
        self.classes = classes
        self.standardise = standardise
        self.feature_channels = tuple(reversed(widths))[1:]
        batch = normalisation == "batch"
        first = (in_channels, *widths[1:])  # only the first stage changes the number of channels within its block
        self.encoder = nn.ModuleList(
            _stage(a, b, n, batch) for a, b, n in zip(first, widths, DOWN_CONVOLUTIONS, strict=True)
        )
        self.down = nn.ModuleList(
            _layer(nn.Conv2d(a, b, 2, stride=2, bias=not batch), batch) for a, b in pairwise(widths)
        )
        upwards = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(
            _layer(nn.ConvTranspose2d(a, b, 2, stride=2, bias=not batch), batch) for a, b in upwards
        )
        self.decoder = nn.ModuleList(_stage(b, b, n, batch) for (_, b), n in zip(upwards, UP_CONVOLUTIONS, strict=True))
        self.head = nn.Conv2d(widths[0], classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                # Without normalisation the initial weights alone keep the activations' scale to the end.
                nn.init.kaiming_normal_(module.weight)

    def encode(self, image: Tensor) -> list[Tensor]:
        """See `EncoderDecoder`."""
        x = prepare_image(image, self.in_channels, self.stride, self.standardise)
        x = self.encoder[0](x)
        skips = [x]
        for down, stage in zip(self.down, self.encoder[1:], strict=True):
            x = down(x)
            skips.append(x)
            x = stage(x)
        skips[-1] = x  # nothing is added at the deepest stage
        return skips

    def decode(self, encoded: list[Tensor]) -> list[Tensor]:
        """See `EncoderDecoder`."""
        *skips, x = encoded
        decoded = []
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(up(x) + skips.pop())
            decoded.append(x)
        return decoded


def _stage(in_channels: int, out_channels: int, convolutions: int, batch: bool) -> nn.Sequential:
    sizes = [in_channels] + [out_channels] * convolutions
    return nn.Sequential(*(_layer(nn.Conv2d(a, b, 3, padding=1, bias=not batch), batch) for a, b in pairwise(sizes)))


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d, batch: bool) -> nn.Sequential:
    normalisation = [BatchNorm2d(convolution.out_channels)] if batch else []
    return nn.Sequential(convolution, *normalisation, nn.ReLU(inplace=True))

"""What the U-Net and the V-Net have in common: an encoder, a decoder with skip connections, a head."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from knowsam.networks.base import SegmentationNetwork


class EncoderDecoder(SegmentationNetwork, ABC):
    """Logits from the last stage of a decoder whose stages can be looked at one by one.

    Attributes:
        in_channels: C of the image.
        encoder: The stages of the way down, from full resolution.
        head: What turns the last stage into logits.
        feature_channels: Channels of `features`, coarsest first.
    """

    in_channels: int
    encoder: nn.ModuleList
    head: nn.Module
    feature_channels: tuple[int, ...]

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        Args:
            image: `(B, C, H, W)` float, in [0, 1] or whatever range it was trained on.

        Returns:
            Logits `(B, K, H, W)`.

        Raises:
            InputError: If C, H or W does not fit.
        """
        return self.head(self.features(image)[-1])

    def features(self, image: Tensor) -> list[Tensor]:
        """What each stage of the decoder gives, coarsest first; `head` of the last are the logits.

        Args:
            image: As for `forward`.

        Returns:
            One `(B, feature_channels[i], h, w)` per stage, the last at the size of the image.
        """
        return self.decode(self.encode(image))

    @abstractmethod
    def encode(self, image: Tensor) -> list[Tensor]:
        """What the decoder starts from: the skips, finest first, and last the deepest stage.

        Args:
            image: As for `forward`.

        Returns:
            One `(B, widths[i], h, w)` per stage.
        """

    @abstractmethod
    def decode(self, encoded: list[Tensor]) -> list[Tensor]:
        """`features` from what `encode` gave."""

    @torch.no_grad()
    def encoded_channels(self) -> list[int]:
        """Channels of each map of `encode`, found by trying; changes nothing and draws no random number."""
        training = self.training
        image = next(self.parameters()).new_zeros(1, self.in_channels, self.stride, self.stride)
        try:
            return [stage.shape[1] for stage in self.eval().encode(image)]
        finally:
            self.train(training)

    def deepest_stage(self) -> nn.Module:
        """The last stage of the encoder."""
        return self.encoder[-1]

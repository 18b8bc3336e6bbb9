"""What happens to an image before the first convolution: check its shape, remove its scale on request."""

from __future__ import annotations

from torch import Tensor

from knowsam.errors import InputError

VARIANCE_EPSILON = 1e-10
"""Added to an image's variance: a deviation of 1e-5, less than one grey level in one pixel of 256 x 256."""


def standardise_image(image: Tensor) -> Tensor:
    """Give each image mean 0 and standard deviation 1 over channels and pixels.

    Makes a network indifferent to brightness, contrast and the unit of its input; the ratio of the channels
    (colour) stays. A constant image becomes 0.

    Args:
        image: `(B, C, H, W)`, any range.

    Returns:
        `(B, C, H, W)` with mean 0 and (population) standard deviation 1 per image.
    """
    axes = (1, 2, 3)
    centred = image - image.mean(dim=axes, keepdim=True)
    return centred * (centred.square().mean(dim=axes, keepdim=True) + VARIANCE_EPSILON).rsqrt()


def prepare_image(image: Tensor, in_channels: int, stride: int, standardise: bool) -> Tensor:
    """Check that a network can take this image, then standardise it if asked to.

    Args:
        image: `(B, C, H, W)`.
        in_channels: The C the network was built for.
        stride: H and W must be divisible by it: the network halves them log2(stride) times.
        standardise: Whether to apply `standardise_image`.

    Returns:
        `(B, C, H, W)`.

    Raises:
        InputError: If the shape does not fit, naming what was found and what was expected.
    """
    if image.ndim != 4 or image.shape[1] != in_channels:
        raise InputError(
            f"The network got an image batch of shape {tuple(image.shape)} but expects "
            f"(B, {in_channels}, H, W): it was built for {in_channels} channels."
        )
    height, width = image.shape[-2:]
    if height % stride or width % stride:
        fit_height, fit_width = -(-height // stride) * stride, -(-width // stride) * stride
        raise InputError(
            f"The network got an image of {height}x{width} pixels (height x width) but expects both to be "
            f"divisible by {stride}: pad or resize it, for example to {fit_height}x{fit_width}."
        )
    return standardise_image(image) if standardise else image

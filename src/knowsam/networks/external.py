"""Networks that are not of this package: those of MONAI by name, and a user's own after `register_network`.

They are wrapped, so that the rest of the package can rely on three things: an image whose shape does not fit is
refused before the first convolution, `standardise` works, and what comes out are logits `(B, K, H, W)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from knowsam.errors import InputError, did_you_mean
from knowsam.networks.base import SegmentationNetwork
from knowsam.networks.input import prepare_image

MONAI_PREFIX = "monai:"
"""Names of MONAI's networks begin with it."""
DEFAULT_STRIDE = 16
"""What H and W are taken to be multiples of where a network has no attribute `stride`; the data always are."""

NetworkFactory = Callable[..., nn.Module]


class ExternalNetwork(SegmentationNetwork):
    """A network that is not of this package, with checks of its input and output.

    Attributes:
        stride: Height and width of the input must be divisible by it.

    Args:
        name: How messages call it.
        network: Images -> logits.
        in_channels: C of the image.
        classes: K of the logits, background included.
        standardise: Remove each image's own brightness and contrast first, see `standardise_image`.
    """

    def __init__(
        self, name: str, network: nn.Module, in_channels: int, classes: int, standardise: bool = False
    ) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.in_channels = in_channels
        self.classes = classes
        self.standardise = standardise
        stride = getattr(network, "stride", DEFAULT_STRIDE)
        self.stride: int = stride if isinstance(stride, int) else DEFAULT_STRIDE  # a convolution's is a tuple

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` of images `(B, C, H, W)`.

        Raises:
            InputError: If C, H or W does not fit, or the network gives anything but such logits.
        """
        image = prepare_image(image, self.in_channels, self.stride, self.standardise)
        logits = self.network(image)
        expected = (image.shape[0], self.classes, *image.shape[2:])
        if not isinstance(logits, Tensor) or logits.shape != expected:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise InputError(
                f'Network "{self.name}" gave {found} for images of shape {tuple(image.shape)}, but expected logits'
                f" {expected} (B, K, H, W); choose other arguments, or wrap it so that it does."
            )
        return logits


def build_external_network(
    name: str, factory: NetworkFactory, in_channels: int, classes: int, standardise: bool = False, **arguments: Any
) -> ExternalNetwork:
    """Build and wrap a network; `arguments` are its own.

    Raises:
        InputError: If it refuses the arguments.
    """
    try:
        network = factory(in_channels, classes, **arguments)
    except InputError:
        raise
    except Exception as error:  # the network's own code may raise anything for an argument that does not fit
        raise InputError(
            f'Network "{name}" cannot be built with {arguments or "no arguments"}: {error}; correct'
            " options.network_arguments."
        ) from error
    return ExternalNetwork(name, network, in_channels, classes, standardise)


def find_in_monai(name: str) -> NetworkFactory:
    """What builds a network of MONAI: called as `(in_channels, classes, **arguments)`.

    Args:
        name: A class of `monai.networks.nets`.

    Raises:
        InputError: If MONAI is missing, or has no such segmentation network.
    """
    try:
        from monai.networks import nets  # late: importing it takes seconds
    except ImportError as error:
        raise InputError(
            f'Network "{MONAI_PREFIX}{name}" needs the package monai, which was not found; install it with'
            " pip install 'knowsam[monai]'."
        ) from error
    known = {key: value for key, value in vars(nets).items() if _is_segmentation_network(value)}
    if name not in known:
        raise InputError(
            f'Network "{MONAI_PREFIX}{name}" was not found: expected a class of monai.networks.nets that takes'
            f" in_channels and out_channels{did_you_mean(name, known)}"
        )
    network_class = known[name]

    def build(in_channels: int, classes: int, **arguments: Any) -> nn.Module:
        parameters = inspect.signature(network_class).parameters
        # Not set by the user: they follow from the data, and images are segmented slice by slice.
        given = {"in_channels": in_channels, "out_channels": classes, "spatial_dims": 2}
        given = {key: value for key, value in given.items() if key in parameters}
        _check_arguments(name, arguments, parameters, given)
        return network_class(**given, **arguments)

    return build


def _is_segmentation_network(value: Any) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, torch.nn.Module)
        and {"in_channels", "out_channels"} <= inspect.signature(value).parameters.keys()
    )


def _check_arguments(
    name: str, arguments: dict[str, Any], parameters: Mapping[str, inspect.Parameter], given: dict[str, Any]
) -> None:
    """Raise an error for arguments that MONAI's class does not know, and for those that follow from the data."""
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    free = [key for key in parameters if key not in given]
    for argument in arguments:
        if argument in given:
            raise InputError(
                f'Network "{MONAI_PREFIX}{name}": {argument} was given, but it follows from the data; leave it out.'
            )
        if argument not in free:
            raise InputError(
                f'Network "{MONAI_PREFIX}{name}" has no argument "{argument}"{did_you_mean(argument, free)} Known:'
                f" {', '.join(free)}."
            )

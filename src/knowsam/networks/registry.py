"""The table of networks: ours, MONAI's, and those registered by a user or an installed package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from knowsam.errors import InputError, did_you_mean
from knowsam.networks.base import SegmentationNetwork
from knowsam.networks.cotrained import CoTrainedStudents
from knowsam.networks.external import MONAI_PREFIX, build_external_network, find_in_monai
from knowsam.networks.unet import UNet
from knowsam.networks.vnet import VNet
from knowsam.plugins import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry(
    "network",
    "factory",
    "knowsam.networks",
    {"unet": UNet, "vnet": VNet, "cotrained": CoTrainedStudents, "sam_student": "knowsam.sam.network:SamNetwork"},
)
"""Name in a configuration -> class or function, called as `(in_channels, classes, **arguments)`.

What is built of parts of a higher floor stands by its name alone, as an installed package's would.
"""


def register_network(name: str, factory: Callable[..., nn.Module]) -> None:
    """Make a network of one's own known: `options.network=NAME`, `build_network(NAME, ...)`.

    A student file holds the name, not the code: whoever predicts must register the same class first, or install a
    package that names it in the entry points `knowsam.networks`.

    Args:
        name: How settings and student files call it.
        factory: A class or function, called as `factory(in_channels, classes, **network_arguments)`; it returns a
            module that takes images `(B, C, H, W)` and gives logits `(B, K, H, W)`. Its attribute `stride`, 16 where it
            has none, says what H and W must be multiples of. `network_arguments` must be plain values (JSON).

    Raises:
        InputError: If the name is taken by a network of this package, or reads as one of MONAI.
    """
    if name in NETWORKS.own or name.startswith(MONAI_PREFIX):
        raise InputError(
            f"register_network: the name '{name}' was given, but expected one that is free: {', '.join(NETWORKS.own)}"
            f" and {MONAI_PREFIX}... are taken; choose another."
        )
    NETWORKS[name] = factory


def build_network(name: str, in_channels: int, classes: int, **arguments: Any) -> SegmentationNetwork:
    """Build a network by name, with random weights from torch's global generator.

    Args:
        name: A key of `NETWORKS`, a name given to `register_network`, or `monai:` and a class of
            `monai.networks.nets`, e.g. `monai:UNet`.
        in_channels: C of the images, at least 1.
        classes: K of the logits, background included, at least 2.
        **arguments: Further arguments of the network's class; `standardise` (see `standardise_image`) suits every
            network.

    Returns:
        The network, in training mode, on the default device; one that is not of this package wrapped as an
        `ExternalNetwork`.

    Raises:
        InputError: If the name, a number or an argument is unknown, naming what is known; if the network cannot be
            built with these arguments; or if `monai` is needed and missing.
    """
    if in_channels < 1 or classes < 2:
        raise InputError(
            f"A network was asked for {in_channels} channels and {classes} classes; expected at least"
            " 1 channel and 2 classes (the background counts as one)."
        )
    if name in NETWORKS.own:
        return _build_own_network(name, in_channels, classes, arguments)
    if name.startswith(MONAI_PREFIX):
        factory: Callable[..., nn.Module] | None = find_in_monai(name.removeprefix(MONAI_PREFIX))
    else:
        factory = NETWORKS.load(name)
    if factory is None:
        known = NETWORKS.names()
        raise InputError(
            f"Unknown network '{name}'{did_you_mean(name, known)} Known: {', '.join(known)}. One from monai is named"
            f" like {MONAI_PREFIX}UNet; one of your own must first be made known in this process:"
            f' knowsam.networks.register_network("{name}", its_class).'
        )
    return build_external_network(name, factory, in_channels, classes, **arguments)


def _build_own_network(name: str, in_channels: int, classes: int, arguments: dict[str, Any]) -> SegmentationNetwork:
    network_class: Any = NETWORKS[name]
    known = list(inspect.signature(network_class).parameters)[2:]
    for argument in arguments:
        if argument not in known:
            raise InputError(
                f"Network '{name}' has no argument '{argument}'{did_you_mean(argument, known)} Known:"
                f" {', '.join(known)}."
            )
    try:
        network: SegmentationNetwork = network_class(in_channels, classes, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Network '{name}' cannot be built with {arguments}: {error}; correct the arguments."
        ) from error
    return network

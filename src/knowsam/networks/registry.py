"""The table of networks: ours, MONAI's, and those registered by a user or an installed package."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from torch import nn

from knowsam.errors import InputError
from knowsam.networks.cotrained import CoTrainedStudents
from knowsam.networks.external import (
    MONAI_PREFIX,
    REGISTERED,
    build_external_network,
    find_external_network,
)
from knowsam.networks.unet import UNet
from knowsam.networks.vnet import VNet

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "vnet": VNet, "cotrained": CoTrainedStudents}
"""Name in a configuration -> class, called as `(in_channels, classes, **arguments)`."""


def build_network(name: str, in_channels: int, classes: int, **arguments: Any) -> nn.Module:
    """Build a network by name, with random weights from torch's global generator.

    Args:
        name: A key of `NETWORKS`, a name given to `register_network`, or `monai:` and a class of
            `monai.networks.nets`, e.g. `monai:UNet`.
        in_channels: C of the images, at least 1.
        classes: K of the logits, background included, at least 2.
        **arguments: Further arguments of the network's class; `standardise` (see `standardise_image`) suits every
            network.

    Returns:
        The network, in training mode, on the default device.

    Raises:
        InputError: If the name, a number or an argument is unknown, naming what is known; if the network cannot be
            built with these arguments; or if `monai` is needed and missing.
    """
    if in_channels < 1 or classes < 2:
        raise InputError(
            f"A network was asked for {in_channels} channels and {classes} classes; expected at least "
            "1 channel and 2 classes (the background counts as one)."
        )
    if name not in NETWORKS:
        factory = find_external_network(name)
        if factory is None:
            raise InputError(
                f'Unknown network "{name}": {_suggest(name, [*NETWORKS, *REGISTERED])} One from monai is named like'
                f" {MONAI_PREFIX}UNet; one of your own must first be made known in this process:"
                f' knowsam.networks.register_network("{name}", its_class).'
            )
        return build_external_network(name, factory, in_channels, classes, **arguments)
    known = list(inspect.signature(NETWORKS[name]).parameters)[2:]
    for argument in arguments:
        if argument not in known:
            raise InputError(f'Network "{name}" has no argument "{argument}": {_suggest(argument, known)}')
    try:
        return NETWORKS[name](in_channels, classes, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f'Network "{name}" cannot be built with {arguments}: {error}; correct the arguments.'
        ) from error


def _suggest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
    return f'did you mean "{nearest}"? Known: {", ".join(known)}.'

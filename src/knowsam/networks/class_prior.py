"""V-Nets that begin at the share of each class, as the classifier of Lin et al. (2017, section 4.1) does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from knowsam.networks.vnet import VNet

SMALLEST_SHARE = 0.01
"""Rarer classes begin here: the pi of Lin et al."""


@torch.no_grad()
def start_at_class_prior(module: nn.Module, shares: Tensor) -> None:
    """Add the logarithm of each class's share to the last bias of every V-Net inside.

    Its head has 16 weights a class. With some random weights it needs a hundred steps for nothing but to say
    "background" where nearly all is background; the U-Net's, of 144, does not, and stays as it is, like all others.

    Args:
        module: Changed in place.
        shares: `(K,)` float, share of each class of all labelled pixels, in [0, 1].
    """
    prior = shares.clamp(min=SMALLEST_SHARE).log()
    for part in module.modules():
        if isinstance(part, VNet):
            assert part.head.bias is not None
            part.head.bias.add_(prior.to(part.head.bias))

"""Networks that begin at the share of each class, as the classifier of Lin et al. (2017, section 4.1) does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from knowsam.networks.encoder_decoder import EncoderDecoder
from knowsam.networks.side_heads import SideHeads

SMALLEST_SHARE = 0.01
"""Rarer classes begin here: the pi of Lin et al."""


@torch.no_grad()
def start_at_class_prior(module: nn.Module, shares: Tensor) -> None:
    """Add the logarithm of each class's share to the last bias of every U-Net, V-Net and side head inside.

    From random weights such a head needs about a hundred steps for nothing but to say "background" where nearly all is
    background, the V-Net, whose head has 16 weights a class, the longest. Networks of other libraries stay as they are.

    Args:
        module: Changed in place.
        shares: `(K,)` float, share of each class of all labelled pixels, in [0, 1].
    """
    prior = shares.clamp(min=SMALLEST_SHARE).log()
    for part in module.modules():
        heads = [head[-1] for head in part.heads] if isinstance(part, SideHeads) else []
        if isinstance(part, EncoderDecoder):
            heads.append(part.head)
        for head in heads:
            head.bias.add_(prior.to(head.bias))

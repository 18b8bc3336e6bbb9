"""SAM's blocks computed twice instead of kept: less memory for a longer step, the same numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from knowsam.sam.backbone.interface import interface_of


def checkpoint_blocks(sam: Any) -> None:
    """Let every block of the encoder keep its input alone for the backward pass, and compute the rest again there.

    Transformers' own switch works in training mode only, and a frozen SAM stays in evaluation mode.

    Args:
        sam: A `transformers.SamModel` or a SAM of this package; changed in place, its weights and their names are not.
    """
    for block in interface_of(sam).encoder_blocks(sam):
        block.forward = partial(_computed_again, block.forward)


def _computed_again(forward: Any, *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)

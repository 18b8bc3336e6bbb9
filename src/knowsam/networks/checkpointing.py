"""Passes computed twice instead of kept: less memory for a longer step, the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def compute_again(module: nn.Module, name: str = "forward") -> None:
    """Let a method of a module keep its arguments alone for the backward pass, and compute the rest again there.

    Dropout draws the same again, and running statistics move once.

    Args:
        module: Changed in place; its weights and their names are not.
        name: Of the method.
    """
    setattr(module, name, partial(_computed_again, module, getattr(module, name)))


def _computed_again(module: nn.Module, method: Any, *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return method(*arguments, **named)
    return checkpoint(
        method, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_stay(module)), **named
    )


@contextmanager
def _statistics_stay(module: nn.Module) -> Iterator[None]:
    """Within the block, passes do not move the running statistics of batch normalisation."""
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.num_batches_tracked is not None
    ]
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]  # type: ignore[union-attr]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(count)  # type: ignore[union-attr]

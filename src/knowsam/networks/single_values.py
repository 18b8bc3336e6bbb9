"""Batch normalisation where there is a single value per channel, as at the deepest stage of one image of 16 px."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SWITCHED = "_uses_running_statistics"
"""Attribute of a layer during such a pass."""


def normalise_single_values(module: nn.Module) -> None:
    """Let every batch normalisation inside use its running statistics where a batch has one value per channel.

    One value has no variance, so that torch refuses it while training. Everything else stays as it is.

    Args:
        module: Changed in place: hooks, no parameter and no buffer.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats:
            layer.register_forward_pre_hook(_switch_off)
            layer.register_forward_hook(_switch_on, always_call=True)


def _switch_off(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if layer.training and inputs[0].numel() == inputs[0].shape[1]:
        layer.training, layer.__dict__[SWITCHED] = False, True


def _switch_on(layer: nn.Module, inputs: Any, output: Any) -> None:
    if layer.__dict__.pop(SWITCHED, False):
        layer.training = True

"""Exponential moving average of a network: the EMA teacher (Tarvainen and Valpola, 2017)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def ema_copy(model: nn.Module) -> nn.Module:
    """The EMA teacher of a network: a copy without gradients, moved by `update_ema` alone.

    In training mode its batch normalisation uses the batch's own statistics like the student's, but its passes do not
    move its running ones: those are the average of the student's.

    Args:
        model: The network that learns; unchanged.
    """
    ema = copy.deepcopy(model).requires_grad_(False)
    for module in ema.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.0
    return ema


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move `ema` towards `model`, in place: `ema = decay * ema + (1 - decay) * model`.

    Parameters and floating-point buffers (the running mean and variance of batch normalisation) are averaged,
    other buffers (its step counter) copied.

    Args:
        ema: The averaged network; nothing is left of it at decay 0.
        model: The network that learns, of the same architecture; unchanged.
        decay: Share of the old average that stays, in [0, 1].

    Raises:
        ValueError: If the two networks do not have the same tensors or `decay` is out of range.
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay is {decay}, expected 0 to 1")
    averages = {**dict(ema.named_parameters()), **dict(ema.named_buffers())}
    currents = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if averages.keys() != currents.keys():
        different = sorted(averages.keys() ^ currents.keys())
        raise ValueError(f"the networks differ in {len(different)} tensors, the first is {different[0]}")
    moved: list[Tensor] = []
    towards: list[Tensor] = []
    for name, average in averages.items():
        current = currents[name]
        if average.shape != current.shape:
            raise ValueError(f"{name} has shape {tuple(average.shape)} in ema, {tuple(current.shape)} in model")
        if average.is_floating_point():
            moved.append(average)
            towards.append(current.to(average.dtype))
        else:
            average.copy_(current)
    # All tensors in one call: hundreds of small ones cost a GPU more in launches than in work.
    torch._foreach_lerp_(moved, towards, 1.0 - decay)


def ema_decay(step: int, decay: float) -> float:
    """Decay for a step: small at first, to forget the random start; `decay` in the long run.

    Args:
        step: Index of the step, from 0.
        decay: The decay approached, in [0, 1].

    Returns:
        `min(decay, (step + 1) / (step + 10))`.
    """
    return min(decay, (step + 1) / (step + 10))


def teacher_decay(step: int, decay: float) -> float:
    """Decay of an EMA teacher: the plain mean of the student's weights at first, `decay` in the long run.

    Args:
        step: Index of the step, from 0, after which the teacher moves.
        decay: The decay approached, in [0, 1].

    Returns:
        `min(decay, 1 - 1 / (step + 1))`; 0 at step 0, when the teacher becomes the student.
    """
    return min(decay, 1 - 1 / (step + 1))

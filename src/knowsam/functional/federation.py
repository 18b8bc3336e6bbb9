"""How the networks of several sites become one: averaged (FedAvg), or distilled through public images (HSSF).

Regularity condensation and fusion are those of Ma et al., IEEE TMI 2024, without its self-assessment head. A network's
quality on an image is its foreground Dice here; there it was pixel accuracy, which the background decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from knowsam.functional.losses import distillation_loss, segmentation_loss
from knowsam.functional.probabilities import most_probable_class
from knowsam.types import IGNORE

GATE = 0.75
"""A site teaches the global network on images that it segments better than this."""
PUBLIC_WEIGHT, PUBLIC_TEMPERATURE = 10.0, 2.0
"""Weight and temperature of both distillations, HSSF's."""


def fedavg(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The mean of several networks' states, `theta = sum_c n_c theta_c / sum_c n_c` (McMahan et al., 2017).

    Sums are taken in float64, so that equal states stay as they are to the last bit. What is no floating-point number,
    such as batch norm's count of batches, is the largest one.

    Args:
        states: Tensors by name, the same names in each, at least one.
        weights: n_c, numbers of images, not negative.

    Raises:
        ValueError: If names or numbers do not fit, or the weights are all 0.
    """
    total = float(sum(weights))
    if len(states) != len(weights) or total <= 0 or min(weights) < 0:
        raise ValueError(f"{len(states)} states and the weights {list(weights)} were given, expected one above 0 each")
    if any(state.keys() != states[0].keys() for state in states):
        raise ValueError("the states have different names, expected those of one network")
    mean = {}
    for name, first in states[0].items():
        values = [state[name] for state in states]
        if first.is_floating_point():
            summed = torch.stack([value.double() * n for value, n in zip(values, weights, strict=True)]).sum(dim=0)
            mean[name] = (summed / total).to(first.dtype)
        else:
            mean[name] = torch.stack(values).amax(dim=0)
    return mean


def foreground_dice(logits: Tensor, label: Tensor) -> Tensor:
    """Dice of each image's predicted classes, mean over the foreground classes that it or its truth has.

    Args:
        logits: `(B, K, H, W)`.
        label: `(B, H, W)` int64, class index or `IGNORE`.

    Returns:
        `(B,)` float32 in [0, 1]; 1 where neither has any foreground.
    """
    classes = torch.arange(1, logits.shape[1], device=label.device).view(1, -1, 1, 1)
    known = (label != IGNORE)[:, None]
    found, truth = (most_probable_class(logits)[:, None] == classes) & known, label[:, None] == classes
    sizes = (found.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))).float()
    dice = 2 * (found & truth).sum(dim=(2, 3)) / sizes.clamp(min=1)
    present = sizes > 0
    mean = (dice * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
    return mean.masked_fill(~present.any(dim=1), 1.0)


def best_answers(answers: Tensor, label: Tensor, gate: float = GATE) -> tuple[Tensor, Tensor]:
    """The best of several networks' answers on each image: regularity condensation's teacher.

    Args:
        answers: Logits `(N, B, K, H, W)` of N networks; of equally good ones the first is taken.
        label: `(B, H, W)` int64, class index or `IGNORE`.
        gate: What is not better than this teaches nobody.

    Returns:
        Logits `(B, K, H, W)`, and their quality `(B,)`, 0 where it does not pass the gate.
    """
    quality = torch.stack([foreground_dice(one, label) for one in answers])
    best, which = quality.max(dim=0)
    chosen = answers[which, torch.arange(len(label), device=which.device)]
    return chosen, best.masked_fill(best <= gate, 0.0)


def public_loss(
    logits: Tensor,
    label: Tensor,
    teacher_logits: Tensor,
    teacher_quality: Tensor,
    weight: float = PUBLIC_WEIGHT,
    temperature: float = PUBLIC_TEMPERATURE,
) -> Tensor:
    """What a network learns from public images: their masks, and a teacher where that is better (both of RC and RF).

        L = seg(z, y) + w mean_b [ 1(a_teacher,b > a_b) KL_T(z_teacher,b -> z_b) ]

    `a` is `foreground_dice`; `KL_T` is HSSF's mean over pixels and classes without T^2.

    Args:
        logits: `(B, K, H, W)` of the network that learns.
        label: `(B, H, W)` int64, class index or `IGNORE`.
        teacher_logits: `(B, K, H, W)`; gets no gradient.
        teacher_quality: `(B,)`, a of the teacher.
        weight: w.
        temperature: T.

    Returns:
        0-dim tensor in [0, inf).
    """
    better = (teacher_quality > foreground_dice(logits.detach(), label)).float()
    pixels = better.view(-1, 1, 1).expand(label.shape)
    # `distillation_loss` is the mean over the images that count, sums over classes and multiplies by T^2.
    scale = weight * better.mean() / (logits.shape[1] * temperature**2)
    return segmentation_loss(logits, label) + scale * distillation_loss(logits, teacher_logits, temperature, pixels)

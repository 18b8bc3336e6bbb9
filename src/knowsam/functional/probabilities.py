"""From logits to class probabilities and to the most probable class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def most_probable_class(scores: Tensor) -> Tensor:
    """`scores.argmax(dim=1)`, the first of equals, faster on a CPU.

    Where each class is a map of its own in memory, torch's CPU argmax strides through all of them pixel by pixel;
    comparing whole maps takes an eighth (K = 2) to a third (K = 8) of its time.

    Args:
        scores: `(B, K, ...)` logits or probabilities, finite.

    Returns:
        `(B, ...)` int64; no gradient.
    """
    if scores.device.type != "cpu" or scores.stride(1) == 1:
        return scores.argmax(dim=1)
    best, *others = scores.detach().unbind(dim=1)
    label = torch.zeros_like(best, dtype=torch.int64)
    for number, score in enumerate(others, start=1):
        label.masked_fill_(score > best, number)
        best = torch.maximum(best, score)
    return label


def probabilities_at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class probabilities `(B, K, h, w)` at another (native) size: softmax, then bilinear."""
    probs = logits.float().softmax(dim=1)
    if tuple(probs.shape[-2:]) == tuple(size):
        return probs
    return F.interpolate(probs, size=size, mode="bilinear", align_corners=False)


def mean_log_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Logits of the mean of several networks' probabilities: `log mean_i softmax(z_i)`, float32.

    Args:
        logits: `(B, K, ...)` each, at least one.
    """
    logs = torch.stack([F.log_softmax(one.float(), dim=1) for one in logits])
    return logs.logsumexp(dim=0) - math.log(len(logits))


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits `(B, K, h, w)` to `size` (H, W), bilinearly.

    On a GPU as a product of matrices: the gradient of torch's interpolation adds there in another order each time, and
    a run could not be repeated to the same numbers.
    """
    if logits.device.type == "cpu":
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    rows = interpolation_matrix(logits.shape[-2], size[0], logits.device)
    columns = interpolation_matrix(logits.shape[-1], size[1], logits.device)
    mixed = torch.amp.is_autocast_available(logits.device.type)
    with torch.autocast(logits.device.type, enabled=False) if mixed else nullcontext():
        return (rows @ logits.float() @ columns.mT).to(logits.dtype)


@lru_cache
def interpolation_matrix(old: int, new: int, device: torch.device) -> Tensor:
    """What interpolates `old` values linearly to `new` ones along an axis, edges repeated: `(new, old)` float32."""
    with torch.inference_mode(False):  # else one that validation made could not be used in training
        place = ((torch.arange(new, device=device) + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
        distance = (place[:, None] - torch.arange(old, device=device)).abs()
        return (1 - distance).clamp(min=0)

"""Adaptive agreement: what a network learns where another one, such as SAM, answered too (docs/methods/sam_fed.md)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from knowsam.functional.probabilities import most_probable_class
from knowsam.types import IGNORE

AgreementRule = Literal["adaptive", "teacher", "local", "intersection"]
LEVELS = 256
"""Steps of a confidence in `pack_answer`, so that it takes eight bits beside the class."""


def agreement_target(teacher: Tensor, local: Tensor, rule: AgreementRule) -> tuple[Tensor, Tensor]:
    """A soft label and its weight per pixel, from the answers of two networks to the same image.

        adaptive      y_t = y_l:  q = (p_t + p_l) / 2, w = 1;   else:  q = p of the more confident, w = |k_t - k_l|
        teacher       q = p_t, w = 1
        local         q = p_l, w = 1
        intersection  q = (p_t + p_l) / 2, w = 1 where y_t = y_l, else 0

    `y` is the most probable class and `k` its probability. Of two equally confident ones neither counts.

    Args:
        teacher: Probabilities `(B, K, H, W)`.
        local: The same of the network that learns.
        rule: Which of them.

    Returns:
        `q` `(B, K, H, W)` and `w` `(B, H, W)` in [0, 1], both detached.
    """
    teacher, local = teacher.detach().float(), local.detach().float()
    if rule in ("teacher", "local"):
        chosen = teacher if rule == "teacher" else local
        return chosen, chosen.new_ones(chosen[:, 0].shape)
    agree = most_probable_class(teacher) == most_probable_class(local)
    mean = (teacher + local) / 2
    if rule == "intersection":
        return mean, agree.float()
    lead = teacher.amax(dim=1) - local.amax(dim=1)
    surer = teacher.where((lead > 0)[:, None], local)
    return mean.where(agree[:, None], surer), lead.abs().masked_fill(agree, 1.0)


def agreement_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy against soft labels: `sum_i w_i CE(p_i, q_i) / max(sum_i w_i, 1)`.

    Args:
        logits: `(B, K, H, W)` of the network that learns, usually for a strong view.
        target: `q`, `(B, K, H, W)`; gets no gradient.
        weight: `w`, `(B, H, W)`; gets no gradient.

    Returns:
        0-dim tensor in [0, inf), in nats; 0 where no pixel counts.
    """
    weight = weight.detach()
    cross = -(target.detach() * F.log_softmax(logits.float(), dim=1)).sum(dim=1)
    return (weight * cross).sum() / weight.sum().clamp(min=1)


def pack_answer(probs: Tensor) -> Tensor:
    """Class and confidence of each pixel as one number, for keeping: eight bits for the confidence.

    Args:
        probs: `(B, K, H, W)` in [0, 1], K <= 127.

    Returns:
        `(B, H, W)` int16.

    Raises:
        ValueError: For more classes than have room.
    """
    classes = probs.shape[1]
    if classes * LEVELS > 2**15:
        raise ValueError(f"{classes} classes were given, expected at most {2**15 // LEVELS - 1}")
    confidence = (probs.amax(dim=1).float() * (LEVELS - 1)).round().long()
    return (most_probable_class(probs) * LEVELS + confidence).short()


def unpack_answer(packed: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Inverse of `pack_answer`, but for what eight bits lose, and for the other classes, which share the rest alike.

    Args:
        packed: `(B, H, W)` integers, `IGNORE` where there is no answer.
        classes: K.

    Returns:
        Probabilities `(B, K, H, W)` float32, and where there is an answer, `(B, H, W)` bool.
    """
    known = packed != IGNORE
    packed = packed.long().masked_fill(~known, 0)
    label, confidence = packed // LEVELS, (packed % LEVELS).float() / (LEVELS - 1)
    rest = ((1 - confidence) / (classes - 1))[:, None].expand(-1, classes, -1, -1)
    return rest.scatter(1, label[:, None], confidence[:, None]), known

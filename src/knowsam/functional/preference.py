"""Candidate masks and what a judge's scores make of them, as pure functions of tensors (SAM-DPO; Konwer et al., 2025).

A class of an image is one binary question: margins are its logits against all other classes. Axes are
`(B, C, M, H, W)`: image, class that is asked about, candidate, height, width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RATING_EDGES = (0.4, 0.55, 0.7)
"""IoU from which a candidate is rated 2, 3, 4 (SAM-DPO)."""


def class_margins(logits: Tensor) -> Tensor:
    """Logit of each class against all others, `m_c = z_c - log sum_{j != c} exp z_j`: `sigmoid(m_c)` is `softmax(z)_c`.

    Args:
        logits: `(B, K, H, W)`.

    Returns:
        `(B, K, H, W)`, at least float32.
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    others = [torch.cat([z[:, :c], z[:, c + 1 :]], dim=1) for c in range(z.shape[1])]
    return torch.stack([z[:, c] - other.logsumexp(dim=1) for c, other in enumerate(others)], dim=1)


def candidate_masks(margins: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Cut probability maps at several thresholds: nested masks, the largest first where thresholds increase.

    Args:
        margins: `(B, C, H, W)`.
        thresholds: M probabilities.

    Returns:
        `(B, C, M, H, W)` bool, `sigmoid(m) > t`.
    """
    cuts = torch.tensor(list(thresholds), dtype=torch.float64).logit().to(margins)
    return margins.detach()[:, :, None] > cuts[:, None, None]


def disputed(candidates: Tensor) -> Tensor:
    """Pixels in which candidates differ, Omega: `(B, C, M, H, W)` bool -> `(B, C, H, W)` bool."""
    return candidates.any(dim=2) & ~candidates.all(dim=2)


def candidate_dice(candidates: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice of candidates with a mask, or their expected Dice where the target is a probability.

        2 sum Y q / (sum Y + sum q);  1 where both are empty

    Args:
        candidates: `(B, C, M, H, W)` bool.
        target: `(B, C, H, W)` bool or in [0, 1].
        valid: `(B, H, W)` bool, pixels that count; None for all.

    Returns:
        `(B, C, M)` float32 in [0, 1].
    """
    q, y = target[:, :, None].float(), candidates
    if valid is not None:
        q, y = q * valid[:, None, None], y & valid[:, None, None]
    total = y.sum(dim=(3, 4)) + q.sum(dim=(3, 4))
    overlap = (y * q).sum(dim=(3, 4))
    return torch.where(total > 0, 2 * overlap / total.clamp(min=1e-12), 1.0)


def rank_weights(scores: Tensor, pairs: Sequence[float]) -> Tensor:
    """Weights of candidates by rank: `pairs[0]` for the best, its negative for the worst, and so on inwards.

    Equal scores share the mean weight of their ranks, so that all weights are 0 where all scores are equal.

    Args:
        scores: `(B, C, M)`, higher is better.
        pairs: `M // 2` weights; the middle one of an odd M gets 0.

    Returns:
        `(B, C, M)` float32; each row sums to 0.
    """
    count = scores.shape[-1]
    if len(pairs) != count // 2:
        raise ValueError(f"{len(pairs)} pairs of weights for {count} candidates, expected {count // 2}")
    ranked = [*pairs, *([0.0] * (count % 2)), *(-weight for weight in reversed(pairs))]
    sums = torch.tensor([0.0, *ranked], dtype=torch.float64).cumsum(0).to(scores.device)
    first, second = scores[..., :, None], scores[..., None, :]
    better, equal = (second > first).sum(dim=-1), (second == first).sum(dim=-1)
    return ((sums[better + equal] - sums[better]) / equal).float()


def rating_weights(scores: Tensor, edges: Sequence[float] = RATING_EDGES) -> Tensor:
    """Weights of candidates by rating r = 1, 2, ...: `(r_k - mean r) / max |r - mean r|`, 0 where all are rated alike.

    Args:
        scores: `(B, C, M)`.
        edges: Scores from which a candidate is rated one higher.

    Returns:
        `(B, C, M)` float32; each row sums to 0 within rounding.
    """
    rating = sum((scores >= edge).double() for edge in edges) + torch.ones_like(scores, dtype=torch.float64)
    away = rating - rating.mean(dim=-1, keepdim=True)
    return (away / away.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)).float()


def swap_neighbours(scores: Tensor, share: float) -> Tensor:
    """Let a share of the judgements be wrong: the scores of two neighbours in rank change places.

    Args:
        scores: `(B, C, M)`, M >= 2.
        share: Probability for each image and class; which neighbours is drawn, too.
    """
    order = scores.argsort(dim=-1, descending=True)
    upper = torch.randint(scores.shape[-1] - 1, (*scores.shape[:-1], 1), device=scores.device)
    first, second = order.gather(-1, upper), order.gather(-1, upper + 1)
    swapped = scores.scatter(-1, first, scores.gather(-1, second)).scatter(-1, second, scores.gather(-1, first))
    return torch.where(torch.rand(upper.shape, device=scores.device) < share, swapped, scores)

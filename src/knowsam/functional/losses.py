"""The losses of semi-supervised segmentation, as pure functions of logits.

Every function takes logits `(B, K, H, W)` of any floating dtype, computes in float32 and returns a 0-dim
float32 tensor that is still attached to the graph. Labels are `(B, H, W)` int64; pixels with `IGNORE` carry
no ground truth and are left out. All definitions hold for any K >= 2 and treat the classes alike: permuting
them changes nothing.

Where a docstring says `(..., B, K, H, W)`, several networks' logits for the same images may be stacked: each has a loss
of its own, `(...)`, from as many operations as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.functional.preference import disputed
from knowsam.types import IGNORE

CLASSES, PIXELS, ALL = -3, (-3, -2, -1), (-4, -3, -2, -1)
"""The axis of classes in logits `(..., B, K, H, W)`; those of images and pixels where it is gone; all four."""

ENTROPY_EPSILON = 1e-6
"""Added to a probability before its logarithm in `entropy_map` (docs/method.md, section 1)."""

ONE_MINUS_P_FLOOR = 1e-7
"""Smallest `1 - p` whose logarithm is taken: about the rounding error of float32 next to 1."""

RECTIFIED_FLOOR = 1e-8
"""Smallest sum of weights that `pyramid_consistency` divides by."""


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the labelled pixels of `-log p_y`, in nats (docs/method.md, section 5).

    Args:
        logits: `(..., B, K, H, W)`.
        label: `(B, H, W)` int64, class index or `IGNORE`.

    Returns:
        `(...)` in [0, inf); 0 where no pixel is labelled.
    """
    return _negative_log_likelihood(F.log_softmax(logits.float(), dim=CLASSES), _Truth(label, logits.shape[CLASSES]))


def dice_loss(logits: Tensor, label: Tensor, epsilon: float = 1e-10, squared: bool = True) -> Tensor:
    """Mean over all K classes of one minus the soft Dice with squared denominator (docs/method.md, section 5).

        mean_c [1 - (2 sum p_c g_c + e) / (sum p_c^2 + sum g_c^2 + e)]

    The sums run over the batch and its labelled pixels, so the batch has one Dice per class. The background
    counts as a class. A class that is absent from the label costs nearly 1 unless its probability is 0
    everywhere.

    Args:
        logits: `(..., B, K, H, W)`.
        label: `(B, H, W)` int64, class index or `IGNORE`.
        epsilon: `e` above.
        squared: False: `p_c` in place of `p_c^2`, the plain denominator.

    Returns:
        `(...)` in [0, 1]; exactly 0 where no pixel is labelled.
    """
    probs = F.softmax(logits.float(), dim=CLASSES)
    return _soft_dice_loss(probs, _Truth(label, logits.shape[CLASSES]), epsilon, squared)


def soft_dice_loss(student_logits: Tensor, teacher_logits: Tensor, epsilon: float = 1e-10) -> Tensor:
    """`dice_loss` against another network's probabilities q, in which small classes count as much as large ones.

        mean_c [1 - (2 sum p_c q_c + e) / (sum p_c^2 + sum q_c^2 + e)]

    Args:
        student_logits: `(B, K, H, W)`.
        teacher_logits: `(B, K, H, W)`; gets no gradient.
        epsilon: `e` above.

    Returns:
        0-dim tensor in [0, 1]; 0 where both are the same.
    """
    _require_same_shape(student_logits, teacher_logits)
    probs = F.softmax(student_logits.float(), dim=1)
    target = F.softmax(teacher_logits.detach().float(), dim=1)
    axes = (0, 2, 3)
    squares = probs.square().sum(axes) + target.square().sum(axes)
    return _one_minus_dice((probs * target).sum(axes), squares, epsilon)


def segmentation_loss(logits: Tensor, label: Tensor) -> Tensor:
    """`cross_entropy + dice_loss`, with one softmax for both (docs/method.md, section 5).

    Args:
        logits: `(..., B, K, H, W)`.
        label: `(B, H, W)` int64, class index or `IGNORE`.

    Returns:
        `(...)` in [0, inf); 0 where no pixel is labelled.
    """
    log_probs, truth = F.log_softmax(logits.float(), dim=CLASSES), _Truth(label, logits.shape[CLASSES])
    return _negative_log_likelihood(log_probs, truth) + _soft_dice_loss(log_probs.exp(), truth)


def region_loss(logits: Tensor, label: Tensor, inside: Tensor, inside_weight: float, outside_weight: float) -> Tensor:
    """Weighted sum of `segmentation_loss` over two regions of an image (BCP, loss function).

        w_in seg(z, y where inside) + w_out seg(z, y elsewhere)

    Args:
        logits: `(B, K, H, W)`.
        label: `(B, H, W)` int64, class index or `IGNORE`.
        inside: `(H, W)` or `(B, H, W)` bool.
        inside_weight: `w_in`.
        outside_weight: `w_out`.

    Returns:
        0-dim tensor in [0, inf); 0 where no pixel is labelled.
    """
    inner = segmentation_loss(logits, label.masked_fill(~inside, IGNORE))
    return inside_weight * inner + outside_weight * segmentation_loss(logits, label.masked_fill(inside, IGNORE))


def entropy_map(logits: Tensor) -> Tensor:
    """Entropy of each pixel's class distribution, `-sum_c p_c log(p_c + 1e-6)` (docs/method.md, section 1).

    Args:
        logits: `(..., B, K, H, W)`.

    Returns:
        `(..., B, H, W)` float32 in nats, in [0, log K] up to about 1e-6 K.
    """
    probs = F.softmax(logits.float(), dim=CLASSES)
    return -(probs * (probs + ENTROPY_EPSILON).log()).sum(dim=CLASSES)


def entropy_loss(logits: Tensor) -> Tensor:
    """Mean entropy as a share of the largest possible one, `mean(H) / log K` (docs/method.md, section 5).

    Args:
        logits: `(..., B, K, H, W)`.

    Returns:
        `(...)` in [0, 1].
    """
    return entropy_map(logits).mean(PIXELS) / math.log(logits.shape[CLASSES])


def cross_consistency_loss(student_logits: Tensor, other_logits: Tensor) -> Tensor:
    """Binary cross-entropy of one student's probabilities against the other's (docs/method.md, section 5).

        mean_{pixels, c} -[q_c log p_c + (1 - q_c) log(1 - p_c)],   p = softmax(student), q = softmax(other)

    The target q is detached: only the student learns. `log p` comes from `log_softmax` and needs no clamp.
    `1 - p` is clamped to at least 1e-7, so its term is at most 16.1 and passes no gradient to a class that is
    certain beyond float32; the other classes' `log p` still does.

    Args:
        student_logits: `(..., B, K, H, W)` of the student that learns.
        other_logits: `(..., B, K, H, W)` of the student it is compared with; gets no gradient.

    Returns:
        `(...)` in [0, inf); at `p = q` it is the binary entropy of `q`, not 0.
    """
    _require_same_shape(student_logits, other_logits)
    target = F.softmax(other_logits.detach().float(), dim=CLASSES)
    log_probs = F.log_softmax(student_logits.float(), dim=CLASSES)
    log_complement = (1 - log_probs.exp()).clamp(min=ONE_MINUS_P_FLOOR).log()
    # lerp(a, b, q) = a + q (b - a) = q b + (1 - q) a
    return -torch.lerp(log_complement, log_probs, target).mean(ALL)


def softmax_mse_loss(student_logits: Tensor, other_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of two probability maps (mean teacher; Tarvainen and Valpola, 2017).

        1 / (K |M|) sum_{pixels in M, c} (p_c - q_c)^2,   p = softmax(student), q = softmax(other)

    The target q is detached: only the student learns.

    Args:
        student_logits: `(B, K, H, W)` of the network that learns.
        other_logits: `(B, K, H, W)` of the one it is compared with; gets no gradient.
        mask: `(B, H, W)`, the pixels M that count (UA-MT; Yu et al., 2019); None for all.

    Returns:
        0-dim tensor in [0, 2 / K]; 0 where no pixel counts.
    """
    _require_same_shape(student_logits, other_logits)
    target = F.softmax(other_logits.detach().float(), dim=1)
    distance = (F.softmax(student_logits.float(), dim=1) - target).square().mean(dim=1)
    if mask is None:
        return distance.mean()
    if mask.shape != distance.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected {tuple(distance.shape)} (B, H, W)")
    return (distance * mask).sum() / mask.sum().clamp(min=1)


def pyramid_consistency(pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Agreement of predictions at several scales, rectified by their uncertainty (URPC; Luo et al., 2021).

    With `p_s` the probabilities at scale s, `p` their mean over the S scales, and all of it per pixel:

        D_s = KL(p || p_s)                                     how far scale s is from the mean: its uncertainty
        w_s = exp(-D_s)                                        1 where it agrees
        consistency = 1/S sum_s [ sum_pixels w_s mean_c (p_c - p_s,c)^2 / sum_pixels w_s ]
        divergence  = 1/S sum_s mean_pixels D_s

    Nothing is detached: the scales also move towards each other through the mean. The weights reduce the cost of a
    large D_s; the second term adds one.

    Args:
        pyramid: S >= 1 logits `(B, K, H, W)`, all at the size of the image.

    Returns:
        Consistency in [0, 2 / K] and divergence in [0, inf), in nats; both 0 where the scales agree.
    """
    log_probs = torch.stack([F.log_softmax(logits.float(), dim=1) for logits in pyramid])  # (S, B, K, H, W)
    log_mean = torch.logsumexp(log_probs, dim=0, keepdim=True) - math.log(len(log_probs))
    mean = log_mean.exp()
    divergence = (mean * (log_mean - log_probs)).sum(dim=2)  # (S, B, H, W)
    weight = torch.exp(-divergence)
    distance = (mean - log_probs.exp()).square().mean(dim=2)
    pixels = (1, 2, 3)
    # Where a scale is certain of the opposite everywhere, its weights vanish, and 0 / 0 has no gradient.
    rectified = (weight * distance).sum(pixels) / weight.sum(pixels).clamp(min=RECTIFIED_FLOOR)
    return rectified.mean(), divergence.mean()


def distillation_loss(
    student_logits: Tensor, sam_logits: Tensor, temperature: float = 10.0, weight: Tensor | None = None
) -> Tensor:
    """Distillation from SAM's softened probabilities (docs/method.md, section 3).

        T^2 mean_pixels KL(softmax(z_sam / T) || softmax(z_student / T))

    The softmax and the sum of the divergence run over the K classes of each pixel; the mean runs
    over pixels only. The factor T^2 keeps the gradient's size independent of T (Hinton et al., 2015).

    Args:
        student_logits: `(..., B, K, H, W)`.
        sam_logits: `(B, K, H, W)`; gets no gradient.
        temperature: T > 0.
        weight: `(B, H, W)` in [0, 1]: the mean over pixels becomes a weighted one. None weighs all alike.

    Returns:
        `(...)` in [0, inf), in nats times T^2; 0 where all weights are 0.
    """
    _require_same_shape(student_logits[(0,) * (student_logits.dim() - 4)], sam_logits)
    log_target = F.log_softmax(sam_logits.detach().float() / temperature, dim=CLASSES)
    log_probs = F.log_softmax(student_logits.float() / temperature, dim=CLASSES)
    divergence = F.kl_div(log_probs, log_target, reduction="none", log_target=True).sum(dim=CLASSES)
    if weight is None:
        return temperature**2 * divergence.mean(PIXELS)
    if weight.shape != divergence.shape[-3:]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected {tuple(divergence.shape[-3:])} (B, H, W)")
    weight = weight.detach().float()
    # The floor is not float32's smallest number: T^2 / total must stay finite, or the gradient is inf * 0.
    total = weight.sum().clamp(min=1e-12)
    return temperature**2 * (divergence * weight).sum(PIXELS) / total


def preference_loss(
    margins: Tensor,
    reference: Tensor,
    candidates: Tensor,
    weights: Tensor,
    normalise: Literal["region", "sum", "mean"] = "region",
    beta: float = 1.0,
) -> Tensor:
    """Prefer better candidate masks to worse ones, relative to a frozen reference (SAM-DPO; Konwer et al., 2025).

        L = mean -log sigmoid(R),   R = beta / n sum_i c_i (m_i - m_ref_i),   c_i = sum_k w_k Y_k,i

    `m` are logits of one class against the rest, Y_k the candidates. Because the weights sum to 0, this is the
    difference of log-likelihoods `sum_k w_k [log pi(Y_k) - log pi_ref(Y_k)]`: what does not depend on Y cancels. c is 0
    outside the region Omega in which candidates differ, and so is the gradient, `-sigmoid(-R) beta c_i / n`. The mean
    runs over the images and classes with a region and a preference; others count nowhere.

    Args:
        margins: `(B, C, H, W)`, see `class_margins`.
        reference: The reference's, `(B, C, H, W)`; detached here.
        candidates: `(B, C, M, H, W)` bool.
        weights: `(B, C, M)`, positive for what is preferred; each row sums to 0.
        normalise: n: `"region"`: |Omega| of the image and class; `"sum"`: 1, the likelihood of whole masks; `"mean"`:
            H W.
        beta: Factor on R.

    Returns:
        0-dim tensor in [0, inf); log 2 at the reference; 0 where nothing is preferred.

    Raises:
        ValueError: If weights do not sum to 0, or the shapes do not fit.
    """
    _require_same_shape(margins, reference)
    if candidates.shape[:2] + candidates.shape[3:] != margins.shape or weights.shape != candidates.shape[:3]:
        raise ValueError(
            f"candidates have shape {tuple(candidates.shape)} and weights {tuple(weights.shape)}, expected"
            f" (B, C, M, H, W) and (B, C, M) for margins {tuple(margins.shape)}"
        )
    if weights.numel() and weights.sum(dim=-1).abs().max() > 1e-5 * weights.abs().max().clamp(min=1):
        raise ValueError("the weights of a class's candidates do not sum to 0: a mask's likelihood would not cancel")
    dtype = torch.promote_types(margins.dtype, torch.float32)
    region = disputed(candidates)
    change = margins.to(dtype) - reference.detach().to(dtype)
    c = torch.zeros_like(change)
    for weight, candidate in zip(weights.to(dtype).unbind(-1), candidates.unbind(2), strict=True):
        c = c + weight[..., None, None] * candidate
    c = torch.where(region, c, 0.0)
    pixels = region.sum(dim=(2, 3))
    whole = torch.ones_like(pixels)
    divisor = {"region": pixels.clamp(min=1), "sum": whole, "mean": whole * c.shape[2] * c.shape[3]}[normalise]
    margin = beta * (c * change).sum(dim=(2, 3)) / divisor
    counts = (pixels > 0) & (weights != 0).any(dim=-1)
    return torch.where(counts, F.softplus(-margin), 0.0).sum() / counts.sum().clamp(min=1)


class _Truth:
    """A label `(B, H, W)` and what losses ask of it, each computed once and only if it is asked for."""

    def __init__(self, label: Tensor, classes: int) -> None:
        self.label, self.classes = label, classes

    @cached_property
    def one_hot(self) -> Tensor:
        """`(B, K, H, W)` bool, an eighth of the memory of int64; `IGNORE` is no class."""
        return self.label.unsqueeze(1) == torch.arange(self.classes, device=self.label.device).view(1, -1, 1, 1)

    @cached_property
    def valid(self) -> Tensor:
        """Which pixels count, `(B, 1, H, W)` bool."""
        return (self.label != IGNORE).unsqueeze(1)


def _negative_log_likelihood(log_probs: Tensor, truth: _Truth) -> Tensor:
    if log_probs.device.type == "cpu":
        maps = log_probs.flatten(0, -4)
        label = truth.label.expand(*log_probs.shape[:-4], -1, -1, -1).flatten(0, -3)
        each = F.nll_loss(maps, label, ignore_index=IGNORE, reduction="none")
        total = each.view(*log_probs.shape[:-3], *each.shape[-2:]).sum(PIXELS)
    else:
        # On a GPU torch's own sum has another order each time.
        total = -log_probs.where(truth.one_hot, 0.0).sum(ALL)
    # Not reduction="mean": that is 0/0 where every pixel is ignored.
    return total / truth.valid.sum().clamp(min=1)


def _soft_dice_loss(probs: Tensor, truth: _Truth, epsilon: float = 1e-10, squared: bool = True) -> Tensor:
    axes = (-4, -2, -1)
    intersection = (probs * truth.one_hot).sum(axes)
    sizes = ((probs.square() if squared else probs) * truth.valid).sum(axes) + truth.one_hot.sum(axes)
    return _one_minus_dice(intersection, sizes, epsilon)


def _one_minus_dice(intersection: Tensor, sizes: Tensor, epsilon: float) -> Tensor:
    """Mean over classes, from the sums `(..., K)` over all pixels of the product and of both sizes."""
    return (1 - (2 * intersection + epsilon) / (sizes + epsilon)).mean(-1)


def _require_same_shape(student_logits: Tensor, other_logits: Tensor) -> None:
    if student_logits.shape != other_logits.shape:
        raise ValueError(
            f"student logits have shape {tuple(student_logits.shape)} but the logits they are compared with "
            f"{tuple(other_logits.shape)}; expected the same (B, K, H, W)"
        )

"""Uncertainty of a prediction: maps for a person, and sums from which its Dice can be estimated.

Everything is computed from the class probabilities of one forward pass. The sums are additive over slices, so that a
volume, stored as one file or as many slices, is measured without being held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

UNCERTAIN_BELOW = 0.8
"""A pixel whose most probable class has less than this probability counts as uncertain."""


@dataclass(frozen=True)
class CaseSums:
    """Sums over one case's prediction, without its truth; `a + b` is that of both together.

    Views are the prediction that is used and, where there are several, the students behind it.

    Attributes:
        view_px: `(V, K)` float64, pixels that each view gives to each class; the prediction first.
        shared_px: `(V (V - 1) / 2, K)` pixels that both of a pair of views give to the class, pairs in the order of
            `itertools.combinations`.
        expected_px: `(K,)` sum of the class's probability over all pixels.
        expected_overlap_px: `(K,)` sum of the class's probability over the pixels given to it.
        entropy_px: `(K,)` sum of the entropy, each in [0, 1], over the pixels given to the class.
        uncertain_px: `(K,)` pixels given to the class with a probability below `UNCERTAIN_BELOW`.
        pixels: Pixels of the case.
        disputed_px: Pixels to which two views give different classes.
        claimed_px: Pixels that any view gives to the foreground.
    """

    view_px: np.ndarray
    shared_px: np.ndarray
    expected_px: np.ndarray
    expected_overlap_px: np.ndarray
    entropy_px: np.ndarray
    uncertain_px: np.ndarray
    pixels: float
    disputed_px: float
    claimed_px: float

    def __add__(self, other: CaseSums) -> CaseSums:
        return CaseSums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def predicted_px(self) -> np.ndarray:
        """Pixels given to each class by the prediction that is used, `(K,)`."""
        return self.view_px[0]

    @property
    def has_students(self) -> bool:
        """True where several views were compared."""
        return len(self.view_px) > 1

    def expected_dice(self) -> np.ndarray:
        """Expected Dice if the truth were drawn from the predicted probabilities: a ratio of expectations.

            2 sum_{P} p / (|P| + sum p)        P: the pixels given to the class, p: its probability

        Returns:
            `(K,)` float64 in [0, 1]; 0 where the class was given no pixel, which needs an estimate of its own (see
            `knowsam.reliability.calibration`).
        """
        return _share(2 * self.expected_overlap_px, self.predicted_px + self.expected_px)

    def consensus_dice(self) -> np.ndarray:
        """Mean Dice over all pairs of views: prediction and first student, prediction and second, both students.

        Returns:
            `(K,)` float64 in [0, 1]; a pair in which neither has the class counts as 0, for it supports no pixel. NaN
            where there is one view only.
        """
        if not self.has_students:
            return np.full(self.view_px.shape[1], math.nan)
        pairs = list(combinations(self.view_px, 2))
        return np.mean([_share(2 * both, a + b) for (a, b), both in zip(pairs, self.shared_px, strict=True)], axis=0)

    def confidence(self) -> np.ndarray:
        """What the estimate of a Dice starts from: the mean of expected and consensus Dice, or the expected one alone.

        Returns:
            `(K,)` float64 in [0, 1].
        """
        expected = self.expected_dice()
        return (expected + self.consensus_dice()) / 2 if self.has_students else expected

    def mean_entropy(self) -> np.ndarray:
        """Mean entropy of the pixels given to each class, `(K,)` in [0, 1]; 0 where there is none."""
        return _share(self.entropy_px, self.predicted_px)

    def uncertain_share(self) -> np.ndarray:
        """Share of uncertain pixels among those given to each class, `(K,)` in [0, 1]; 0 where there is none."""
        return _share(self.uncertain_px, self.predicted_px)

    def disputed_share(self) -> float:
        """Share of the claimed foreground that the views dispute, in [0, 1]; NaN for one view only."""
        if not self.has_students:
            return math.nan
        return self.disputed_px / self.claimed_px if self.claimed_px else 0.0


@dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of one image's prediction.

    Attributes:
        entropy: float32 in [0, 1], in the image's own axes.
        disagreement: The same of the distance between its students; None where there is one prediction only.
        sums: Of all its slices.
    """

    entropy: np.ndarray
    disagreement: np.ndarray | None
    sums: CaseSums


def entropy_share(probs: Tensor) -> Tensor:
    """Entropy of each pixel as a share of its largest value: `-sum_c p_c log p_c / log K`.

    Args:
        probs: `(B, K, H, W)`, summing to 1 over the classes.

    Returns:
        `(B, H, W)` in [0, 1]: 0 certain, 1 all classes alike.
    """
    return (torch.special.entr(probs).sum(dim=1) / math.log(probs.shape[1])).clamp(0, 1)


def disagreement_share(several: Sequence[Tensor]) -> Tensor:
    """Probability that the most different two of several predictions give to different classes.

        max_{a, b} 1/2 sum_c |p_a,c - p_b,c|        (total variation distance)

    It tells .51 against .49 from 1 against 0, which a comparison of the most probable classes does not, and it grows in
    proportion to the difference. The Jensen-Shannon divergence grows with its square and shows contradictions alone;
    the root of that divergence makes a certain background bright.

    Args:
        several: S >= 2 tensors `(B, K, H, W)`, each summing to 1 over the classes.

    Returns:
        `(B, H, W)` in [0, 1]: 0 the same, 1 each certain of another class.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(several) < 2:
        raise ValueError(f"got {len(several)} predictions, expected at least two to compare")
    pairs = [(a - b).abs().sum(dim=1) / 2 for a, b in combinations(several, 2)]
    return torch.stack(pairs).amax(dim=0).clamp(0, 1)


def measure_uncertainty(probs: Tensor, students: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor | None, CaseSums]:
    """Both maps and all sums of a batch of slices.

    Args:
        probs: `(B, K, H, W)` class probabilities of the prediction that is used.
        students: Those of the students behind it, each `(B, K, H, W)`; fewer than two mean no comparison.

    Returns:
        Entropy `(B, H, W)`, disagreement `(B, H, W)` or None, and the sums over the batch.
    """
    K = probs.shape[1]
    students = students if len(students) > 1 else ()
    top, label = probs.max(dim=1)
    entropy = entropy_share(probs)
    views = [label, *(student.argmax(dim=1) for student in students)]
    pairs = [_class_counts(a, K, a == b) for a, b in combinations(views, 2)]
    stacked = torch.stack(views)
    own = F.one_hot(label, K).movedim(-1, 1)
    sums = CaseSums(
        view_px=np.stack([_class_counts(view, K) for view in views]),
        shared_px=np.stack(pairs) if pairs else np.zeros((0, K)),
        expected_px=_numpy(probs.double().sum(dim=(0, 2, 3))),
        expected_overlap_px=_numpy((probs.double() * own).sum(dim=(0, 2, 3))),
        entropy_px=_class_counts(label, K, entropy),
        uncertain_px=_class_counts(label, K, top < UNCERTAIN_BELOW),
        pixels=float(label.numel()),
        disputed_px=float((stacked != label).any(dim=0).sum()),
        claimed_px=float((stacked > 0).any(dim=0).sum()),
    )
    return entropy, disagreement_share(students) if students else None, sums


def _class_counts(label: Tensor, classes: int, weight: Tensor | None = None) -> np.ndarray:
    """Number of pixels (or sum of a weight) by class, `(K,)` float64."""
    weights = None if weight is None else weight.flatten().double()
    return _numpy(torch.bincount(label.flatten(), weights, minlength=classes))


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().astype(np.float64)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)

"""Estimated Dice of a prediction without truth, from the network's own probabilities.

The estimate starts from the *confidence* (`CaseSums.confidence`): the Dice to expect if the truth were drawn from the
predicted probabilities, averaged with the Dice between the network's several predictions where it has them. It ranks
cases well and is too high, since networks are overconfident. So it is corrected on the validation cases, whose truth
is known, by parallel straight lines:

    dice = intercept_class + slope * confidence            clipped to [0, 1]

One slope for all classes and one intercept each is what ten or twenty cases can determine. The slope is pulled to 1,
the slope of a calibrated network, with the weight of one observation `SLOPE_PRIOR` away from the mean: where all
validation cases are alike, they do not determine how confidence and Dice change together.

The interval comes from residuals of cases the line was not fitted to: each group (patient) is left out in turn, the
lines are fitted to the others, and the absolute residuals, divided by `1 + SPREAD_FLOOR - estimate` because poor cases
are harder to predict, give the conformal quantile `ceil(INTERVAL_LEVEL (n + 1))`-th of n, for each class. It assumes
exchangeability alone: the new cases must come from the same source as the validation cases.

A class that was predicted nowhere in a case has Dice 1 if it is truly absent and 0 if it was missed, and nothing in
between. Its estimate is the chance of absence among the validation cases where the class was predicted nowhere, by
the rule of succession `(absent + 1) / (empty + 2)`, with the interval [0, 1]. Without such a case it is 1/2: not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

INTERVAL_LEVEL = 0.8
"""Share of cases whose Dice the interval should contain. 0.9 would depend on the two worst of twenty cases."""
SPREAD_FLOOR = 0.1
SLOPE_PRIOR = 0.1
FEWEST_GROUPS = 5
"""With fewer validation groups there is no calibration: the quantile needs at least four residuals, and each of them a
line that was fitted to several other groups."""
MOST_FOLDS = 20
"""Groups are left out one by one up to this number; more are left out in so many parts of equal size."""

EstimateStatus = Literal["estimated", "extrapolated", "not_predicted", "uncalibrated"]


@dataclass(frozen=True)
class CalibrationCase:
    """A validation case: the confidence of its prediction and its true Dice.

    Attributes:
        case: Its name.
        group: Cases of one group (patient) are left out together.
        confidence: `CaseSums.confidence` of classes 1..K-1.
        predicted: Whether the prediction has these classes at all.
        dice: Their true Dice.
    """

    case: str
    group: str
    confidence: tuple[float, ...]
    predicted: tuple[bool, ...]
    dice: tuple[float, ...]


@dataclass(frozen=True)
class Estimate:
    """The estimated Dice of one class of one case.

    Attributes:
        dice: In [0, 1].
        low: Lower end of the interval; NaN without calibration.
        high: Upper end; NaN without calibration.
        status: `"estimated"`; `"extrapolated"`: the confidence is below that of every validation case of this class, so
            that the line is used outside of where it was fitted; `"not_predicted"`: the prediction lacks the class, and
            `dice` is the chance that this is right; `"uncalibrated"`: the confidence itself.
    """

    dice: float
    low: float
    high: float
    status: EstimateStatus


@dataclass(frozen=True)
class Calibration:
    """Confidence -> Dice, as learned from validation cases.

    Attributes:
        slope: Of all classes.
        intercepts: Of classes 1..K-1.
        widths: Half width of the interval of each class, in units of `1 + SPREAD_FLOOR - estimate`.
        lowest: Smallest confidence in each class among the validation cases.
        empty: Validation cases where the class was predicted nowhere.
        absent: Those of them where it was truly absent.
        n_cases: Validation cases.
        n_groups: Their groups.
    """

    slope: float
    intercepts: tuple[float, ...]
    widths: tuple[float, ...]
    lowest: tuple[float, ...]
    empty: tuple[int, ...]
    absent: tuple[int, ...]
    n_cases: int
    n_groups: int

    def estimate(self, confidence: Sequence[float], predicted: Sequence[bool]) -> list[Estimate]:
        """Estimates for one case.

        Args:
            confidence: `CaseSums.confidence` of classes 1..K-1.
            predicted: Whether the prediction has these classes.
        """
        estimates = []
        for k, (value, has) in enumerate(zip(confidence, predicted, strict=True)):
            if not has:
                chance = (self.absent[k] + 1) / (self.empty[k] + 2)
                estimates.append(Estimate(chance, 0.0, 1.0, "not_predicted"))
                continue
            dice = min(1.0, max(0.0, self.intercepts[k] + self.slope * value))
            half = self.widths[k] * _spread(dice)
            status: EstimateStatus = "extrapolated" if value < self.lowest[k] else "estimated"
            estimates.append(Estimate(dice, max(0.0, dice - half), min(1.0, dice + half), status))
        return estimates


def estimate_without_calibration(confidence: Sequence[float], predicted: Sequence[bool]) -> list[Estimate]:
    """The confidence itself, without interval; 1/2, not known, for a class that was predicted nowhere."""
    return [
        Estimate(value, math.nan, math.nan, "uncalibrated") if has else Estimate(0.5, 0.0, 1.0, "not_predicted")
        for value, has in zip(confidence, predicted, strict=True)
    ]


def fit_calibration(cases: Sequence[CalibrationCase]) -> Calibration | None:
    """Fit a calibration to validation cases.

    Args:
        cases: All with the same classes.

    Returns:
        The calibration, or None with fewer than `FEWEST_GROUPS` groups.
    """
    groups = {case.group for case in cases}
    if len(groups) < FEWEST_GROUPS:
        return None
    confidence, predicted, dice = _arrays(cases)
    slope, intercepts = fit_parallel_lines(confidence, dice, predicted)
    left_out = _left_out_estimates(cases)
    residuals = np.abs(left_out - dice) / _spread(left_out)
    columns = [(residuals[predicted[:, k], k], confidence[predicted[:, k], k]) for k in range(dice.shape[1])]
    empty = ~predicted
    return Calibration(
        slope=slope,
        intercepts=tuple(intercepts.tolist()),
        # The interval of a class that was predicted in no validation case is the whole range.
        widths=tuple(conformal_quantile(r, INTERVAL_LEVEL) if len(r) else 1 / SPREAD_FLOOR for r, _ in columns),
        lowest=tuple(float(x.min()) if len(x) else 1.0 for _, x in columns),
        empty=tuple(empty.sum(axis=0).tolist()),
        absent=tuple((empty & (dice == 1)).sum(axis=0).tolist()),
        n_cases=len(cases),
        n_groups=len(groups),
    )


def fit_parallel_lines(x: np.ndarray, y: np.ndarray, used: np.ndarray) -> tuple[float, np.ndarray]:
    """Least squares of `y = intercept_k + slope * x` with one slope for all columns, pulled to 1 and never negative.

        slope = (sum dx dy + SLOPE_PRIOR^2) / (sum dx^2 + SLOPE_PRIOR^2)      dx, dy: from each column's mean

    Args:
        x: `(N, K)`.
        y: `(N, K)`.
        used: `(N, K)` bool; False leaves an entry out.

    Returns:
        The slope, and the intercepts `(K,)`. A column without entries gets the mean intercept of the others.
    """
    number = used.sum(axis=0)
    mean_x, mean_y = (np.where(used, v, 0).sum(axis=0) / np.maximum(number, 1) for v in (x, y))
    dx, dy = np.where(used, x - mean_x, 0), np.where(used, y - mean_y, 0)
    slope = max(0.0, float(((dx * dy).sum() + SLOPE_PRIOR**2) / ((dx**2).sum() + SLOPE_PRIOR**2)))
    intercepts = mean_y - slope * mean_x
    if number.any():
        intercepts = np.where(number > 0, intercepts, intercepts[number > 0].mean())
    return slope, intercepts


def conformal_quantile(values: np.ndarray, level: float) -> float:
    """The `ceil(level (n + 1))`-th smallest of n values, the largest where there are too few.

    A further value of the same distribution is no larger with probability >= `level`, if n >= level / (1 - level).
    """
    rank = math.ceil(level * (len(values) + 1))
    return float(np.sort(values)[min(rank, len(values)) - 1])


def _folds(cases: Sequence[CalibrationCase]) -> list[np.ndarray]:
    """`(N,)` bool masks of the cases that are left out together; no group is divided."""
    groups = sorted({case.group for case in cases})
    part = {group: index % MOST_FOLDS for index, group in enumerate(groups)}
    of_case = np.array([part[case.group] for case in cases])
    return [of_case == number for number in range(min(len(groups), MOST_FOLDS))]


def _left_out_estimates(cases: Sequence[CalibrationCase]) -> np.ndarray:
    """`(N, K-1)`: each case's Dice by lines fitted without its group."""
    confidence, predicted, dice = _arrays(cases)
    estimates = np.zeros_like(dice)
    for left_out in _folds(cases):
        slope, intercepts = fit_parallel_lines(confidence[~left_out], dice[~left_out], predicted[~left_out])
        estimates[left_out] = np.clip(intercepts + slope * confidence[left_out], 0, 1)
    return estimates


def _arrays(cases: Sequence[CalibrationCase]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    confidence = np.array([case.confidence for case in cases], dtype=np.float64)
    predicted = np.array([case.predicted for case in cases], dtype=bool)
    return confidence, predicted, np.array([case.dice for case in cases], dtype=np.float64)


def _spread(estimate: Any) -> Any:
    return 1 + SPREAD_FLOOR - estimate

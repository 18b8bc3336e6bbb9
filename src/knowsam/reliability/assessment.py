"""Quality of Dice estimates against the truth: rank correlation, error, coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from knowsam.reliability.calibration import CalibrationCase, Estimate, _folds, fit_calibration


@dataclass(frozen=True)
class Assessment:
    """Quality of estimates against the truth.

    Attributes:
        rank_case: Spearman correlation of estimated and true Dice, means over the classes of each case; NaN where all
            cases are alike.
        rank_class: The same for each class alone.
        rank_all: The same of all cases and classes in one ranking.
        error: Mean absolute error of the estimate over cases and classes.
        bias: Mean of estimate minus truth: above 0 the estimates are too high.
        coverage: Share of true Dice values within their interval; NaN where there are none.
        width: Mean width of the intervals; NaN where there are none.
        worst_fifth: Share of the summed error (1 - Dice) that lies in the fifth of the cases ranked worst.
        worst_fifth_best: The same for a ranking by the true Dice: no ranking finds more.
        worst_fifth_random: The same for a random order: the fifth's share of the cases.
    """

    rank_case: float
    rank_class: tuple[float, ...]
    rank_all: float
    error: float
    bias: float
    coverage: float
    width: float
    worst_fifth: float
    worst_fifth_best: float
    worst_fifth_random: float


def cross_fit(cases: Sequence[CalibrationCase]) -> list[list[Estimate]] | None:
    """Estimates of validation cases by calibrations that were fitted without their groups.

    Returns:
        One estimate per case and class, or None with too few groups to leave any out.
    """
    result: dict[int, list[Estimate]] = {}
    for left_out in _folds(cases):
        calibration = fit_calibration([case for case, out in zip(cases, left_out, strict=True) if not out])
        if calibration is None:
            return None
        for index in np.flatnonzero(left_out).tolist():
            result[index] = calibration.estimate(cases[index].confidence, cases[index].predicted)
    return [result[index] for index in range(len(cases))]


def assess(estimates: Sequence[Sequence[Estimate]], truth: Sequence[Sequence[float]]) -> Assessment:
    """Compare estimates with the truth.

    Args:
        estimates: By case and class.
        truth: True Dice, by case and class.
    """
    guess = np.array([[one.dice for one in case] for case in estimates])
    low, high = (np.array([[getattr(one, end) for one in case] for case in estimates]) for end in ("low", "high"))
    dice = np.asarray(truth, dtype=np.float64)
    lost = 1 - dice.mean(axis=1)
    fifth = math.ceil(len(lost) / 5)

    def share(order: np.ndarray) -> float:
        return float(lost[order[:fifth]].sum() / lost.sum()) if lost.sum() else math.nan

    return Assessment(
        rank_case=_rank_correlation(guess.mean(axis=1), dice.mean(axis=1)),
        rank_class=tuple(_rank_correlation(guess[:, k], dice[:, k]) for k in range(dice.shape[1])),
        rank_all=_rank_correlation(guess.ravel(), dice.ravel()),
        error=float(np.abs(guess - dice).mean()),
        bias=float((guess - dice).mean()),
        coverage=math.nan if np.isnan(low).any() else float(((low <= dice) & (dice <= high)).mean()),
        width=float((high - low).mean()),
        worst_fifth=share(np.argsort(guess.mean(axis=1), kind="stable")),
        worst_fifth_best=share(np.argsort(-lost, kind="stable")),
        worst_fifth_random=fifth / len(lost),
    )


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(spearmanr(a, b).statistic)

"""The estimator on cases made by hand, and its promise on cases drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from knowsam.reliability.assessment import assess, cross_fit
from knowsam.reliability.calibration import (
    SLOPE_PRIOR,
    SPREAD_FLOOR,
    Calibration,
    CalibrationCase,
    Estimate,
    conformal_quantile,
    estimate_without_calibration,
    fit_calibration,
    fit_parallel_lines,
)


def case(name: str, confidence: Sequence[float], dice: Sequence[float], group: str = "") -> CalibrationCase:
    return CalibrationCase(name, group or name, tuple(confidence), tuple(c > 0 for c in confidence), tuple(dice))


def random_cases(n: int, seed: int) -> list[CalibrationCase]:
    """Two classes, dice = 1.4 confidence - .45 (-.5) with noise that grows where the Dice falls."""
    random = np.random.default_rng(seed)
    confidence = random.uniform(0.6, 0.98, (n, 2))
    line = 1.4 * confidence - [0.45, 0.5]
    dice = np.clip(line + random.normal(0, 0.15, (n, 2)) * (1.1 - line), 0, 1)
    return [case(f"c{i}", confidence[i].tolist(), dice[i].tolist()) for i in range(n)]


def test_parallel_lines_by_hand() -> None:
    # Deviations from the column means: dx = (-1, 1) and (-2, 2), dy = 3 dx; so the slope is (30 + p) / (10 + p).
    x = np.array([[0.0, 10.0], [2.0, 14.0]])
    y = 3 * x + [1.0, -7.0]
    slope, intercepts = fit_parallel_lines(x, y, np.ones_like(x, dtype=bool))
    expected = (30 + SLOPE_PRIOR**2) / (10 + SLOPE_PRIOR**2)
    assert slope == pytest.approx(expected)
    np.testing.assert_allclose(intercepts, [4 - expected, 29 - 12 * expected])


def test_parallel_lines_leave_out_what_is_not_used() -> None:
    x = np.array([[0.0, 5.0], [2.0, 5.0], [9.0, 5.0]])
    y = np.array([[0.0, 5.0], [2.0, 5.0], [0.0, 5.0]])
    used = np.array([[True, False], [True, False], [False, False]])
    slope, intercepts = fit_parallel_lines(x, y, used)
    assert slope == pytest.approx(1)
    np.testing.assert_allclose(intercepts, [0, 0], atol=1e-12)  # the empty column has the mean of the others


def test_slope_is_one_where_cases_are_alike_and_never_negative() -> None:
    used = np.ones((4, 1), dtype=bool)
    alike = np.full((4, 1), 0.9)
    assert fit_parallel_lines(alike, alike - 0.1, used)[0] == 1
    rising = np.linspace(0, 1, 4)[:, None]
    assert fit_parallel_lines(rising, -rising, used)[0] == 0


def test_conformal_quantile_by_hand() -> None:
    values = np.array([5.0, 1, 2, 3, 4, 9, 8, 7, 6])
    assert conformal_quantile(values, 0.8) == 8  # ceil(.8 * 10)
    assert conformal_quantile(values, 0.9) == 9
    assert conformal_quantile(values[:3], 0.8) == 5  # too few: the largest


def test_estimate_by_hand() -> None:
    calibration = Calibration(2.0, (-0.9, 0.0), (0.5, 0.5), (0.6, 0.5), (3, 0), (2, 0), 10, 5)
    first, second = calibration.estimate([0.8, 0.9], [True, True])
    half = 0.5 * (1 + SPREAD_FLOOR - 0.7)
    assert (first.dice, first.low, first.high) == pytest.approx((0.7, 0.7 - half, 0.7 + half))
    assert first.status == "estimated"
    assert (second.dice, second.high) == (1, 1)  # 1.8, clipped
    assert calibration.estimate([0.55, 0.9], [True, True])[0].status == "extrapolated"


def test_class_predicted_nowhere_has_the_chance_of_being_absent() -> None:
    calibration = Calibration(2.0, (-0.9, 0.0), (0.5, 0.5), (0.6, 0.5), (3, 0), (2, 0), 10, 5)
    first, second = calibration.estimate([0, 0], [False, False])
    assert first == Estimate(3 / 5, 0, 1, "not_predicted")  # 2 of 3 were truly absent: (2 + 1) / (3 + 2)
    assert second.dice == 0.5  # never seen: not known
    assert estimate_without_calibration([0.0], [False])[0].dice == 0.5


def test_absent_classes_are_counted() -> None:
    cases = [*random_cases(6, 0), case("e1", [0, 0.9], [1, 0.8]), case("e2", [0, 0.9], [0, 0.8])]
    calibration = fit_calibration(cases)
    assert calibration is not None
    assert (calibration.empty, calibration.absent) == ((2, 0), (1, 0))
    assert calibration.n_cases == 8


def test_without_calibration_there_is_no_interval() -> None:
    (only,) = estimate_without_calibration([0.8], [True])
    assert only.dice == 0.8
    assert math.isnan(only.low)
    assert only.status == "uncalibrated"


def test_few_groups_are_not_enough_however_many_cases() -> None:
    cases = [case(f"c{i}", [0.8 + i / 100], [0.7], group=f"g{i % 4}") for i in range(12)]
    assert fit_calibration(cases) is None
    assert cross_fit(cases) is None


def test_cross_fitting_does_not_look_at_the_case_or_its_group() -> None:
    cases = [case(f"c{i}", c.confidence, c.dice, group=f"g{i // 2}") for i, c in enumerate(random_cases(16, 1))]
    before = cross_fit(cases)
    spoilt = [*cases[:2], *cases[2:]]
    spoilt[0] = case("c0", cases[0].confidence, [0.0, 0.0], group="g0")
    after = cross_fit(spoilt)
    assert before is not None
    assert after is not None
    assert before[0] == after[0]
    assert before[1] == after[1]  # of the same group
    assert before[2] != after[2]


def test_interval_holds_its_promise_on_exchangeable_cases() -> None:
    held = []
    for seed in range(30):
        calibration = fit_calibration(random_cases(20, seed))
        assert calibration is not None
        for new in random_cases(40, 1000 + seed):
            estimates = calibration.estimate(new.confidence, new.predicted)
            held += [one.low <= dice <= one.high for one, dice in zip(estimates, new.dice, strict=True)]
    assert 0.78 <= np.mean(held) <= 0.90


def test_more_groups_than_folds() -> None:
    estimates = cross_fit(random_cases(53, 2))
    assert estimates is not None
    assert len(estimates) == 53


def estimate(dice: float, half: float = 0.1) -> list[Estimate]:
    return [Estimate(dice, dice - half, dice + half, "estimated")]


def test_assessment_by_hand() -> None:
    truth = [[0.9], [0.8], [0.7], [0.6], [0.0]]
    # Two neighbours swapped: Spearman 1 - 6 * 2 / (5 * 24) = .9; the worst fifth (one case) holds .4 of 2.0, best 1.0.
    found = assess([estimate(d) for d in (0.95, 0.8, 0.7, 0.1, 0.2)], truth)
    assert found.rank_case == pytest.approx(0.9)
    assert found.rank_class == pytest.approx((0.9,))
    assert found.error == pytest.approx((0.05 + 0 + 0 + 0.5 + 0.2) / 5)
    assert found.bias == pytest.approx((0.05 - 0.5 + 0.2) / 5)
    assert found.coverage == pytest.approx(3 / 5)
    assert found.width == pytest.approx(0.2)
    assert (found.worst_fifth, found.worst_fifth_best) == pytest.approx((0.4 / 2, 1.0 / 2))
    assert found.worst_fifth_random == pytest.approx(0.2)


def test_assessment_without_intervals_or_differences_is_undefined_not_zero() -> None:
    found = assess([estimate_without_calibration([0.8], [True])] * 3, [[1.0], [1.0], [1.0]])
    assert math.isnan(found.coverage)
    assert math.isnan(found.rank_case)
    assert math.isnan(found.worst_fifth)

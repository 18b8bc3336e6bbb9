"""Each sentence appears where its numbers call for it, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from knowsam.config import resolve_config
from knowsam.evaluation.scoring import ScoredVolume, TellingSlice
from knowsam.functional.uncertainty import measure_uncertainty
from knowsam.reporting import advice
from knowsam.reporting.baseline import Baseline
from knowsam.reporting.differences import Difference, difference, paired
from knowsam.runs.record import Validation
from support.records import run_with


def case(name: str, *dice: float) -> ScoredVolume:
    """A case of 1,000 pixels of each class, as many predicted, of which this share is right."""
    sizes = np.full(1 + len(dice), 1000)
    counts = np.stack([1000 * np.array([1.0, *dice]), sizes, sizes])
    telling = TellingSlice(0, 0, 1, np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.float16))
    sums = measure_uncertainty(torch.full((1, len(sizes), 2, 2), 1 / len(sizes)))[2]
    return ScoredVolume(name, name, (), ((2, 2),), {"fused": counts}, sums, telling)


# Of one validation: what each of four cases is off the mean. Between these two the paired differences are off by
# +-1 or +-10 points: a standard error of 2 / sqrt(3) / 2 = .58 or 5.8 points, and t(3) = 3.18.
FLAT, NARROW, WIDE = [0.0] * 4, [0.01, -0.01, 0.01, -0.01], [0.1, -0.1, 0.1, -0.1]


def test_a_difference_is_weighed_by_its_paired_standard_error() -> None:
    gain = paired([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert gain.mean == pytest.approx(0.2)
    assert gain.error == pytest.approx(0.1 / 3**0.5)
    assert str(gain) == "+20.0 ± 5.8 points"
    assert gain.size == "20.0 ± 5.8 points"
    assert str(Difference(-0.024)) == "\N{MINUS SIGN}2.4 points"
    # t(2) = 4.303: 20 points are clear above 4.65.
    assert not gain.clear
    assert Difference(0.2, 0.0464, 3).clear
    assert not Difference(-0.2, 0.0466, 3).clear


def test_without_cases_only_a_large_difference_counts() -> None:
    one, other = Validation(1, {"a": 0.50}, {}), Validation(2, {"a": 0.47}, {}, {"a": [0.47, 0.47]})
    assert difference(one, other) == Difference(pytest.approx(0.03), None, 0)
    assert not Difference(0.03).clear
    assert Difference(-0.031).clear


def test_a_curve_that_still_rises_asks_for_more_steps() -> None:
    said = advice.course(run_with({"fused": [0.5, 0.6, 0.65, 0.70]}))
    # Step 300 of 400 is the last within three quarters.
    assert said is not None
    assert "still rising at the end (+5.0 points since step 300)" in said
    assert "to 800 steps" in said
    assert advice.course(run_with({"fused": [0.5, 0.6, 0.700, 0.702]})) is None


def test_a_curve_past_its_best_says_where_it_overfits() -> None:
    said = advice.course(run_with({"fused": [0.5, 0.7, 0.66, 0.65]}))
    assert said is not None
    assert "best at step 200 and fell by 5.0 points until step 400" in said
    assert advice.course(run_with({"fused": [0.5, 0.7]})) is None  # two points are no course


@pytest.mark.parametrize(("spread", "clear"), [(NARROW, True), (WIDE, False)])
def test_the_course_is_weighed(spread: list[float], clear: bool) -> None:
    offsets = {"fused": [FLAT, FLAT, FLAT, spread]}
    rising = advice.course(run_with({"fused": [0.5, 0.6, 0.65, 0.70]}, offsets))
    fallen = advice.course(run_with({"fused": [0.5, 0.7, 0.66, 0.65]}, offsets))
    assert (rising is not None, fallen is not None) == (clear, clear)
    if clear:
        assert "(+5.0 ± 0.6 points since step 300)" in str(rising)
        assert "fell by 5.0 ± 0.6 points" in str(fallen)


@pytest.mark.parametrize(
    ("difference", "spread", "words"),
    [
        (-0.05, NARROW, "The run is below supervised training on the same labels (\N{MINUS SIGN}5.0 ± 0.6 points)"),
        (-0.05, WIDE, "(\N{MINUS SIGN}5.0 ± 5.8 points) may be chance on 4 validation cases"),
        (0.05, WIDE, "(+5.0 ± 5.8 points) may be chance"),
        (0.05, NARROW, None),
        (-0.05, None, "The run is below supervised training on the same labels (\N{MINUS SIGN}5.0 points)"),
        (-0.02, None, None),
        (0.05, None, None),
    ],
)
def test_against_the_baseline(difference: float, spread: list[float] | None, words: str | None) -> None:
    run = run_with({"fused": [0.7]}, {"fused": [spread]} if spread else {})
    score = 0.7 - difference
    cases = {"student": [score] * 4} if spread else {}
    baseline = Baseline(run, Validation(100, {"student": score}, {}, cases), {}, comparable=True)
    said = advice.against_baseline(run, baseline)
    assert (said is None) == (words is None)
    assert words is None or words in str(said)
    assert advice.against_baseline(run, replace(baseline, comparable=False)) is None


def test_a_student_far_behind_and_a_fused_map_below_one_student() -> None:
    apart = {"fused": [0.72], "unet": [0.7], "vnet": [0.6], "sam": [0.1]}
    assert "V-Net (0.600) is far below U-Net (0.700)" in str(advice.students(run_with(apart)))
    ahead = {"fused": [0.72], "unet": [0.76], "vnet": [0.74]}
    assert "U-Net alone (0.760) is better than the fused map (0.720) by 4.0 points" in str(
        advice.students(run_with(ahead))
    )
    for means, words in ((apart, "V-Net (0.600) is far below"), (ahead, "fused map (0.720) by 4.0 ± 0.6 points")):
        for spread, said in ((NARROW, True), (WIDE, False)):
            offsets = {"fused": [FLAT], "unet": [spread], "vnet": [FLAT]}
            assert (words in str(advice.students(run_with(means, offsets)))) == said
    assert advice.students(run_with({"fused": [0.72], "unet": [0.74], "vnet": [0.73]})) is None
    assert advice.students(run_with({"student": [0.72]})) is None


def test_sam_below_the_map_it_is_prompted_with() -> None:
    below = run_with({"fused": [0.72], "sam": [0.66]}, sam={"name": "tiny"})
    assert "(\N{MINUS SIGN}6.0 points), so that it has little to teach" in str(advice.sam_teacher(below))
    assert "pretrained" in str(advice.sam_teacher(below))
    assert "pretrained" not in str(advice.sam_teacher(replace(below, config=resolve_config({"sam": "vit_b"}))))
    assert advice.sam_teacher(run_with({"fused": [0.72], "sam": [0.70]})) is None


def test_sam_above_it_still_has_something_to_teach() -> None:
    means = {"fused": [0.72], "sam": [0.74]}
    said = advice.sam_teacher(run_with(means, {"fused": [FLAT], "sam": [NARROW]}, sam={"kd_weight": 0.3}))
    assert said is not None
    assert "SAM (0.740) is ahead of the map it is prompted with by 2.0 ± 0.6 points" in said
    assert "larger sam.kd_weight (now 0.3)" in said
    assert advice.sam_teacher(run_with(means, {"fused": [FLAT], "sam": [WIDE]})) is None
    assert advice.sam_teacher(run_with(means)) is None
    assert advice.sam_teacher(run_with({"fused": [0.72]})) is None


def test_weak_class() -> None:
    cases = [case(f"case {i}", 0.8, 0.5 + off, 0.9) for i, off in enumerate(NARROW)]
    assert "class gut (0.500) is far behind the others (0.850 on average, 35.0 ± 0.6 points apart)" in str(
        advice.weak_classes(["a", "gut", "b"], cases)
    )
    # 12 points behind on average, but not on most cases.
    unsure = [case(f"case {i}", 0.8, 0.68 + 2 * off, 0.8) for i, off in enumerate(WIDE)]
    assert advice.weak_classes(["a", "gut", "b"], unsure) is None
    assert advice.weak_classes(["a"], [case("one", 0.1)]) is None


def test_failed_cases() -> None:
    cases = [case("one", 0.9, 0.3, 0.9), case("two", 0.8, 0.7, 0.8), case("three", 0.2, 0.5, 0.1)]
    assert "1 of 3 validation cases is below Dice 0.5 (three): look at it" in str(advice.failed_cases(cases))
    assert advice.failed_cases(cases[:2]) is None


def test_the_standard_error_is_that_of_the_mean() -> None:
    values = [0.5, 0.7, 0.9]
    # Sample sd .2, over sqrt(3).
    assert "±11.5 points" in str(advice.certainty([case(str(value), value) for value in values]))
    assert np.std(values, ddof=1) / 3**0.5 == pytest.approx(0.1155, abs=1e-4)
    assert advice.certainty([case("a", 0.5)] * 100) is None

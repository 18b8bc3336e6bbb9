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
from knowsam.runs.record import Validation
from support.records import run_with


def case(name: str, *dice: float) -> ScoredVolume:
    """A case of 1,000 pixels of each class, as many predicted, of which this share is right."""
    sizes = np.full(1 + len(dice), 1000)
    counts = np.stack([1000 * np.array([1.0, *dice]), sizes, sizes])
    telling = TellingSlice(0, 0, 1, np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.float16))
    sums = measure_uncertainty(torch.full((1, len(sizes), 2, 2), 1 / len(sizes)))[2]
    return ScoredVolume(name, name, (), ((2, 2),), {"fused": counts}, sums, telling)


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


@pytest.mark.parametrize(("difference", "word"), [(-0.02, "below"), (0.001, "level with"), (0.02, None)])
def test_against_the_baseline(difference: float, word: str | None) -> None:
    run = run_with({"fused": [0.7]})
    baseline = Baseline(run, Validation(100, {"student": 0.7 - difference}, {}), {}, comparable=True)
    said = advice.against_baseline(run, baseline)
    assert (said is None) == (word is None)
    assert word is None or f"The run is {word} supervised training" in str(said)
    assert advice.against_baseline(run, replace(baseline, comparable=False)) is None


def test_a_student_far_behind_and_a_fused_map_below_one_student() -> None:
    assert "V-Net (0.600) is far below U-Net (0.700)" in str(
        advice.students(run_with({"fused": [0.72], "unet": [0.7], "vnet": [0.6], "sam": [0.1]}))
    )
    assert "U-Net alone (0.740) is better than the fused map (0.720)" in str(
        advice.students(run_with({"fused": [0.72], "unet": [0.74], "vnet": [0.7]}))
    )
    assert advice.students(run_with({"fused": [0.72], "unet": [0.7], "vnet": [0.68]})) is None
    assert advice.students(run_with({"student": [0.72]})) is None


def test_sam_below_the_map_it_is_prompted_with() -> None:
    below = run_with({"fused": [0.72], "sam": [0.70]})
    assert "\N{MINUS SIGN}2.0 points" in str(advice.sam_teacher(below))
    assert "pretrained" in str(advice.sam_teacher(below))
    assert "pretrained" not in str(advice.sam_teacher(replace(below, config=resolve_config({"sam": "vit_b"}))))
    assert advice.sam_teacher(run_with({"fused": [0.72], "sam": [0.74]})) is None


def test_weak_class_and_failed_cases() -> None:
    cases = [case("one", 0.9, 0.3, 0.9), case("two", 0.8, 0.7, 0.8), case("three", 0.2, 0.5, 0.1)]
    assert "class gut (0.500) is far behind the others (0.617" in str(advice.weak_classes(["a", "gut", "b"], cases))
    assert "1 of 3 validation cases is below Dice 0.5 (three): look at it" in str(advice.failed_cases(cases))
    assert advice.failed_cases(cases[:2]) is None
    assert advice.weak_classes(["a"], [case("one", 0.1)]) is None


def test_the_standard_error_is_that_of_the_mean() -> None:
    values = [0.5, 0.7, 0.9]
    # Sample sd .2, over sqrt(3).
    assert "±11.5 points" in str(advice.certainty([case(str(value), value) for value in values]))
    assert np.std(values, ddof=1) / 3**0.5 == pytest.approx(0.1155, abs=1e-4)
    assert advice.certainty([case("a", 0.5)] * 100) is None

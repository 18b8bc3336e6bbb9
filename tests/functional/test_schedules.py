from __future__ import annotations

import math

import pytest

from knowsam.functional.schedules import gaussian_rampup, linear_decay


@pytest.mark.parametrize(
    ("t", "expected"),
    [(-1, math.exp(-5)), (0, math.exp(-5)), (0.5, math.exp(-1.25)), (1, 1), (7, 1)],
)
def test_gaussian_rampup(t: float, expected: float) -> None:
    assert gaussian_rampup(t) == pytest.approx(expected)


def test_linear_decay_without_warmup() -> None:
    factors = [linear_decay(step, 4) for step in range(7)]
    assert factors == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0, 0])


def test_linear_decay_with_warmup() -> None:
    factors = [linear_decay(step, 6, warmup=2) for step in range(8)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize("warmup", [0, 1, 5, 6, 9])
def test_linear_decay_stays_in_range_whatever_the_warmup(warmup: int) -> None:
    factors = [linear_decay(step, 6, warmup) for step in range(9)]
    assert all(0 < f <= 1 for f in factors[:6])
    assert factors[6:] == [0, 0, 0]

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from knowsam.comparison.statistics import bootstrap_interval, over_seeds, paired_differences

NAN = math.nan


def test_over_seeds_is_the_mean_and_the_sample_deviation() -> None:
    found = over_seeds([0.6, 0.7, 0.8])
    assert found.mean == pytest.approx(0.7)
    assert found.sd == pytest.approx(0.1)  # sqrt((.01 + 0 + .01) / 2)
    assert found.seeds == 3


def test_over_seeds_of_one_seed_has_no_deviation_and_of_none_no_mean() -> None:
    assert over_seeds([0.5]).mean == 0.5
    assert math.isnan(over_seeds([0.5]).sd)
    assert math.isnan(over_seeds([]).mean)


def test_over_seeds_is_undefined_as_soon_as_one_seed_is() -> None:
    assert math.isnan(over_seeds([3.0, NAN]).mean)


def test_paired_differences_pair_by_seed_and_case_and_average_over_seeds() -> None:
    with_sam = {0: {"a": 0.9, "b": 0.5}, 1: {"a": 0.7, "b": NAN}, 2: {"a": 0.1}}
    without = {0: {"a": 0.8, "b": 0.6}, 1: {"a": 0.4, "b": 0.2, "c": 0.3}}
    found = paired_differences(with_sam, without)
    # a: (.1 + .3) / 2; b: seed 0 alone, seed 1 undefined; seed 2 and case c have no partner.
    assert found.by_case == {"a": pytest.approx(0.2), "b": pytest.approx(-0.1)}
    assert found.left_out == 1
    assert found.seeds == 2


def test_bootstrap_of_two_cases_by_hand() -> None:
    # The mean of two draws from {0, 1} is 0, 1/2, 1 with chance 1/4, 1/2, 1/4: 95 % reaches both ends, 40 % neither.
    found = bootstrap_interval([0.0, 1.0])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    narrow = bootstrap_interval([0.0, 1.0], level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)
    assert (found.cases, found.groups) == (2, 2)


def test_bootstrap_comes_near_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(0.02, 0.05, 200)
    half = 1.96 * values.std() / math.sqrt(len(values))
    found = bootstrap_interval(list(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_bootstrap_draws_the_cases_of_a_group_together_as_a_naive_restatement_does() -> None:
    values, groups = [0.0, 0.1, 0.4, 0.5, 0.9], ["p1", "p1", "p2", "p2", "p3"]
    generator, members = random.Random(0), {"p1": [0.0, 0.1], "p2": [0.4, 0.5], "p3": [0.9]}
    means = []
    for _ in range(20_000):
        drawn = [value for name in generator.choices(sorted(members), k=3) for value in members[name]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    found = bootstrap_interval(values, groups)
    # The means take few values, each with a chance well off 2.5 %: both must find the same ones.
    assert found.low == pytest.approx(means[500])
    assert found.high == pytest.approx(means[-501])
    assert found.groups == 3
    alone = bootstrap_interval(values)
    assert alone.high - alone.low < found.high - found.low


def test_bootstrap_is_seeded() -> None:
    values = list(np.random.default_rng(1).random(30))
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_bootstrap_of_one_group_has_no_interval() -> None:
    found = bootstrap_interval([0.1, 0.3], ["p", "p"])
    assert found.mean == pytest.approx(0.2)
    assert math.isnan(found.low)
    assert bootstrap_interval([]).cases == 0

"""Statistics of a few seeds and a few dozen cases: spread over seeds, paired differences, bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE_LEVEL = 0.95
DRAWS = 10_000
DRAWS_AT_ONCE = 500


@dataclass(frozen=True)
class OverSeeds:
    """Mean and spread of one number per seed.

    Attributes:
        mean: Mean over seeds; NaN as soon as one seed has no value.
        sd: Standard deviation over seeds (divided by their number - 1); NaN for a single seed.
        seeds: Number of seeds.
    """

    mean: float
    sd: float
    seeds: int


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean and sample standard deviation.

    Args:
        values: One per seed; NaN where undefined, which makes the mean undefined: leaving that seed out would reward a
            method for never finding the object.
    """
    if not values:
        return OverSeeds(math.nan, math.nan, 0)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return OverSeeds(float(np.mean(values)), sd, len(values))


@dataclass(frozen=True)
class Differences:
    """Paired differences by case.

    Attributes:
        by_case: Case -> mean over seeds of (with - without).
        left_out: Number of (seed, case) pairs in which one side is undefined.
        seeds: Number of seeds both sides have.
    """

    by_case: dict[str, float]
    left_out: int
    seeds: int


def paired_differences(
    first: Mapping[int, Mapping[str, float]], second: Mapping[int, Mapping[str, float]]
) -> Differences:
    """`first - second` of the same seed and case, averaged over seeds.

    Args:
        first: Seed -> case -> value, NaN where undefined.
        second: The same of what to compare with.

    Returns:
        Differences over the seeds and cases that both have; a case that is undefined for a seed counts with its others.
    """
    found: dict[str, list[float]] = {}
    left_out = 0
    seeds = [seed for seed in first if seed in second]
    for seed in seeds:
        for case, value in first[seed].items():
            if case not in second[seed]:
                continue
            difference = value - second[seed][case]
            if math.isnan(difference):
                left_out += 1
            else:
                found.setdefault(case, []).append(difference)
    by_case = {case: float(np.mean(differences)) for case, differences in found.items()}
    return Differences(by_case, left_out, len(seeds))


@dataclass(frozen=True)
class Interval:
    """A mean difference and its interval.

    Attributes:
        mean: Mean over cases.
        low: Lower end of the interval, NaN with fewer than two groups.
        high: Its upper end.
        cases: Number of cases.
        groups: Number of groups that were resampled.
    """

    mean: float
    low: float
    high: float
    cases: int
    groups: int


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[str] | None = None,
    level: float = CONFIDENCE_LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean with its percentile bootstrap interval, cases resampled by group.

    All cases of a group (the two volumes of a patient) are drawn together, because they are alike: drawn one by one
    they would make the interval too narrow. Without groups each case is its own. The interval is about other cases,
    not about other trainings.

    Args:
        values: One per case, finite.
        groups: The group of each case, None for one each.
        level: Share of the bootstrap means within the interval.
        draws: Number of bootstrap means.
        seed: Of the drawing.

    Returns:
        Mean and interval; NaN without a case.
    """
    if not len(values):
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    names = [str(position) for position in range(len(values))] if groups is None else list(groups)
    _, member_of = np.unique(names, return_inverse=True)
    # A resample's mean needs only the sum and the size of each group.
    sums, sizes = np.bincount(member_of, weights=values), np.bincount(member_of)
    n = len(sums)
    mean = float(np.mean(values))
    if n < 2:
        return Interval(mean, math.nan, math.nan, len(values), n)
    generator = np.random.default_rng(seed)
    means = []
    for first in range(0, draws, DRAWS_AT_ONCE):
        times = generator.multinomial(n, np.full(n, 1 / n), size=min(DRAWS_AT_ONCE, draws - first))
        means.append((times @ sums) / (times @ sizes))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(values), n)

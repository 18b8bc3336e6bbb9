"""Weights and learning rates over a run, as pure functions of its progress.

`t` is the elapsed share of the run, `step / total`, in [0, 1]; outside it the nearest end counts.
"""

from __future__ import annotations

import math


def gaussian_rampup(t: float) -> float:
    """`exp(-5 (1 - t)^2)`: the consistency weight's ramp-up (docs/method.md, section 5; Laine and Aila, 2017).

    Args:
        t: Elapsed share of the ramp.

    Returns:
        Factor from exp(-5) = 0.0067 at t <= 0 to 1 at t >= 1.
    """
    return math.exp(-5.0 * (1.0 - min(max(t, 0.0), 1.0)) ** 2)


def uncertainty_threshold(t: float, classes: int) -> float:
    """Entropy below which an EMA teacher's prediction is used, rising over the run (UA-MT).

    `(3/4 + 1/4 exp(-5 (1 - t)^2)) log K`: from three quarters of the largest entropy there is to all of it (Yu et
    al., 2019).

    Args:
        t: Elapsed share of the run.
        classes: K, background included.

    Returns:
        Threshold in nats, in (3/4 log K, log K].
    """
    return (0.75 + 0.25 * gaussian_rampup(t)) * math.log(classes)


def linear_decay(step: int, total: int, warmup: int = 0) -> float:
    """Learning-rate factor: linear warm-up, then linear decay to 0 (docs/method.md, section 5).

    Step `s` of the warm-up has the factor `(s + 1) / (warmup + 1)`, so no step is lost to a rate of 0 and
    step `warmup` has the full rate. Without warm-up the factor is `1 - step / total`.

    Args:
        step: Index of the step, from 0.
        total: Number of steps of the run.
        warmup: Number of warm-up steps, counted in `total`.

    Returns:
        Factor in [0, 1]; 0 from step `total` on, never below.
    """
    if step >= total:
        return 0.0
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (total - step) / (total - warmup)

"""Differences of Dice on the same cases, weighed against their spread over the cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowsam.presentation.text import points_text
from knowsam.runs.record import Validation

LARGE = 0.03
"""In Dice; without cases to weigh a difference against, a smaller one counts as none."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """How much better one prediction is than another on the same cases.

    Attributes:
        mean: In Dice.
        error: Standard error of the mean of the paired differences, None where the cases are not known.
        cases: Their number, 0 where they are not known.
    """

    mean: float
    error: float | None = None
    cases: int = 0

    @property
    def clear(self) -> bool:
        """Whether its 95 % interval (Student's t over the cases) leaves 0 out; without cases, whether it is large."""
        if self.error is None:
            return abs(self.mean) > LARGE
        from scipy.stats import t  # late: slow to import

        return abs(self.mean) > float(t.ppf((1 + CONFIDENCE) / 2, self.cases - 1)) * self.error

    @property
    def size(self) -> str:
        """Without its sign: `"2.4 ± 0.8 points"`."""
        return f"{100 * abs(self.mean):.1f}{self._error_text} points"

    def __str__(self) -> str:
        """With its sign: `"+2.4 ± 0.8 points"`."""
        return f"{points_text(self.mean)}{self._error_text} points"

    @property
    def _error_text(self) -> str:
        return "" if self.error is None else f" ± {100 * self.error:.1f}"


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean of `first - second`, Dice of the same cases in the same order, and its standard error."""
    differences = np.subtract(first, second)
    number = len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(number) if number > 1 else None
    return Difference(float(differences.mean()), error, number)


def difference(
    first: Validation, second: Validation, prediction: str | None = None, other: str | None = None
) -> Difference:
    """How much better `first` is than `second`; both validated on the same cases.

    Args:
        first: A validation.
        second: A validation.
        prediction: Which prediction of `first`, by default the one in use.
        other: Which prediction of `second`, by default the one in use.
    """
    prediction, other = prediction or first.used, other or second.used
    cases, others = first.cases.get(prediction, []), second.cases.get(other, [])
    mean = first.dice[prediction] - second.dice[other]
    if len(cases) != len(others) or len(cases) < 2:
        return Difference(mean)
    return Difference(mean, paired(cases, others).error, len(cases))

"""The one exception a user is meant to see, and the end of its sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one sentence: which file, what was found, what was expected, what to do.

    The command line prints the sentence and ends with exit code 2; from Python it is a `ValueError`.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: `"; did you mean 'x'?"`, or a full stop if nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else "."

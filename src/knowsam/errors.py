"""The one exception a user is meant to see."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one sentence: which file, what was found, what was expected, what to do.

    The command line prints the sentence and ends with exit code 2; from Python it is a `ValueError`.
    """

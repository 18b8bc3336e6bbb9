"""The exception for a mistake of the user, and the end of its sentence about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

CUTOFF = 0.5
"""Names that are less alike than this (`difflib`) are not suggested."""


class InputError(ValueError):
    """Bad input, described in one sentence: which file, what was found, what was expected, what to do.

    The command line prints the sentence and ends with exit code 2; from Python it is a `ValueError`.

    Args:
        sentence: It may hold names out of files: their line ends are shown, so that it stays one line.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence.replace("\r", "\\r").replace("\n", "\\n"))


def os_error_sentence(error: OSError, path: object = None) -> str:
    """Return an error of the system, such as a full disk or a closed folder, as one sentence.

    Args:
        error: The error.
        path: What was read or written, where the error does not name it.
    """
    cause = error.strerror or str(error) or type(error).__name__
    return (
        f"{error.filename or path or 'a file'}: could not be read or written ({cause}), but expected to be; free space,"
        " or check the path and its permissions, and repeat the command."
    )


def did_you_mean(
    name: str,
    known: Iterable[str],
    otherwise: str = ".",
    shown: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the end of a sentence about an unknown name: `"; did you mean 'x'?"`.

    Args:
        name: What was found.
        known: What it is compared with; where nothing is near, capital letters are taken for small ones.
        otherwise: The end of the sentence if still nothing is near.
        shown: What to name in place of a known name, one or several; by default the name itself.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=CUTOFF)
    if not near:
        small = {one.lower(): one for one in known}
        near = [small[one] for one in difflib.get_close_matches(name.lower(), small, n=1, cutoff=CUTOFF)]
    if not near:
        return otherwise
    names = [near[0]] if shown is None else shown[near[0]]
    return f"; did you mean {' or '.join(map(repr, names))}?"

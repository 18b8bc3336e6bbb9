"""Numbers and counts as text for a person."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys instead of showing them, but for line ends and tabs; and what turns text round."""

LONGEST_NAME = 60
"""In characters."""


def visible(text: str) -> str:
    r"""Text with `\x1b` for an escape and the like, so that no file name steers a terminal."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str, most: int = LONGEST_NAME) -> str:
    """Text cut where it is longer than a name."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def quoted(text: str) -> str:
    """Text of a file in quotes on one line, cut where it is longer than a name."""
    return repr(shortened(text))


def dice_text(value: float) -> str:
    """Three decimals; a dash where there is no number."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.3f}"


def points_text(difference: float) -> str:
    """A difference of Dice in points of a hundred, with its sign: `"+2.4"`."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def count_text(number: int, noun: str) -> str:
    """`"1 volume"`, `"1,176 images"`, `"2 classes"`."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def count_clause(number: int, noun: str, one: str, many: str) -> str:
    """A counted noun with its verb: `"1 image has no mask"`, `"2 images have no mask"`.

    Args:
        number: How many.
        noun: In the singular.
        one: What follows a single one.
        many: What follows several, and none.
    """
    return f"{count_text(number, noun)} {one if number == 1 else many}"


def duration_text(seconds: float) -> str:
    """`"45 s"`, `"12 min"`, `"3 h 20 min"`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def share_text(share: float) -> str:
    """A share as percent, with as many digits as a small one needs: `"0.07 %"`, `"0.0015 %"`."""
    percent = 100 * share
    if percent == 0:
        return "0 %"
    if percent < 1e-4:
        return "< 0.0001 %"
    if percent < 0.01:
        return f"{percent:.{1 - math.floor(math.log10(percent))}f}".rstrip("0") + " %"
    return f"{percent:.{0 if percent >= 99.95 else 1 if percent >= 1 else 2}f} %"


def first_few(names: Iterable[str], most: int = 3) -> str:
    """The first few names for a message: `"a, b, c and 7 more"`."""
    listed = [shortened(name, 2 * LONGEST_NAME) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def size_text(shape: tuple[int, ...]) -> str:
    """`"256x216"` for `(256, 216)`."""
    return "x".join(str(length) for length in shape)


def size_summary(sizes: Sequence[tuple[int, ...]]) -> str:
    """Range and most frequent of several sizes, in px."""
    counted = Counter(sizes).most_common()
    if len(counted) == 1:
        return f"all {size_text(counted[0][0])}"
    ordered = sorted(counted, key=lambda item: prod(item[0]))
    smallest, largest = ordered[0][0], ordered[-1][0]
    return (
        f"{len(counted)} different, {size_text(smallest)} to {size_text(largest)}, most often "
        f"{size_text(counted[0][0])} ({count_text(counted[0][1], 'time')})"
    )

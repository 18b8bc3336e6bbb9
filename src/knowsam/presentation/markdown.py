"""Markdown: one writer of text, code and tables, in which a name is a name and never markup, HTML or a link."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from knowsam.presentation.text import visible

SPECIAL = re.compile(r"[&<>|`\\]|\](?=[(\[:])")
"""What begins HTML, code or another column, and the bracket that makes a link or a picture of what is before it."""
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Markdown(str):
    """Text that is Markdown already, and is written as it is."""

    __slots__ = ()


def plain(text: object) -> Markdown:
    """Text as Markdown shows it: on one line, without HTML, links, pictures, code or columns of its own."""
    if isinstance(text, Markdown):
        return text
    one_line = visible(" ".join(str(text).splitlines()))
    return Markdown(SPECIAL.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), one_line))


def code(text: object) -> Markdown:
    """Text in the type of code; its backticks become apostrophes, which end nothing."""
    one_line = visible(" ".join(str(text).splitlines())).replace("`", "'")
    return Markdown(f"`{one_line.replace('|', chr(92) + '|')}`")


def table(headings: Sequence[object], rows: Iterable[Iterable[object]], numbers: Collection[int] | None = None) -> str:
    """A table, its cells written as by `plain`, with a line end at its end.

    Args:
        headings: One per column.
        rows: The cells.
        numbers: Indices of the columns at the right; None leaves it to whoever shows it.
    """
    rules = [
        Markdown("---" if numbers is None else "--:" if index in numbers else ":--") for index in range(len(headings))
    ]
    return "".join("| " + " | ".join(map(plain, line)) + " |\n" for line in (headings, rules, *rows))

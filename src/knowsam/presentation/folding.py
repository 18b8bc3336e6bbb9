"""How a table is made to fit a narrow terminal: no column is dropped, names are folded at the borders of words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

WORD_BORDER = re.compile(r"(?<=[\s_\-/.,;:])|(?<=[a-z])(?=[A-Z])")
SPACE = re.compile(r"(?<=\s)(?<!± )")
NARROWEST = 12
"""In characters: words of names and headings are broken only where they are longer, and nothing else helps."""


@dataclass(frozen=True)
class Column:
    """The texts of a column.

    Attributes:
        heading: Its first line; may be a name even above numbers.
        cells: The others.
        is_name: Whether these are names, which may be broken; numbers never are.
    """

    heading: str
    cells: tuple[str, ...]
    is_name: bool

    @property
    def whole(self) -> int:
        """Width with every text in one line, in characters."""
        return max(map(_length, (self.heading, *self.cells)))

    @property
    def words(self) -> int:
        """Least width that breaks no word."""
        return max(_longest_piece(self.heading, True), self._cells())

    @property
    def broken(self) -> int:
        """Least width at all."""
        least = min(NARROWEST, _longest_piece(self.heading, True))
        return max(least, min(NARROWEST, self._cells()) if self.is_name else self._cells())

    def fold(self, width: int) -> Column:
        """Its texts broken into lines, at the borders of words where they fit."""
        return Column(
            fold(self.heading, width, True), tuple(fold(cell, width, self.is_name) for cell in self.cells), self.is_name
        )

    def _cells(self) -> int:
        return max((_longest_piece(cell, self.is_name) for cell in self.cells), default=0)


def fit(columns: Sequence[Column], room: int, between: int) -> list[list[Column]]:
    """Fold columns until they fit beside each other, and put into further blocks what does not.

    Numbers are folded before names, and names before their words are broken. Every block has the columns of names.

    Args:
        columns: From left to right.
        room: In characters.
        between: Of them, what stands between two columns.

    Returns:
        Blocks from top to bottom.
    """
    names = [column for column in columns if column.is_name]
    blocks: list[list[Column]] = []
    block: list[Column] = []
    for column in columns:
        if not column.is_name and len(block) > len(names) and _sum(_least([*block, column]), between) > room:
            blocks.append(block)
            block = list(names)
        block.append(column)
    return [_narrowed(one, room, between) for one in [*blocks, block]]


def _least(columns: Sequence[Column]) -> list[int]:
    return [column.broken for column in columns]


def _narrowed(columns: Sequence[Column], room: int, between: int) -> list[Column]:
    whole = [column.whole for column in columns]
    floors = whole
    for floors in (
        whole,
        [column.whole if column.is_name else column.words for column in columns],
        [column.words if column.is_name else column.whole for column in columns],
        [column.words for column in columns],
        [column.broken if column.is_name else column.words for column in columns],
        _least(columns),
    ):
        if _sum(floors, between) <= room:
            break
    widths = list(whole)
    while _sum(widths, between) > room and widths != floors:
        widest = max((i for i in range(len(widths)) if widths[i] > floors[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    return [column.fold(width) for column, width in zip(columns, widths, strict=True)]


def _sum(widths: Sequence[int], between: int) -> int:
    return sum(widths) + between * (len(widths) - 1)


def fold(text: str, width: int, is_name: bool) -> str:
    """Break a text into lines, at the borders of words where they fit.

    Args:
        text: One line.
        width: In characters of a terminal, on which some letters take two; at least 1.
        is_name: Break behind `_ - / . , ; :` and before a capital too, and within a word where nothing else helps; a
            number only at a space.
    """
    lines = [""]
    for piece in _pieces(text, is_name):
        if lines[-1] and _length((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        for letter in piece:
            if is_name and lines[-1] and not letter.isspace() and _length(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line.rstrip() for line in lines)


def _pieces(text: str, is_name: bool) -> list[str]:
    return (WORD_BORDER if is_name else SPACE).split(text)


def _longest_piece(text: str, is_name: bool) -> int:
    return max(_length(piece.rstrip()) for piece in _pieces(text, is_name))


def _length(text: str) -> int:
    from rich.cells import cell_len  # late, as all of rich

    return cell_len(text)

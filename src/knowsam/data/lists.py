"""The text files of a data folder (`groups.csv`, lists of stems); sorting and grouping by name.

Names are compared as they are; a known image suffix at the end of a listed name is allowed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Container, Iterable
from pathlib import Path
from typing import TypeVar

from knowsam.errors import InputError
from knowsam.io import file_stem
from knowsam.presentation.text import count_clause, first_few, quoted, shortened
from knowsam.storage import plain_cell

Item = TypeVar("Item")


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts `a2` before `a10`."""
    parts = re.split(r"(\d+)", name)
    # By their length first, then digit by digit: `int` refuses very many.
    digits = [part.lstrip("0") if i % 2 else "" for i, part in enumerate(parts)]
    keys = [(len(digits[i]), digits[i]) if i % 2 else (0, part.lower()) for i, part in enumerate(parts)]
    return keys, name


def natural_sorted(names: Iterable[str]) -> list[str]:
    """Names in natural order."""
    return sorted(names, key=natural_key)


def grouped(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    """Items by a name that each of them has; names and items in order of first appearance."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def read_groups(path: Path, known: Collection[str], warnings: list[str]) -> dict[str, tuple[str, str]]:
    """Stem -> (group, volume or "") from `groups.csv`; empty where there is no such file."""
    if not path.is_file():
        return {}
    table: dict[str, tuple[str, str]] = {}
    without_image: list[str] = []
    for number, row in _csv_rows(path):
        stem, group = file_stem(row["stem"].strip()), row["group"].strip()
        if not stem or not group:
            raise InputError(f"{path}: line {number} has an empty stem or group; fill it in or remove the line.")
        value = (group, (row.get("volume") or "").strip())
        if table.setdefault(stem, value) != value:
            raise InputError(
                f"{path}: line {number} gives {shortened(stem)} another group than an earlier line; keep one."
            )
        if stem not in known:
            without_image.append(stem)
    if without_image:
        warnings.append(f"{path}: {len(without_image)} stems have no image ({first_few(without_image)}).")
    without = [stem for stem in known if stem not in table]
    if without:
        said = count_clause(len(without), "image", "is", "are")
        warnings.append(f"{path}: {said} not in it and grouped by name ({first_few(without)}).")
    return table


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            if "stem" not in header or "group" not in header:
                raise InputError(
                    f"{path}: the first line is {quoted(','.join(header))}; expected the header stem,group[,volume]."
                )
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV text file in UTF-8 ({error}).") from error
    return [(number, {key: plain_cell(value or "") for key, value in row.items() if key}) for number, row in rows]


def read_lines(path: Path, names: Container[str] = ()) -> list[tuple[int, str]]:
    """(line number, text) of every line that is neither blank nor a `#` comment.

    Args:
        path: The file.
        names: What a line may name; a name is none the less one for beginning with `#`.

    Raises:
        InputError: The file is missing or not text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a text file, one name a line ({error}).") from error
    stripped = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    return [
        (number, line)
        for number, line in stripped
        if line and (not line.startswith("#") or line in names or file_stem(line) in names)
    ]


def read_list(path: Path, cases: Collection[str], warnings: list[str]) -> list[str] | None:
    """Stems of a list file in its order, or None where there is no such file."""
    if not path.is_file():
        return None
    stems: dict[str, None] = {}
    repeated: list[str] = []
    for number, line in read_lines(path, cases):
        stem = line if line in cases else file_stem(line)
        if stem not in cases:
            raise InputError(
                f"{path}: line {number} names {quoted(line)}, for which there is no image; expected the stem of an "
                "image; add the image or remove the line."
            )
        if stem in stems:
            repeated.append(stem)
        stems[stem] = None
    if not stems:
        raise InputError(f"{path}: the list is empty; expected one stem a line; fill it or remove the file.")
    if repeated:
        warnings.append(f"{path}: {len(repeated)} stems are listed twice and used once ({first_few(repeated)}).")
    return list(stems)

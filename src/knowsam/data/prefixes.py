"""Patients that only the names of images tell: `patient001_000`, `patient001_001`, ... share a prefix.

The prefix of a name is what stands before its last part, where that is a number (`p7_012`, `sub-01_ses-2`, `p7s12`,
`233 (4)`); a slice number (`_slice_03`) is taken off first. Words that name no patient are taken off its end
(`slide3_tile_007` -> `slide3`). Prefixes are taken for groups only when they are asked for (`data.group_by: prefix`);
otherwise they are asked about where they could be patients.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from knowsam.data.lists import grouped
from knowsam.errors import InputError
from knowsam.storage import write_csv

GroupBy = Literal["name", "prefix"]

SLICE_NUMBER = re.compile(r"[_-](slice|sl|z)[_-]?\d+$", re.IGNORECASE)
LAST_NUMBER = re.compile(r"^(.*[^_\-. ])(?:[_\-. ]+\(?[a-z]{0,8}\d+\)?|(?<=\d)[a-z]{1,8}\d+)$", re.IGNORECASE)
PARTS = "slice slices frame frames image images img im tile tiles patch patches crop roi view scan series ses visit no"
SETS = (
    "train training val valid validation test testing data dataset set case cases patient patients subject mask masks "
    "benign malignant normal abnormal positive negative pos neg healthy lesion polyp"
)
PART_AT_END = re.compile(rf"[_\-. ]+(?:{'|'.join(PARTS.split())})$", re.IGNORECASE)
NO_PATIENT = {*PARTS.split(), *SETS.split()}
"""Prefixes that are parts, sets or kinds of images, in small letters."""

ENOUGH = 0.2
"""Share of the images that must share a prefix with others before it is asked about."""


def volume_of(stem: str) -> str:
    """The stem without its trailing slice number: `"p1_slice_03"` -> `"p1"`."""
    return SLICE_NUMBER.sub("", stem)


def prefix_of(volume: str) -> str | None:
    """The prefix of a name, or None where it has none.

    Args:
        volume: A stem without its slice number.
    """
    found = LAST_NUMBER.match(volume)
    return None if found is None else PART_AT_END.sub("", found[1])


def shared_prefixes(groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Prefixes that are probably patients: at least two, each of several groups of today, with enough of the names.

    `benign_3` and `train_7` are kinds and sets, and `img_001`, `img_002`, ... have one prefix, which tells nothing.

    Args:
        groups: Name of each image -> its present group, from which prefixes are taken where it is a name.

    Returns:
        Prefix -> names of its images; empty where prefixes tell nothing.
    """
    prefixes = {name: prefix for name in groups if (prefix := prefix_of(volume_of(name))) is not None}
    found = {
        prefix: names
        for prefix, names in grouped(prefixes, prefixes.__getitem__).items()
        if prefix.rstrip("_-. ").lower() not in NO_PATIENT and len({groups[name] for name in names}) > 1
    }
    enough = sum(map(len, found.values())) >= ENOUGH * len(groups)
    return found if len(found) >= 2 and enough else {}


def write_groups(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write a `groups.csv`, whole or not at all.

    Args:
        path: The file.
        rows: (stem, group, volume).

    Raises:
        InputError: There is one already.
    """
    check_no_groups(path)
    columns = ("stem", "group", "volume")
    write_csv(path, columns, (dict(zip(columns, row, strict=True)) for row in rows))


def parse_group_by(text: str) -> GroupBy:
    """Make sure that a word says what a group is.

    Raises:
        InputError: It does not.
    """
    for known in get_args(GroupBy):
        if text == known:
            return cast("GroupBy", known)
    raise InputError(f"group_by is {text!r}; expected name or prefix.")


def check_no_groups(path: Path) -> None:
    """Make sure that there is no `groups.csv` that could be lost.

    Raises:
        InputError: There is one.
    """
    if path.exists():
        raise InputError(f"{path}: there is a groups.csv already, and it is never overwritten; move it away first.")

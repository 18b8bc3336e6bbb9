"""Labelled, unlabelled, validation and test images: decided once, by name, without opening a file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from knowsam.data.folder import DataFolder
from knowsam.data.lists import grouped, natural_sorted, read_lines
from knowsam.errors import InputError
from knowsam.io import file_stem
from knowsam.presentation.text import quoted
from knowsam.storage import read_json, write_text


@dataclass
class Split:
    """The four sets of one run, as stems.

    Attributes:
        labelled: Training images whose masks are used, in the order of the training list.
        unlabelled: Training images without mask, or with a mask that is hidden: never opened in training.
        val: Validation images, all with masks.
        test: Images of `test.txt`.
    """

    labelled: list[str]
    unlabelled: list[str]
    val: list[str]
    test: list[str]

    def write(self, path: str | Path) -> None:
        """Write the split; the file appears whole or not at all."""
        write_text(Path(path), json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Split:
        """Read what `write` wrote.

        Raises:
            InputError: The file is missing, no JSON, or not a split.
        """
        content = read_json(Path(path), "restore it")
        names = ("labelled", "unlabelled", "val", "test")
        if set(content) != set(names):
            raise InputError(f"{path}: not a split; expected the keys {', '.join(names)}; restore it.")
        for name in names:
            stems = content[name]
            if not isinstance(stems, list) or not all(isinstance(stem, str) for stem in stems):
                raise InputError(f"{path}: {name} is not a list of stems; restore it.")
        return cls(**content)


def make_split(
    folder: DataFolder,
    labelled: int | float | str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    needs_labels: bool = True,
) -> Split:
    """Divide a folder into labelled, unlabelled, validation and test images.

    Training images are those of `train.txt`, else all outside `val.txt` and `test.txt`; `unlabelled/` always
    takes part. Nothing of a validation or test group stays in training.

    Without `val.txt`, `val_fraction` of the training groups that have masks go to validation: rounded, at
    least one if there are two. They are drawn before `labelled` is applied and depend on the seed alone, so
    runs with different numbers of labels are validated on the same images. The exception is a list file:
    groups that it names stay in training as long as others have masks.

    Args:
        folder: What `scan_folder` found.
        labelled: Which training groups with masks keep them, in the order of `train.txt` or else in natural
            order: the first N (int), a share (float in (0, 1], rounded, at least one), a text file that names
            groups or stems, or None for all. All other masks are hidden.
        val_fraction: Share in [0, 1) of the labelled groups for validation; unused where there is `val.txt`.
        seed: Seed of the draw.
        needs_labels: False for a folder that has masks or none, such as a federation's site.

    Returns:
        The split.

    Raises:
        InputError: No labelled image, more groups asked for than there are, a list that names nothing.
    """
    if not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction is {val_fraction}; expected a share from 0 up to, not including, 1.")
    cases = folder.cases
    test = list(folder.test or [])
    training = _training_stems(folder)
    with_mask = _groups_with_masks(folder, training)
    named: set[str] = set()
    if isinstance(labelled, (str, Path)):
        named = _read_names(Path(labelled), folder, training)
    if folder.val is not None:
        val = [stem for stem in folder.val if cases[stem].label is not None]
        if not val:
            raise InputError(f"{folder.root}: no image of the validation list has a mask; add masks or drop it.")
    else:
        keep = {cases[stem].group for stem in named}
        drawn = _draw_groups(with_mask, keep, val_fraction, seed)
        val = [s for s in natural_sorted(training) if cases[s].group in drawn and cases[s].label is not None]
        training = [stem for stem in training if cases[stem].group not in drawn]
        with_mask = [group for group in with_mask if group not in drawn]
    if needs_labels and not with_mask:
        raise InputError(
            f"{folder.root}: no labelled image to train on; expected at least one mask in masks/ whose image "
            "is not held out for validation or test."
        )
    if isinstance(labelled, (str, Path)):
        visible = named
    else:
        visible = _visible_stems(folder, training, with_mask, labelled, has_val=bool(val))
    return Split(
        labelled=[stem for stem in training if stem in visible],
        unlabelled=[stem for stem in training if stem not in visible],
        val=val,
        test=test,
    )


def parse_labelled(text: str) -> int | float | Path:
    """The value of `--labelled`: `"7"` groups, `"0.1"` or `"10%"` of them, or a list file.

    Raises:
        InputError: None of these.
    """
    text = text.strip()
    value: float | None = None
    if re.fullmatch(r"\d+", text):
        if int(text) >= 1:
            return int(text)
    elif match := re.fullmatch(r"(\d*\.?\d+|\d+\.)\s*%", text):
        value = float(match[1]) / 100
    elif re.fullmatch(r"\d*\.\d*(e-?\d+)?", text) and text != ".":
        value = float(text)
    elif Path(text).is_file():
        return Path(text)
    if value is not None and 0 < value <= 1:
        return value
    raise InputError(
        f"labelled is {text!r}; expected a number of groups (7), a share of them (0.1 or 10%), or an "
        "existing text file with one group or stem a line."
    )


def _training_stems(folder: DataFolder) -> list[str]:
    """Stems that training may use, in order, without any validation or test group."""
    held_stems = set(folder.val or []) | set(folder.test or [])
    held_groups = {folder.cases[stem].group for stem in held_stems}
    if folder.train is not None:
        # The scan has reported a group in two lists; here the list decides.
        listed = [stem for stem in folder.train if stem not in held_stems]
        in_list = set(listed)
        extra = [stem for stem in folder.cases if folder.in_unlabelled_folder(stem) and stem not in in_list]
        return listed + [stem for stem in extra if folder.cases[stem].group not in held_groups]
    return [stem for stem, case in folder.cases.items() if case.group not in held_groups]


def _groups_with_masks(folder: DataFolder, stems: Iterable[str]) -> list[str]:
    """Groups of which at least one of these images has a mask, in order of first appearance."""
    first_seen: dict[str, bool] = {}
    for stem in stems:
        case = folder.cases[stem]
        first_seen[case.group] = first_seen.get(case.group, False) or case.label is not None
    return [group for group, has_mask in first_seen.items() if has_mask]


def _draw_groups(groups: list[str], keep: set[str], fraction: float, seed: int) -> set[str]:
    """The groups that go to validation."""
    if fraction == 0 or len(groups) < 2:
        return set()
    pool = natural_sorted(group for group in groups if group not in keep)
    if not pool:
        pool = natural_sorted(groups)
    wanted = min(max(1, _rounded(fraction * len(groups))), len(groups) - 1, len(pool))
    drawn = np.random.default_rng(seed).choice(len(pool), size=wanted, replace=False)
    return {pool[index] for index in drawn}


def _visible_stems(
    folder: DataFolder,
    training: list[str],
    with_mask: list[str],
    labelled: int | float | None,
    has_val: bool,
) -> set[str]:
    """Training stems whose masks are used, by number or share of groups."""
    groups = (
        with_mask if labelled is None else with_mask[: _number_of_groups(folder, labelled, len(with_mask), has_val)]
    )
    chosen = set(groups)
    return {s for s in training if folder.cases[s].label is not None and folder.cases[s].group in chosen}


def _number_of_groups(folder: DataFolder, labelled: int | float, available: int, has_val: bool) -> int:
    if isinstance(labelled, int):
        if not 1 <= labelled <= available:
            aside = " outside validation and test" if has_val or folder.test else ""
            raise InputError(
                f"{folder.root}: {labelled} labelled groups were asked for, and {available} training groups "
                f"have masks{aside}; expected 1 to {available}."
            )
        return labelled
    if not 0 < labelled <= 1:
        raise InputError(f"labelled is {labelled}; a share of the groups must be above 0 and at most 1.")
    return max(1, _rounded(labelled * available))


def _read_names(path: Path, folder: DataFolder, training: list[str]) -> set[str]:
    """The labelled training stems that a list names; a name of both a group and a stem means the group."""
    of_group = grouped(folder.cases, lambda stem: folder.cases[stem].group)
    usable = {stem for stem in training if folder.cases[stem].label is not None}
    stems: set[str] = set()
    for number, line in read_lines(path, of_group.keys() | folder.cases.keys()):
        name = line if line in of_group or line in folder.cases else file_stem(line)
        if name not in of_group and name not in folder.cases:
            raise InputError(
                f"{path}: line {number} names {quoted(line)}, which is neither a group nor the stem of an image; "
                "correct or remove it."
            )
        meant = of_group.get(name, [name])
        if not usable.intersection(meant):
            has_mask = any(folder.cases[stem].label is not None for stem in meant)
            why = "is held out or in no training list" if has_mask else "has no mask"
            raise InputError(f"{path}: line {number} names {quoted(line)}, which {why}; correct or remove it.")
        stems.update(usable.intersection(meant))
    if not stems:
        raise InputError(f"{path}: the list is empty; expected one group or stem a line.")
    return stems


def _rounded(value: float) -> int:
    """Rounded half up: Python's `round` would take 2.5 to 2."""
    return math.floor(value + 0.5)

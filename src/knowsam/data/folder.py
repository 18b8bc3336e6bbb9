"""The files of a data folder, from directory listings alone: no image and no mask is opened.

Two layouts are known.

1. `images/` with `masks/` (or `labels/`), paired by stem; an image without a mask is unlabelled, and
   so is everything in `unlabelled/`. Optional: `groups.csv` (stem,group[,volume]) and `train.txt`,
   `val.txt`, `test.txt` (one stem a line).
   DICOM series may also lie in subfolders (`data/series.py`).
2. SSL4MIS: `data/slices/*.h5` to train on, `data/*.h5` volumes to validate on, with
   `train_slices.list` (or `train.list`), `val.list` and `test.list`; image and mask share a file.

A *group* (usually a patient) is what a split must keep together. A *volume* is what the slices of one
scan are stacked to when scores are computed. Both default to the stem without its slice number; with
`group_by="prefix"`, a group is what shares a prefix (`prefixes.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from knowsam.data.listing import is_hidden, list_folder
from knowsam.data.lists import natural_sorted, read_groups, read_list
from knowsam.data.mask_names import likely_image, shared_rule
from knowsam.data.prefixes import GroupBy, prefix_of, volume_of
from knowsam.data.series import FoundSeries, mask_stem, scan_series, segmentation_warnings
from knowsam.errors import InputError
from knowsam.io import IMAGE_SUFFIXES, file_suffix
from knowsam.presentation.text import count_clause, first_few

LISTS = ("train", "val", "test")
LAYOUT_ADVICE = (
    "expected images/ and masks/ (or labels/) with equal file names, and optionally unlabelled/, "
    "groups.csv, train.txt, val.txt and test.txt"
)


@dataclass(frozen=True)
class Case:
    """One image file and what belongs to it.

    Attributes:
        stem: File name without suffix, unique in the folder.
        image: The image file.
        label: The mask file (the image file itself for HDF5), or None where there is none.
        group: What a split keeps together: patient, acquisition, near-duplicates.
        volume: What its slices are stacked to for scores.
    """

    stem: str
    image: Path
    label: Path | None
    group: str
    volume: str


@dataclass
class DataFolder:
    """A data folder as found.

    Attributes:
        root: The folder.
        cases: Stem -> case, in natural order (`slice_2` before `slice_10`).
        train: Stems of the training list in its order, or None where there is no list.
        val: Stems of the validation list, or None.
        test: Stems of the test list, or None.
        notes: What a person should know about how the folder was understood.
        warnings: What is probably a mistake, but no error.
        leaks: Warnings that say why scores may be too good.
        groups_stated: Whether there is a groups.csv, or groups are taken from prefixes.
        errors: What training stops at, one sentence each; empty after a strict scan.
    """

    root: Path
    cases: dict[str, Case]
    train: list[str] | None
    val: list[str] | None
    test: list[str] | None
    notes: list[str]
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    groups_stated: bool = False

    def in_unlabelled_folder(self, stem: str) -> bool:
        """True for an image that lies in `unlabelled/`."""
        return self.cases[stem].image.is_relative_to(self.root / "unlabelled")

    def labelled_cases(self) -> list[Case]:
        """All cases that have a mask."""
        return [case for case in self.cases.values() if case.label is not None]


def scan_folder(root: str | Path, strict: bool = True, group_by: GroupBy = "name") -> DataFolder:
    """Find the cases, groups and lists of a data folder.

    Args:
        root: A folder in one of the two layouts.
        strict: Raise at a mask without image, a stem in two lists or a group in two lists. Otherwise these go to
            `errors`; such a mask is left out, such a stem or group stays where it is.
        group_by: What is a group where groups.csv does not say it: the name without slice number, or its prefix.

    Returns:
        The folder as found. Its lists are disjoint, and so are the groups on their two sides.

    Raises:
        InputError: No such folder, an unknown layout, no image, a mask without image, two files of one
            stem, a list entry without image, a stem in two lists, a group in two lists.
    """
    folder = _scan(Path(root), group_by)
    if strict and folder.errors:
        raise InputError(folder.errors[0])
    return folder


def _scan(root: Path, group_by: GroupBy) -> DataFolder:
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root}: the data folder {found}; {LAYOUT_ADVICE}.")
    if (root / "images").is_dir():
        return _scan_images_and_masks(root, group_by)
    if (root / "data").is_dir() and (
        (root / "data" / "slices").is_dir() or any((root / f"{name}.list").is_file() for name in LISTS)
    ):
        return _scan_ssl4mis(root)
    raise _unknown_layout(root)


def volume_names(stems: Sequence[str], place: Path) -> dict[str, str]:
    """The volume of each file where there is no data folder to scan: predictions, masks, new images.

    Args:
        stems: Of the files.
        place: Their folder (or one of them); a `groups.csv` there, or in the folder above, states the volumes.

    Returns:
        Stem -> name of its volume: the `volume` column of groups.csv, else the stem without slice number.
    """
    table: dict[str, tuple[str, str]] = {}
    for folder in (place, place.parent):
        if (folder / "groups.csv").is_file():
            # Its warnings are about missing images, and these files need not be all of the data.
            table = read_groups(folder / "groups.csv", stems, [])
            break
    return {stem: table.get(stem, ("", ""))[1] or volume_of(stem) or stem for stem in stems}


def _scan_images_and_masks(root: Path, group_by: GroupBy) -> DataFolder:
    notes: list[str] = []
    warnings: list[str] = []
    series = scan_series(root / "images", root / "unlabelled")
    notes.extend(series.notes)
    warnings.extend(series.warnings)
    images = _list_files(root / "images", warnings, series=series)
    unlabelled = _list_files(root / "unlabelled", warnings, series=series) if (root / "unlabelled").is_dir() else {}
    for stem in images.keys() & unlabelled.keys():
        raise InputError(
            f"{unlabelled[stem]}: the same stem as {images[stem]}; stems must be unique; rename or remove one."
        )
    if not images and not unlabelled:
        raise InputError(f"{root / 'images'}: no image found; expected files ending in {' '.join(IMAGE_SUFFIXES)}.")
    errors: list[str] = []
    masks = _list_masks(root, images, unlabelled, notes, warnings, errors, series)
    warnings.extend(segmentation_warnings(masks[stem] for stem in natural_sorted(masks)))
    known = images | unlabelled
    table = read_groups(root / "groups.csv", known, warnings)
    cases = {}
    for stem in natural_sorted(known):
        group, volume = table.get(stem, ("", ""))
        volume = volume or volume_of(stem)
        if not group:
            by_prefix = prefix_of(volume_of(stem)) if group_by == "prefix" else None
            group = series.groups.get(stem) or by_prefix or volume
        cases[stem] = Case(stem, known[stem], masks.get(stem), group, volume)
    lists = {name: read_list(root / f"{name}.txt", cases, warnings) for name in LISTS}
    folder = DataFolder(root, cases, lists["train"], lists["val"], lists["test"], notes, warnings, errors)
    folder.groups_stated = bool(table) or group_by == "prefix"
    _check_lists(folder, leak_is_error=True)
    _note_participation(folder)
    return folder


def _scan_ssl4mis(root: Path) -> DataFolder:
    notes = ["SSL4MIS layout: image and mask are read from the same HDF5 file."]
    warnings: list[str] = []
    volumes = _list_files(root / "data", warnings, subfolders_expected=True)
    has_slices = (root / "data" / "slices").is_dir()
    slices = _list_files(root / "data" / "slices", warnings) if has_slices else {}
    for stem in slices.keys() & volumes.keys():
        raise InputError(f"{slices[stem]}: the same stem as {volumes[stem]}; stems must be unique; rename one.")
    known = slices | volumes
    if not known:
        raise InputError(f"{root / 'data'}: no .h5 file found; expected slices/*.h5 and volumes *.h5.")
    table = read_groups(root / "groups.csv", known, warnings)
    cases = {}
    for stem in natural_sorted(known):
        group, volume = table.get(stem, ("", ""))
        # By this layout's convention the first part of a name is the patient.
        group = group or stem.split("_")[0]
        cases[stem] = Case(stem, known[stem], known[stem], group, volume or volume_of(stem))
    train_name = "train_slices" if (root / "train_slices.list").is_file() else "train"
    train = read_list(root / f"{train_name}.list", cases, warnings)
    val = read_list(root / "val.list", cases, warnings)
    test = read_list(root / "test.list", cases, warnings)
    if train is None and slices:
        # The volumes hold the same pixels as the slices: they are for validation and test only.
        train = [stem for stem in cases if stem in slices]
        if val is not None or test is not None:
            held = {cases[stem].group for stem in (val or []) + (test or [])}
            train = [stem for stem in train if cases[stem].group not in held]
        used = count_clause(len(train), "file", "of data/slices is", "of data/slices are")
        notes.append(f"No train_slices.list: {used} used for training.")
    folder = DataFolder(root, cases, train, val, test, notes, warnings, groups_stated=True)
    # Here a group is only guessed from the file name, unless groups.csv states it.
    _check_lists(folder, leak_is_error=bool(table))
    _note_participation(folder)
    return folder


def _unknown_layout(root: Path) -> InputError:
    names = sorted(entry.name for entry in os.scandir(root) if not is_hidden(entry.name))
    if not names:
        return InputError(f"{root}: the folder is empty; {LAYOUT_ADVICE}.")
    pictures = [name for name in names if file_suffix(name)]
    if pictures:
        lying = count_clause(len(pictures), "image", "lies", "lie")
        return InputError(
            f"{root}: {lying} directly in the folder ({first_few(pictures, 2)}); "
            f"{LAYOUT_ADVICE}; move them to images/ and their masks to masks/."
        )
    return InputError(f"{root}: no images/ folder found (found: {first_few(names, 5)}); {LAYOUT_ADVICE}.")


def _list_files(
    folder: Path,
    warnings: list[str],
    subfolders_expected: bool = False,
    series: FoundSeries | None = None,
    named_after: dict[str, str] | None = None,
) -> dict[str, Path]:
    """Stem -> file of every readable image of one folder, not of its subfolders except for DICOM series.

    Args:
        folder: Where to look.
        warnings: Where to add what is left aside.
        subfolders_expected: Say nothing of them.
        series: The DICOM series among images.
        named_after: Folder of a series -> stem, among masks.
    """
    files = {} if series is None else series.paths_in(folder)
    found = list_folder(folder, set() if series is None else series.files)
    if series is not None:
        found.subfolders = [
            name for name in found.subfolders if not any(one.is_relative_to(folder / name) for one in series.folders)
        ]
    for path in found.images:
        stem = mask_stem(path, named_after or {})
        if stem in files:
            raise InputError(
                f"{path}: the same stem as {files[stem].name}; stems must be unique; rename or remove one."
            )
        files[stem] = path
    if found.others:
        warnings.append(
            f"{folder}: {count_clause(len(found.others), 'file', 'is', 'are')} of no known image format and left aside "
            f"({first_few(found.others)})."
        )
    if found.subfolders and not subfolders_expected:
        warnings.append(f"{folder}: subfolders are not read ({first_few(found.subfolders)}).")
    return files


def _list_masks(
    root: Path,
    images: dict[str, Path],
    unlabelled: dict[str, Path],
    notes: list[str],
    warnings: list[str],
    errors: list[str],
    series: FoundSeries,
) -> dict[str, Path]:
    """Stem of the image -> mask file; masks without an image become one error."""
    found = [root / name for name in ("masks", "labels") if (root / name).is_dir()]
    if len(found) == 2:
        raise InputError(f"{root}: both masks/ and labels/ exist; expected one of them; remove or rename one.")
    if not found:
        notes.append(f"{root}: neither masks/ nor labels/: no image is labelled.")
        return {}
    masks = _list_files(found[0], warnings, named_after=series.alone_in())
    orphans = natural_sorted(masks.keys() - images.keys())
    if not orphans:
        return masks
    rule = shared_rule(images, orphans) if len(orphans) == len(masks) else None
    if rule is not None:
        notes.append(
            f"{found[0]}: no mask has the name of an image, so all {len(masks)} are paired by one rule: {rule[0]}."
        )
        return {image: masks[mask] for mask, image in rule[1].items()}
    first = orphans[0]
    likely = likely_image(first, images.keys() - masks.keys())
    if first in unlabelled:
        name = unlabelled[first].name
        advice = f"its image is in unlabelled/, where images never have masks: move {name} to images/"
    elif likely is not None:
        advice = (
            f"a mask must have the stem of its image, which seems to be {images[likely].name}: rename it to {likely}"
        )
    else:
        advice = f"add {first} to images/ or remove the mask"
    more = f" ({len(orphans)} such masks)" if len(orphans) > 1 else ""
    errors.append(f"{masks[first]}: a mask for which there is no image in images/{more}; {advice}.")
    return {stem: path for stem, path in masks.items() if stem in images}


def _check_lists(folder: DataFolder, leak_is_error: bool) -> None:
    """Note an error for each stem in two lists, and an error or a warning for groups in two lists."""
    stem_list: dict[str, str] = {}
    group_list: dict[str, str] = {}
    leaks: dict[str, tuple[str, str]] = {}
    for name in LISTS:
        for stem in getattr(folder, name) or []:
            if stem in stem_list:
                first = stem_list[stem]
                folder.errors.append(f"{folder.root}: {stem} is in the {first} and the {name} list; keep one.")
                continue
            stem_list[stem] = name
            group = folder.cases[stem].group
            other = group_list.setdefault(group, name)
            if other != name:
                leaks.setdefault(group, (other, name))
    if not leaks:
        return
    group, (first, second) = next(iter(leaks.items()))
    if leak_is_error:
        folder.errors.append(
            f"{folder.root}: group {group} is in the {first} and the {second} list, which leaks and makes "
            f"scores too good; a group must be in one list ({len(leaks)} such groups); move its images, or "
            "correct groups.csv."
        )
        return
    folder.leaks.append(
        f"{folder.root}: {len(leaks)} groups are in two lists, such as {group} in {first} and {second}: by "
        "their names these are images of the same patient, and scores will be too good; if the names "
        "mislead, state the groups in groups.csv."
    )


def _note_participation(folder: DataFolder) -> None:
    """Note which images no list mentions, and validation images that cannot be scored."""
    listed = {stem for name in LISTS for stem in getattr(folder, name) or []}
    if folder.train is not None:
        outside = [s for s in folder.cases if s not in listed and not folder.in_unlabelled_folder(s)]
        if outside:
            taking = count_clause(len(outside), "image", "is in no list and takes", "are in no list and take")
            folder.notes.append(f"{taking} no part ({first_few(outside)}); unlabelled/ always does.")
    held = {folder.cases[s].group for s in (folder.val or []) + (folder.test or [])}
    shadowed = [
        stem
        for stem, case in folder.cases.items()
        if case.group in held and stem not in listed and (folder.train is None or folder.in_unlabelled_folder(stem))
    ]
    if shadowed:
        folder.notes.append(
            f"{count_clause(len(shadowed), 'image', 'is', 'are')} left out of training, since the group is in the "
            f"validation or test list ({first_few(shadowed)})."
        )
    maskless = [stem for stem in folder.val or [] if folder.cases[stem].label is None]
    if maskless:
        lacking = count_clause(len(maskless), "image", "of the validation list has", "of the validation list have")
        folder.warnings.append(f"{lacking} no mask and cannot be scored ({first_few(maskless)}).")

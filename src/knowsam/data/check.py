"""The doctor: opens every file of a data folder and says all that is wrong with it, not only the first.

Unlike training it opens hidden masks too, so that they can be relied on later; what is wrong with them is a
warning.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knowsam.data.check_report import CheckReport, print_report, size_summary, size_text, spacing_summary
from knowsam.data.labels import LabelCoding, absent_notes, class_counts, infer_coding, value_counts
from knowsam.data.lists import some
from knowsam.data.scan import Case, Folder, scan_folder
from knowsam.data.split import Split, make_split
from knowsam.errors import InputError
from knowsam.io import RASTER, READERS, file_suffix, raster, read_image, read_label
from knowsam.types import MedicalImage, MedicalLabel

__all__ = ["CheckReport", "check_folder", "check_pair", "print_report"]

# classes, label_values, ignore_value
_Wish = tuple[int | Sequence[str] | None, Sequence[int] | None, int | None]

SMALLEST_SIDE = 16
"""px; the students halve an image four times, so anything smaller is a thumbnail or a mistake."""


@dataclass
class _Finding:
    """What one case turned out to be; the arrays are already gone."""

    case: Case
    image_error: str | None = None
    label_error: str | None = None
    size: tuple[int, ...] | None = None
    channels: int = 0
    dtype: str = ""
    spacing_mm: tuple[float, ...] | None = None
    constant: bool = False
    orientation: int = 1
    digest: str = ""
    values: dict[int, int] | None = None
    displaced: bool = False


def check_pair(image: MedicalImage, label: MedicalLabel) -> None:
    """Makes sure that a mask lies on its image.

    Args:
        image: `(H, W, C)` or `(X, Y, Z, C)`.
        label: Expected to be `(H, W)` or `(X, Y, Z)`.

    Raises:
        InputError: The sizes differ.
    """
    expected, found = image.spatial_shape, label.array.shape
    if found == expected:
        return
    advice = "resample it to the image's size with nearest neighbour, or pair the right files"
    if found == expected[::-1]:
        advice = "its axes are swapped: was the image turned by its EXIF orientation, or the mask transposed?"
    raise InputError(
        f"{label.path}: the mask has size {size_text(found)}, its image {image.path.name} "
        f"{size_text(expected)}; expected equal sizes; {advice}."
    )


def check_folder(
    root: str | Path,
    labelled: int | float | str | Path | None = None,
    classes: int | Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Opens every image and mask of a data folder and collects all problems.

    Args:
        root: The data folder.
        labelled: As in `make_split`.
        classes: As in `discover_coding`.
        label_values: As in `discover_coding`.
        ignore_value: As in `discover_coding`.
        val_fraction: As in `make_split`.
        seed: As in `make_split`.
        progress: Called with (files done, files in all) after each case.

    Returns:
        The report. A problem with the data never raises.
    """
    report = CheckReport()
    try:
        folder = scan_folder(root)
    except InputError as error:
        report.errors.append(str(error))
        return report
    report.notes += folder.notes
    report.warnings += folder.warnings
    split: Split | None = None
    try:
        split = make_split(folder, labelled, val_fraction, seed)
    except InputError as error:
        report.errors.append(str(error))
    findings = _examine_all(list(folder.cases.values()), progress)
    _count_cases(report, folder, split)
    _judge_images(report, findings, split)
    _judge_duplicates(report, findings, split)
    _judge_labels(report, findings, split, (classes, label_values, ignore_value))
    return report


def _examine_all(cases: list[Case], progress: Callable[[int, int], None] | None) -> list[_Finding]:
    findings = []
    # Decoding releases the interpreter lock; more threads than this only compete for memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for finding in pool.map(_examine, cases):
            findings.append(finding)
            if progress is not None:
                progress(len(findings), len(cases))
    return findings


def _examine(case: Case) -> _Finding:
    """Opens one image and its mask, if any, and keeps only what the judgement needs."""
    finding = _Finding(case)
    image: MedicalImage | None = None
    try:
        image = read_image(case.image)
        array = image.array
        finding.size, finding.channels, finding.dtype = array.shape[:-1], array.shape[-1], str(array.dtype)
        finding.spacing_mm = image.geometry.spacing_mm
        finding.constant = bool((array == array.flat[0]).all())
        finding.digest = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
        if READERS[file_suffix(case.image) or ""] is RASTER:
            finding.orientation = raster.exif_orientation(case.image)
    except InputError as error:
        finding.image_error = str(error)
    if case.label is None:
        return finding
    try:
        label = read_label(case.label)
        finding.values = value_counts(label.array)
        if image is not None:
            check_pair(image, label)
            finding.displaced = _displaced(image, label)
    except InputError as error:
        finding.label_error = str(error)
    return finding


def _displaced(image: MedicalImage, label: MedicalLabel) -> bool:
    """True where both files have an affine and a mask voxel lies off its image voxel by 0.1 mm or more."""
    first, second = image.geometry.affine, label.geometry.affine
    if first is None or second is None:
        return False
    corners = np.array(list(np.ndindex(*(2,) * 3))) * (np.array((*image.spatial_shape, 1)[:3]) - 1)
    apart = (first - second)[:3] @ np.c_[corners, np.ones(len(corners))].T
    return bool((np.linalg.norm(apart, axis=0) >= 0.1).any())


def _count_cases(report: CheckReport, folder: Folder, split: Split | None) -> None:
    cases = folder.cases
    labelled = folder.labelled_cases()
    report.counts["images"] = len(cases)
    report.counts["with a mask"] = len(labelled)
    report.counts["groups"] = len({case.group for case in cases.values()})
    report.counts["volumes or pictures"] = len({case.volume for case in cases.values()})
    if split is None:
        return
    for name in ("labelled", "unlabelled", "val", "test"):
        stems = getattr(split, name)
        report.counts[f"split: {name}"] = {
            "images": len(stems),
            "groups": len({cases[stem].group for stem in stems}),
        }
    hidden = sum(cases[stem].label is not None for stem in split.unlabelled)
    report.counts["masks hidden from training"] = hidden
    report.counts["images taking no part"] = len(cases) - len(_members(split))
    if not split.unlabelled:
        report.notes.append("No unlabelled image: training will be supervised only.")
    if not split.val:
        report.warnings.append(
            "No validation image: the best checkpoint cannot be chosen; at least two labelled groups, or "
            "val.txt, are needed for it."
        )


def _judge_images(report: CheckReport, findings: list[_Finding], split: Split | None) -> None:
    taking_part = _members(split) if split is not None else {f.case.stem for f in findings}
    for finding in findings:
        if finding.image_error:
            part = finding.case.stem in taking_part
            (report.errors if part else report.warnings).append(finding.image_error)
    read = [finding for finding in findings if finding.size is not None]
    if not read:
        return
    report.counts["sizes"] = size_summary([f.size for f in read if f.size is not None])
    report.counts["channels"] = dict(sorted(Counter(f.channels for f in read).items()))
    report.counts["dtypes"] = dict(Counter(f.dtype for f in read).most_common())
    spacings = [f.spacing_mm for f in read if f.spacing_mm is not None]
    report.counts["spacing"] = spacing_summary(spacings) if spacings else "unknown: distances in px"
    if 0 < len(spacings) < len(read):
        report.warnings.append(
            f"{len(read) - len(spacings)} of {len(read)} images have no known spacing: their distances are "
            f"in px, the others' in mm ({some(f.case.stem for f in read if f.spacing_mm is None)})."
        )
    if len(report.counts["channels"]) > 1:
        report.notes.append("Grey and colour images are mixed.")
    if len({len(f.size) for f in read if f.size is not None}) > 1:
        report.notes.append("Volumes and single slices are mixed.")
    _warn(report, "images are constant, one value everywhere", (f for f in read if f.constant))
    _warn(
        report,
        f"images have a side below {SMALLEST_SIDE} px",
        (f for f in read if f.size is not None and len(f.size) == 2 and min(f.size) < SMALLEST_SIDE),
    )
    _warn(
        report,
        "images carry an EXIF orientation, which is not applied (pixels are used as stored): make sure "
        "that their masks were drawn on the stored pixels",
        (f for f in read if f.orientation != 1),
    )


def _judge_duplicates(report: CheckReport, findings: list[_Finding], split: Split | None) -> None:
    """Warns of identical pixels in different groups; worse if training and validation share them."""
    by_digest: dict[str, list[_Finding]] = {}
    for finding in findings:
        if finding.digest and not finding.constant:
            by_digest.setdefault(finding.digest, []).append(finding)
    copies = [same for same in by_digest.values() if len({f.case.group for f in same}) > 1]
    if not copies:
        return
    first = " = ".join(f.case.stem for f in copies[0][:2])
    report.warnings.append(
        f"{len(copies)} images occur again, pixel for pixel, in another group (such as {first}): give the "
        "copies one group in groups.csv."
    )
    if split is None:
        return
    training, held = set(split.labelled + split.unlabelled), set(split.val + split.test)
    leaks = [same for same in copies if {f.case.stem for f in same} & training and {f.case.stem for f in same} & held]
    if leaks:
        report.warnings.append(
            f"{len(leaks)} of them are both in training and in validation or test: scores will be too good."
        )


def _judge_labels(
    report: CheckReport,
    findings: list[_Finding],
    split: Split | None,
    wish: _Wish,
) -> None:
    seen = _members(split) - set(split.unlabelled) if split is not None else {f.case.stem for f in findings}
    for finding in findings:
        if finding.label_error:
            if finding.case.stem in seen:
                report.errors.append(finding.label_error)
            else:
                report.warnings.append(f"{finding.label_error} (Training does not open this mask.)")
    _warn(
        report,
        "masks lie elsewhere than their images by their affines; they are paired voxel by voxel all the same",
        (finding for finding in findings if finding.displaced),
    )
    readable = [finding for finding in findings if finding.values is not None]
    if not readable or split is None:
        return
    learned, validated = set(split.labelled), set(split.labelled + split.val)
    coding = _infer(report, [f for f in readable if f.case.stem in validated], wish)
    if coding is None:
        return
    for finding in readable:
        _judge_values(report, finding, coding, finding.case.stem in seen)
    total = class_counts((f.values for f in readable if f.values and f.case.stem in learned), coding)
    report.notes += absent_notes(total, coding)
    _count_classes(report, coding, total)
    ignored = {coding.values[0], coding.ignore_value}
    empty = [f for f in readable if f.values is not None and set(f.values) <= ignored]
    report.counts["masks with background only"] = len(empty)
    in_training = sum(f.case.stem in learned for f in empty)
    if learned and in_training > len(learned) / 2:
        report.warnings.append(
            f"{in_training} of {len(learned)} labelled training images show background only: they teach little."
        )


def _infer(
    report: CheckReport,
    findings: list[_Finding],
    wish: _Wish,
) -> LabelCoding | None:
    """The coding training would find; where it finds none, the error is reported and None returned."""
    first_seen: dict[int, Path] = {}
    for finding in findings:
        for value in finding.values or {}:
            if finding.case.label is not None:
                first_seen.setdefault(value, finding.case.label)
    if not first_seen:
        return None
    classes, label_values, ignore_value = wish
    try:
        coding, notes = infer_coding(first_seen, classes, label_values, ignore_value)
    except InputError as error:
        coding_as_wished = None if classes is None and label_values is None else _wished_coding(wish)
        if coding_as_wished is None:
            report.errors.append(str(error))
        return coding_as_wished
    report.notes += notes
    return coding


def _wished_coding(wish: _Wish) -> LabelCoding | None:
    """The coding the given settings mean by themselves: with it every mask that breaks it can be named."""
    try:
        return infer_coding({}, *wish)[0]
    except InputError:
        return None  # The settings contradict each other, which is what the caller's error says.


def _judge_values(report: CheckReport, finding: _Finding, coding: LabelCoding, opened_in_training: bool) -> None:
    assert finding.values is not None
    assert finding.case.label is not None
    problem = coding.problem(finding.case.label, finding.values)
    if problem is None:
        return
    if opened_in_training:
        report.errors.append(problem)
    else:
        report.warnings.append(f"{problem} (Training does not open this mask.)")


def _count_classes(report: CheckReport, coding: LabelCoding, total: np.ndarray) -> None:
    report.counts["classes"] = {
        name: f"mask value {value}" for name, value in zip(coding.names, coding.values, strict=True)
    }
    pixels = int(total.sum())
    report.counts["class shares (labelled)"] = {
        name: round(int(number) / pixels, 4) if pixels else 0.0
        for name, number in zip(coding.names, total, strict=True)
    }


def _members(split: Split) -> set[str]:
    return set(split.labelled + split.unlabelled + split.val + split.test)


def _warn(report: CheckReport, what: str, findings: Iterable[_Finding]) -> None:
    stems = [finding.case.stem for finding in findings]
    if stems:
        report.warnings.append(f"{len(stems)} {what} ({some(stems)}).")

"""The DICOM series of a folder and its subfolders: which are cases, whose they are, and what is left aside and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from knowsam.data.lists import natural_key
from knowsam.errors import InputError
from knowsam.io import case_stem, file_suffix
from knowsam.io.dicom_header import DICOM_SUFFIX, FileHeader, open_dicom
from knowsam.io.dicom_scan import Series, scan_directory
from knowsam.io.dicom_seg import segment_labels
from knowsam.presentation.text import count_text, first_few
from knowsam.storage import write_csv

SERIES_FILE = "series.csv"
COLUMNS = ("stem", "folder", "files", "modality", "series_number", "series_instance_uid")
NAMING_TAGS = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientMotherBirthName", "PatientBirthName",
    "AccessionNumber",
)  # fmt: skip
SHORTEST_NAME = 2
"""Letters from which a part of a name is looked for in the names of folders."""
ASIDE = {
    "localiser": "localiser", "segmentation": "DICOM segmentation", "structure set": "RT structure set",
    "no image": "DICOM file without an image",
}  # fmt: skip


@dataclass
class FoundSeries:
    """What lies in some folders.

    Attributes:
        series: Stem -> series, in the order of folders and files.
        groups: Stem -> patient: `patient_001`, numbered in the order of the series within these folders.
        files: Every file that was looked at as DICOM.
        folders: Every folder that holds such files.
        notes: What was left aside.
        warnings: What is probably not meant.
    """

    series: dict[str, Series] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def paths_in(self, folder: Path) -> dict[str, Path]:
        """Stem -> first file, of the series in a folder and its subfolders."""
        return {stem: one.path for stem, one in self.series.items() if one.path.is_relative_to(folder)}

    def alone_in(self) -> dict[str, str]:
        """Name of a folder that holds a single series -> stem: a mask may be named after the folder."""
        holders: dict[Path, list[str]] = {}
        for stem, one in self.series.items():
            holders.setdefault(one.path.parent, []).append(stem)
        names = Counter(holder.name for holder in holders)
        return {holder.name: stems[0] for holder, stems in holders.items() if len(stems) == 1 == names[holder.name]}


def scan_series(*roots: Path, own: Path | None = None) -> FoundSeries:
    """Find the DICOM series of folders and all their subfolders.

    Args:
        roots: The folders; those that do not exist are passed over.
        own: A folder of outputs, which is passed over.

    Raises:
        InputError: There are DICOM files, and pydicom is not installed; two series have the same name.
    """
    found = FoundSeries()
    patients: dict[str, str] = {}
    aside: Counter[str] = Counter()
    cases: list[FileHeader] = []
    for directory in _directories(roots, own):
        scan = scan_directory(directory)
        if not scan.headers and not scan.unreadable:
            continue
        found.folders.add(directory)
        found.files.update(header.path for header in scan.headers.values())
        found.files.update(scan.unreadable)
        aside.update(ASIDE[header.kind] for header in scan.headers.values() if header.kind in ASIDE)
        for one in scan.series:
            _add(found, one)
            found.groups[one.stem] = patients.setdefault(one.headers[0].patient, f"patient_{len(patients) + 1:03d}")
            cases.append(one.headers[0])
        _note_scan(found, scan.several_orientations, scan.unreadable)
    if aside:
        told = ", ".join(count_text(number, kind) for kind, number in sorted(aside.items()))
        found.notes.append(f"{_names(roots)}: left aside: {told}.")
    _warn(found, cases, _names(roots))
    return found


def mask_stem(path: Path, alone: dict[str, str]) -> str:
    """The name of the case a mask belongs to.

    Args:
        path: The mask file.
        alone: As `FoundSeries.alone_in` gives it: a NIfTI may be named after the folder of its series.
    """
    stem = case_stem(path)
    return alone.get(stem, stem)


def segmentation_warnings(masks: Iterable[Path]) -> list[str]:
    """Say where the same segment number has different labels in different DICOM segmentations."""
    first: dict[int, tuple[str, Path]] = {}
    differing: dict[int, Path] = {}
    for path in masks:
        if file_suffix(path) not in (DICOM_SUFFIX, None):
            continue
        for number, label in segment_labels(path).items():
            if first.setdefault(number, (label, path))[0] != label:
                differing.setdefault(number, path)
    return [
        f"{path}: segment {number} is named otherwise than in {first[number][1].name}, but the number of a segment is"
        " its class here; make sure that each number means the same in all files."
        for number, path in differing.items()
    ]


def write_series_table(paths: Sequence[Path], out: Path, root: Path) -> Path:
    """Write which series each name stands for: `series.csv`, with neither names nor numbers of patients.

    The series' unique identifier is in it, by which a hospital's archive finds the patient: the table stays where the
    images may be.

    Args:
        paths: First file of each series.
        out: Folder to write to.
        root: Folder that was asked for; folders are given relative to it, without what resembles the patient.

    Returns:
        The file.
    """
    rows = []
    for path in paths:
        tags = ["SOPClassUID", "Rows", "SeriesInstanceUID", "SeriesNumber", "Modality", *NAMING_TAGS]
        dataset = open_dicom(path, stop_before_pixels=True, specific_tags=tags)
        secret = _naming_words(str(dataset.get(tag) or "") for tag in NAMING_TAGS)
        folder = path.parent.relative_to(root) if path.is_relative_to(root) else Path()
        stem = case_stem(path)
        series = next(one for one in scan_directory(path.parent).series if one.stem == stem)
        rows.append(
            {
                "stem": stem,
                "folder": "/".join("***" if _resembles(part, secret) else part for part in folder.parts),
                "files": len(series.headers),
                "modality": str(dataset.get("Modality") or ""),
                "series_number": str(dataset.get("SeriesNumber") or ""),
                "series_instance_uid": series.uid,
            }
        )
    write_csv(out / SERIES_FILE, COLUMNS, rows)
    return out / SERIES_FILE


def _directories(roots: Sequence[Path], own: Path | None) -> Iterable[Path]:
    for root in roots:
        for name, inner, _ in os.walk(root):
            inner[:] = sorted((one for one in inner if not one.startswith(".")), key=natural_key)
            if own is None or Path(name).resolve() != own.resolve():
                yield Path(name)


def _add(found: FoundSeries, one: Series) -> None:
    other = found.series.setdefault(one.stem, one)
    if other is not one:
        raise InputError(
            f"{one.path}: the same series as {other.path}, but expected each series in one folder; put all of its files"
            " into one, or remove the copy."
        )


def _note_scan(found: FoundSeries, several: Sequence[Path], unreadable: Sequence[Path]) -> None:
    found.notes.extend(
        f"{path}: its series is left aside: slices of several orientations (a localiser?) are no volume."
        for path in several
    )
    if unreadable:
        found.warnings.append(
            f"{unreadable[0].parent}: {count_text(len(unreadable), 'file')} that should be DICOM cannot be read"
            f" ({first_few(path.name for path in unreadable)}); copy or export them again."
        )


def _warn(found: FoundSeries, cases: Sequence[FileHeader], place: str) -> None:
    tilted = [stem for stem, one in found.series.items() if one.placement is not None and one.placement.sheared]
    if tilted:
        found.warnings.append(
            f"{place}: {count_text(len(tilted), 'volume')} scanned with a tilted gantry ({first_few(tilted)}): read"
            " slice by slice in a sheared geometry, which DICOM-SEG and NIfTI keep; distances across slices are"
            " approximate."
        )
    nameless = [header for header in cases if not header.has_patient_id]
    if nameless:
        found.warnings.append(
            f"{place}: {len(nameless)} of {len(cases)} series have no patient ID: each study counts as a patient; state"
            " in groups.csv which belong together."
        )
    if len(cases) > 1 and not nameless and len(set(found.groups.values())) == 1:
        found.warnings.append(
            f"{place}: all {len(cases)} series have the same patient ID and are read as one patient; if it was put in"
            " on anonymising, state the patients in groups.csv."
        )


def _naming_words(values: Iterable[str]) -> set[str]:
    words = {word for value in values for word in re.split(r"[^a-z0-9]+", value.casefold()) if word}
    return {word for word in words if len(word) >= SHORTEST_NAME}


def _resembles(part: str, words: set[str]) -> bool:
    plain = re.sub(r"[^a-z0-9]+", "", part.casefold())
    return any(word in plain for word in words)


def _names(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots if root.exists())

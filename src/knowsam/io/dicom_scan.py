"""What the files of one directory are and which series they form: DICOM headers only, kept until the files change.

Names are made of unique identifiers alone, hashed: `series_1a2b3c4d5e` for a volume, `image_1a2b3c4d5e` for a picture.
So a case has the same name wherever its files lie, whatever lies beside them, and a DICOM segmentation has the name of
the series it refers to.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from knowsam.errors import InputError
from knowsam.io.dicom_geometry import Doubled, Placement, has_one_orientation, place_slices
from knowsam.io.dicom_header import (
    DICOM_SUFFIX,
    TELLING_APART,
    FileHeader,
    check_there,
    has_mark,
    import_pydicom,
    read_header,
)

STEM_DIGITS = 10
"""Hexadecimal digits of a name: two of ten thousand series have the same by a chance of 1 in 20,000."""


@dataclass(frozen=True)
class Series:
    """The files of one case: a volume, or a single picture.

    Attributes:
        stem: Name of the case.
        path: Its first file by name, which stands for it.
        headers: Its files, by name.
        placement: Order and affine of a volume, None for a picture.
        problem: Why it cannot be read, one sentence; None if it can.
    """

    stem: str
    path: Path
    headers: tuple[FileHeader, ...]
    placement: Placement | None = None
    problem: str | None = None

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.headers[0].series

    @property
    def frames(self) -> list[tuple[FileHeader, int]]:
        """File and frame of every slice, in the order of the files."""
        return [(header, index) for header in self.headers for index in range(len(header.slices))]


@dataclass(frozen=True)
class DirectoryScan:
    """What lies in one directory, not in its subfolders.

    Attributes:
        headers: File name -> what it says; of every file that is DICOM.
        series: What can be cases, in the order of their first files.
        several_orientations: First files of series left aside, because they are no one volume.
        unreadable: Files that should be DICOM and are not.
    """

    headers: dict[str, FileHeader]
    series: tuple[Series, ...]
    several_orientations: tuple[Path, ...]
    unreadable: tuple[Path, ...]


def hashed_stem(kind: Literal["series", "image"], uid: str) -> str:
    """Make the name of a case from its SeriesInstanceUID, or of a picture from its SOPInstanceUID."""
    return f"{kind}_{hashlib.blake2b(uid.encode(), digest_size=16).hexdigest()[:STEM_DIGITS]}"


_lock = threading.Lock()
_scans: dict[Path, tuple[tuple[Any, ...], DirectoryScan]] = {}


def scan_directory(directory: Path) -> DirectoryScan:
    """Read the headers of all DICOM files of a directory and sort them into series.

    Read once: again only when a file was added, removed or changed.

    Raises:
        InputError: There are such files, and pydicom is not installed.
    """
    # Late: the table of suffixes knows this module.
    from knowsam.io import file_suffix

    with os.scandir(directory) as entries:
        files = sorted(
            (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in entries
            if not entry.name.startswith(".") and file_suffix(entry.name) in (None, DICOM_SUFFIX) and entry.is_file()
        )
    with _lock:
        known = _scans.get(directory)
        if known is None or known[0] != tuple(files):
            known = _scans[directory] = tuple(files), _scan(directory, [name for name, *_ in files])
        return known[1]


def known_directories(uid: str) -> list[Path]:
    """List where a series was found when directories were last scanned."""
    with _lock:
        return [place for place, (_, scan) in _scans.items() if any(series.uid == uid for series in scan.series)]


def find_series(path: Path) -> Series:
    """Find the series that a file belongs to, in its directory.

    Raises:
        InputError: It belongs to none: broken, no image, or left aside.
    """
    check_there(path)
    scan = scan_directory(path.parent)
    header = scan.headers.get(path.name)
    if header is None:
        header = read_header(path)  # says what is wrong with it
    for series in scan.series:
        if header in series.headers:
            return series
    raise InputError(_no_case(header))


def _scan(directory: Path, names: list[str]) -> DirectoryScan:
    headers: dict[str, FileHeader] = {}
    unreadable = []
    for name in names:
        path = directory / name
        # `1.2.840.113` and `IM0001` have no suffix that is known: their mark says what they are.
        if not name.lower().endswith(DICOM_SUFFIX) and not has_mark(path):
            continue
        import_pydicom(path)
        try:
            headers[name] = read_header(path)
        except InputError:
            unreadable.append(path)
    found: list[Series] = []
    several = []
    by_series: dict[str, list[FileHeader]] = {}
    for header in headers.values():
        if header.kind == "image":
            by_series.setdefault(header.series, []).append(header)
    for uid, files in by_series.items():
        if not any(header.has_place for header in files):
            found.extend(_picture(header) for header in files)
        elif not has_one_orientation([one for header in files for one in header.slices]):
            several.append(files[0].path)
        else:
            found.append(_volume(uid, files))
    found.sort(key=lambda series: series.path.name)
    return DirectoryScan(headers, tuple(found), tuple(several), tuple(unreadable))


def _picture(header: FileHeader) -> Series:
    problem = None
    if header.is_film:
        problem = (
            f"{header.path}: a film of {len(header.slices)} frames without a place in the patient, but expected one"
            " picture, or a volume; save the frames to use as single pictures."
        )
    return Series(hashed_stem("image", header.instance), header.path, (header,), None, problem)


def _volume(uid: str, files: list[FileHeader]) -> Series:
    stem, path = hashed_stem("series", uid), files[0].path
    headers, problem, placement = tuple(files), None, None
    several_volumes = [header for header in files if len(header.slices) > 1]
    try:
        if several_volumes and len(files) > 1:
            raise InputError(
                f"{path}: {len(files)} files of one series, {several_volumes[0].path.name} with many frames, but"
                " expected one such file in a series; leave one of them in the folder."
            )
        owners = [header for header in files for _ in header.slices]
        placed = place_slices([one for header in files for one in header.slices], path)
        if isinstance(placed, Doubled):
            raise InputError(_doubled(path, owners[placed.first], owners[placed.second]))
        placement = placed
    except InputError as error:
        problem = str(error)
    return Series(stem, path, headers, placement, problem)


def _doubled(path: Path, first: FileHeader, second: FileHeader) -> str:
    if first is not second and first.instance == second.instance:
        return (
            f"{path}: {first.path.name} and {second.path.name} are copies of one slice, but expected one file per"
            " slice; remove one of them."
        )
    where = "two frames" if first is second else f"{first.path.name} and {second.path.name}"
    apart = [
        name
        for name, one, other in zip(TELLING_APART, first.differs, second.differs, strict=True)
        if one != other and first is not second
    ]
    told = f", which differ in {apart[0]}," if apart else ""
    return (
        f"{path}: {where}{told} lie at one position, but expected one slice at each; these are several volumes in one"
        " series (times, echoes, reconstructions): put the files of the one to use into a folder of their own."
    )


def _no_case(header: FileHeader) -> str:
    found = {
        "image": "of a series of several orientations, such as a localiser",
        "localiser": "a localiser",
        "segmentation": "a DICOM segmentation",
        "structure set": "an RT structure set (contours)",
        "no image": "a DICOM file without an image, such as a report or a PDF",
    }[header.kind]
    return f"{header.path}: {found}, but expected slices of one orientation, or a picture; leave it out."

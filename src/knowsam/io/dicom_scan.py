"""What the files of one directory are and which series they form: DICOM headers only, kept until the files change.

Names are made of unique identifiers alone, hashed: `series_1a2b3c4d5e` for a volume, `image_1a2b3c4d5e` for a picture.
So a case has the same name wherever its files lie, whatever lies beside them, and a DICOM segmentation has the name of
the series it refers to. Nothing of the patient is kept but a number that says whose series belong together, and that
is another one in every process.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from knowsam.errors import InputError
from knowsam.io.checks import unreadable
from knowsam.io.dicom_geometry import Doubled, Placement, SlicePlace, has_one_orientation, place_slices

DICOM_SUFFIX = ".dcm"
MARK, MARK_AT = b"DICM", 128
STEM_DIGITS = 10
"""Hexadecimal digits of a name: two of ten thousand series have the same by a chance of 1 in 20,000."""

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
DOSE_CLASS = "1.2.840.10008.5.1.4.1.1.481.2"
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "Rows", "Columns", "NumberOfFrames", "ReferencedSeriesSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "TemporalPositionIdentifier", "EchoNumbers",
    "AcquisitionNumber", "DiffusionBValue", "TriggerTime", "ConvolutionKernel",
]  # fmt: skip
TELLING_APART = (
    "TemporalPositionIdentifier", "EchoNumbers", "DiffusionBValue", "TriggerTime", "ConvolutionKernel",
    "AcquisitionNumber", "ImageType",
)  # fmt: skip
"""What two slices at one position may differ in, the most telling first."""
_SALT = secrets.token_bytes(16)

Kind = Literal["image", "localiser", "segmentation", "structure set", "no image"]


@dataclass(frozen=True)
class FileHeader:
    """What a DICOM file says of itself, without anything that names the patient.

    Attributes:
        path: The file.
        kind: What it is.
        series: SeriesInstanceUID.
        instance: SOPInstanceUID.
        patient: Equal for files of one patient, in this process; of one study where there is no patient ID.
        has_patient_id: False where the file has none.
        slices: Its frames, in the file's order.
        is_film: Several frames, and none of them says where it lies.
        differs: Values of `TELLING_APART`.
        refers_to: Series UIDs, and instance UIDs in them, that a segmentation belongs to.
    """

    path: Path
    kind: Kind
    series: str
    instance: str
    patient: str
    has_patient_id: bool
    slices: tuple[SlicePlace, ...] = ()
    is_film: bool = False
    differs: tuple[str, ...] = ()
    refers_to: dict[str, list[str]] = field(default_factory=dict)

    @property
    def has_place(self) -> bool:
        """True if a frame says where it lies in the patient."""
        return any(one.position is not None or one.orientation is not None for one in self.slices)


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


def has_mark(path: Path) -> bool:
    """Tell whether a file is DICOM by the four letters behind its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(MARK_AT + len(MARK))[MARK_AT:] == MARK
    except OSError:
        return False


def hashed_stem(kind: Literal["series", "image"], uid: str) -> str:
    """Make the name of a case from its SeriesInstanceUID, or of a picture from its SOPInstanceUID."""
    return f"{kind}_{hashlib.blake2b(uid.encode(), digest_size=16).hexdigest()[:STEM_DIGITS]}"


def import_pydicom(path: Path) -> Any:
    """Import pydicom, silenced: its warnings quote what is in the file.

    Raises:
        InputError: It is not installed.
    """
    try:
        import pydicom
    except ModuleNotFoundError as error:
        if error.name != "pydicom":
            raise
        raise InputError(
            f"{path}: a DICOM file, but pydicom is not installed; run pip install 'knowsam[dicom]'."
        ) from error
    for module in ("pydicom", "highdicom"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
    return pydicom


def open_dicom(path: Path, **options: Any) -> Any:
    """Read a DICOM file; no message quotes what is in it.

    Args:
        path: The file.
        options: As of `pydicom.dcmread`.

    Raises:
        InputError: Missing, broken, or no DICOM.
    """
    pydicom = import_pydicom(path)
    try:
        # Some old exports have neither preamble nor mark.
        dataset = pydicom.dcmread(path, force=not has_mark(path), **options)
        if "SOPClassUID" not in dataset and "Rows" not in dataset:
            raise InputError(f"{path}: no DICOM file, whatever its name says; export it again, or remove it.")
    except InputError:
        raise
    except Exception as error:  # the errors of pydicom are of many kinds, and quote values of the patient
        raise InputError(
            f"{path}: a broken or truncated DICOM file ({type(error).__name__}); export or copy it again, or remove it."
        ) from None
    return dataset


_lock = threading.Lock()
_scans: dict[Path, tuple[tuple[Any, ...], DirectoryScan]] = {}


def scan_directory(directory: Path) -> DirectoryScan:
    """Read the headers of all DICOM files of a directory and sort them into series.

    Read once: again only when a file was added, removed or changed.

    Raises:
        InputError: There are such files, and pydicom is not installed.
    """
    with os.scandir(directory) as entries:
        files = sorted(
            (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in entries
            if not entry.name.startswith(".") and entry.is_file()
        )
    with _lock:
        known = _scans.get(directory)
        if known is None or known[0] != tuple(files):
            known = _scans[directory] = tuple(files), _scan(directory, [name for name, *_ in files])
        return known[1]


def find_series(path: Path) -> Series:
    """Find the series that a file belongs to, in its directory.

    Raises:
        InputError: It belongs to none: broken, no image, or left aside.
    """
    _check_there(path)
    scan = scan_directory(path.parent)
    header = scan.headers.get(path.name)
    if header is None:
        header = read_header(path)  # says what is wrong with it
    for series in scan.series:
        if header in series.headers:
            return series
    raise InputError(_no_case(header))


def read_header(path: Path) -> FileHeader:
    """Read what a DICOM file says of itself.

    Raises:
        InputError: Missing, broken, or no DICOM.
    """
    _check_there(path)
    dataset = open_dicom(path, stop_before_pixels=True, specific_tags=TAGS)
    try:
        return _header(dataset, path)
    except InputError:
        raise
    except Exception as error:  # values that are not what their type says, in any of the tags
        raise InputError(
            f"{path}: a DICOM file whose header cannot be read ({type(error).__name__}); export it again, or remove it."
        ) from None


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise unreadable(path, "DICOM file", FileNotFoundError())
    if path.stat().st_size == 0:
        raise unreadable(path, "DICOM file", EOFError())


def places_of(dataset: Any, name: str) -> tuple[SlicePlace, ...]:
    """Where the frames of a file lie, from its functional groups if it has them.

    Args:
        dataset: Read with `TAGS` at least.
        name: For messages.
    """
    size = int(dataset.Rows), int(dataset.Columns)
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        count = int(dataset.get("NumberOfFrames") or 1)
        if count > 1:
            return tuple(SlicePlace(f"{name} frame {i + 1}", size, None, None, None, None) for i in range(count))
        return (_place(name, size, dataset, dataset, dataset),)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]

    def group(frame: Any, keyword: str) -> Any:
        for place in (frame, shared):
            if keyword in place and len(place[keyword].value):
                return place[keyword].value[0]
        return {}

    return tuple(
        _place(
            f"{name} frame {index + 1}", size, group(frame, "PlanePositionSequence"),
            group(frame, "PlaneOrientationSequence"), group(frame, "PixelMeasuresSequence"),
        )
        for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence)
    )  # fmt: skip


def _place(name: str, size: tuple[int, int], position: Any, orientation: Any, measures: Any) -> SlicePlace:
    def numbers(place: Any, keyword: str, count: int) -> tuple[float, ...] | None:
        value = place.get(keyword)
        value = getattr(value, "value", value)
        if value is None or isinstance(value, str) or len(value) != count:
            return None
        return tuple(float(one) for one in value)

    def number(keyword: str) -> float | None:
        value = measures.get(keyword)
        value = getattr(value, "value", value)
        return float(value) if value not in (None, "") and float(value) > 0 else None

    return SlicePlace(
        name,
        size,
        numbers(position, "ImagePositionPatient", 3),
        numbers(orientation, "ImageOrientationPatient", 6),
        numbers(measures, "PixelSpacing", 2),
        number("SpacingBetweenSlices") or number("SliceThickness"),
    )


def _header(dataset: Any, path: Path) -> FileHeader:
    sop_class = str(dataset.get("SOPClassUID", ""))
    image_type = [str(value).upper() for value in _listed(dataset.get("ImageType"))]
    kind: Kind = "image"
    if sop_class in SEGMENTATION_CLASSES:
        kind = "segmentation"
    elif sop_class == STRUCTURE_SET_CLASS:
        kind = "structure set"
    elif not dataset.get("Rows") or not dataset.get("Columns") or sop_class == DOSE_CLASS:
        kind = "no image"
    elif "LOCALIZER" in image_type:
        kind = "localiser"
    patient, study = str(dataset.get("PatientID") or "").strip(), str(dataset.get("StudyInstanceUID") or "")
    identity = f"{dataset.get('IssuerOfPatientID') or ''}\0{patient}" if patient else f"study\0{study}"
    slices = places_of(dataset, path.name) if kind in ("image", "segmentation") else ()
    differs = tuple(str(dataset.get(keyword, "")) for keyword in TELLING_APART)
    header = FileHeader(
        path,
        kind,
        str(dataset.get("SeriesInstanceUID") or dataset.get("SOPInstanceUID") or path.name),
        str(dataset.get("SOPInstanceUID") or path.name),
        hashlib.blake2b(identity.encode(), key=_SALT, digest_size=16).hexdigest(),
        bool(patient),
        slices,
        differs=differs,
        refers_to=_references(dataset) if kind == "segmentation" else {},
    )
    is_film = kind == "image" and len(slices) > 1 and not header.has_place
    return FileHeader(**{**header.__dict__, "is_film": is_film})


def _listed(value: Any) -> Iterable[Any]:
    return () if value is None else [value] if isinstance(value, str) else value


def _references(dataset: Any) -> dict[str, list[str]]:
    return {
        str(item.SeriesInstanceUID): [
            str(one.ReferencedSOPInstanceUID) for one in item.get("ReferencedInstanceSequence") or []
        ]
        for item in dataset.get("ReferencedSeriesSequence") or []
    }


def _scan(directory: Path, names: list[str]) -> DirectoryScan:
    headers: dict[str, FileHeader] = {}
    unreadable = []
    for name in names:
        path = directory / name
        if not is_dicom_name(path):
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


def is_dicom_name(path: Path) -> bool:
    """Tell whether a file of this name is to be read as DICOM: by its suffix, or by its mark where no suffix is known.

    The path's suffix counts as unknown if it is none of an image file: `1.2.840.113` has none.
    """
    from knowsam.io import file_suffix

    suffix = file_suffix(path)
    return suffix == DICOM_SUFFIX or (suffix is None and has_mark(path))


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

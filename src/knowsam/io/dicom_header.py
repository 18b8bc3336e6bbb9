"""One DICOM file: opened without a word of its patient, and what its header says.

Nothing of the patient is kept but a number that says whose files belong together, and that is another one in every
process.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from io import BufferedReader, FileIO
from math import prod
from pathlib import Path
from typing import Any, Literal

from knowsam.errors import InputError
from knowsam.io.checks import check_regular, unreadable
from knowsam.io.dicom_geometry import SlicePlace
from knowsam.io.limits import DEFLATE, VARIABLE, check_promise, check_size, max_pixels

DICOM_SUFFIX = ".dcm"
MARK, MARK_AT = b"DICM", 128
DEFLATED = "1.2.840.10008.1.2.1.99"
PACKED = 1 << 16
"""How many bytes one byte can stand for at most in the compressions of single frames."""
GROUP_LENGTH_ELEMENT, LONGEST_META = 12, 4096
"""Bytes of the first element of a file, and within which it says how it is packed."""
PIECE, BYTES_PER_PIXEL = 1 << 20, 6
"""Bytes unpacked at a time; those of the largest pixels, colour of 16 bit."""
SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
DOSE_CLASS = "1.2.840.10008.5.1.4.1.1.481.2"
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "Rows", "Columns", "NumberOfFrames", "ReferencedSeriesSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "TemporalPositionIdentifier", "EchoNumbers",
    "AcquisitionNumber", "DiffusionBValue", "TriggerTime", "ConvolutionKernel", "BitsAllocated", "SamplesPerPixel",
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


def has_mark(path: Path) -> bool:
    """Tell whether a file is DICOM by the four letters behind its preamble."""
    try:
        if not path.is_file():  # a FIFO would wait for ever
            return False
        with path.open("rb") as file:
            return file.read(MARK_AT + len(MARK))[MARK_AT:] == MARK
    except OSError:
        return False


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


class _Clipped(BufferedReader):
    """A file that is asked for no more than it holds: memory is taken for what is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > PIECE:
            size = min(size, os.fstat(self.fileno()).st_size)
        return super().read(size)


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
        marked = has_mark(path)
        _check_deflated(path)
        with _Clipped(FileIO(path)) as file:
            dataset = pydicom.dcmread(file, force=not marked, **options)
        if not marked and "SOPClassUID" not in dataset:
            raise InputError(f"{path}: no DICOM file, whatever its name says; export it again, or remove it.")
    except InputError:
        raise
    except Exception as error:  # the errors of pydicom are of many kinds, and quote values of the patient
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise unreadable(path, "DICOM file", error) from None
        raise InputError(
            f"{path}: a broken or truncated DICOM file ({type(error).__name__}); export or copy it again, or remove it."
        ) from None
    return dataset


def read_header(path: Path) -> FileHeader:
    """Read what a DICOM file says of itself.

    Raises:
        InputError: Missing, broken, or no DICOM.
    """
    check_there(path)
    dataset = open_dicom(path, stop_before_pixels=True, specific_tags=TAGS)
    try:
        return _header(dataset, path)
    except InputError:
        raise
    except Exception as error:  # values that are not what their type says, in any of the tags
        raise InputError(
            f"{path}: a DICOM file whose header cannot be read ({type(error).__name__}); export it again, or remove it."
        ) from None


def check_there(path: Path) -> None:
    """Raise an `InputError` if there is no such file, or nothing in it."""
    check_regular(path, "DICOM file")
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
    if kind in ("image", "segmentation"):
        _check_size(dataset, path)
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
    return replace(header, is_film=kind == "image" and len(slices) > 1 and not header.has_place)


def _check_size(dataset: Any, path: Path) -> None:
    """Hold rows, columns and frames against the limit and the file, before there is a record of each frame."""
    shape = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    check_size(shape, path)
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    bits = prod(shape) * int(dataset.get("SamplesPerPixel") or 1) * int(dataset.get("BitsAllocated") or 1)
    packed = 1 if syntax is None else DEFLATE if syntax == DEFLATED else PACKED if syntax.is_encapsulated else 1
    check_promise(shape, max(shape[2] / 8 if packed == 1 else shape[2], bits / 8 / packed), path.stat().st_size, path)


def _check_deflated(path: Path) -> None:
    """Refuse a file that is packed as a whole and unpacks, which pydicom does at once, to more than any image."""
    with path.open("rb") as file:
        start = file.read(LONGEST_META)
        if DEFLATED.encode() not in start:
            return
        from pydicom.filereader import read_file_meta_info

        file.seek(MARK_AT + len(MARK) + GROUP_LENGTH_ELEMENT + read_file_meta_info(path).FileMetaInformationGroupLength)
        unpacker, left = zlib.decompressobj(-zlib.MAX_WBITS), BYTES_PER_PIXEL * max_pixels()
        while piece := unpacker.unconsumed_tail or file.read(PIECE):
            left -= len(unpacker.decompress(piece, PIECE))
            if left < 0:
                raise InputError(
                    f"{path}: more is packed in it than an image may have ({VARIABLE}); save it uncompressed."
                )


def _listed(value: Any) -> Iterable[Any]:
    return () if value is None else [value] if isinstance(value, str) else value


def _references(dataset: Any) -> dict[str, list[str]]:
    return {
        str(item.SeriesInstanceUID): [
            str(one.ReferencedSOPInstanceUID) for one in item.get("ReferencedInstanceSequence") or []
        ]
        for item in dataset.get("ReferencedSeriesSequence") or []
    }

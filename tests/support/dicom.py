"""DICOM series that tests write: with all that goes wrong in an archive, and a patient nobody may hear of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence as Items  # noqa: E402
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid  # noqa: E402

NAME, PATIENT_ID, BIRTH_DATE = "Quennel^Zebulon", "MRN7731904", "19471103"
SECRETS = ("quennel", "zebulon", "mrn7731904", "7731904", "19471103", "1947-11-03")
"""What of the patient must be found nowhere, lower case."""

CT, MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
SECONDARY, REPORT, STRUCTURES = (
    "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.481.3",
)  # fmt: skip
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SPACING = (0.75, 0.5)
"""Of rows, then of columns, in mm."""
THICKNESS = 3.0
START = (-12.5, 30.0, 7.25)


def uid_of(name: str) -> UID:
    """The same identifier for the same name."""
    return generate_uid(entropy_srcs=[name])


def make_dataset(sop_class: str, series: str = "a", patient: str = PATIENT_ID, number: int = 1) -> FileDataset:
    """A file without pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid_of(f"{patient} {series} {number}")
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, patient, BIRTH_DATE
    dataset.PatientSex, dataset.AccessionNumber, dataset.StudyID = "O", "ACC1", "1"
    dataset.StudyDate = dataset.SeriesDate = "20240102"
    dataset.StudyTime = "101112"
    dataset.ReferringPhysicianName = NAME
    dataset.StudyInstanceUID = uid_of(f"study of {patient}")
    dataset.SeriesInstanceUID = uid_of(f"series {patient} {series}")
    dataset.FrameOfReferenceUID = uid_of(f"frame {patient}")
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 3, number
    dataset.Manufacturer, dataset.PositionReferenceIndicator = "none", ""
    return dataset


def set_pixels(dataset: Any, pixels: np.ndarray, photometric: str = "MONOCHROME2") -> None:
    """Put in `(H, W)`, `(frames, H, W)` or `(H, W, 3)` integers."""
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3 and photometric in ("RGB", "YBR_FULL")
    dataset.Rows, dataset.Columns = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:]
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()


def make_slices(
    volume: np.ndarray,
    series: str = "a",
    patient: str = PATIENT_ID,
    orientation: Sequence[float] = AXIAL,
    step: Sequence[float] | None = None,
    **tags: Any,
) -> list[FileDataset]:
    """One file per slice, in order along `step` (by default the normal).

    Args:
        volume: `(X, Y, Z)` integers as stored: column, row, slice.
        series: Files of one name are one series.
        patient: PatientID.
        orientation: Six cosines.
        step: From slice to slice in mm.
        tags: Set in every file; None removes one.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    shift = normal * THICKNESS if step is None else np.asarray(step)
    files = []
    for z in range(volume.shape[2]):
        dataset = make_dataset(CT, series, patient, z + 1)
        set_pixels(dataset, np.ascontiguousarray(volume[:, :, z].T))
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient = list(orientation)
        dataset.ImagePositionPatient = [round(float(value), 6) for value in np.array(START) + z * shift]
        dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), THICKNESS
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        files.append(dataset)
    return files


def save(dataset: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_series(
    folder: Path, files: Sequence[Any], name: Callable[[int], str] = lambda index: f"IM{(index * 7) % 101:04d}"
) -> Path:
    """Write the files unsorted, by default without suffix.

    Returns:
        The first file by name.
    """
    return min(save(copy.deepcopy(dataset), folder / name(index)) for index, dataset in enumerate(files))


def make_stored(shape: Sequence[int] = (6, 8, 5), seed: int = 0) -> np.ndarray:
    """Stored values of a CT, int16."""
    return np.random.default_rng(seed).integers(0, 2000, tuple(shape)).astype(np.int16)


def make_enhanced(volume: np.ndarray, slopes: Sequence[float]) -> FileDataset:
    """An enhanced MR file of all slices, the last slice first."""
    dataset = make_dataset(ENHANCED_MR, "enhanced")
    frames = np.ascontiguousarray(volume.transpose(2, 1, 0)[::-1])
    set_pixels(dataset, frames)
    dataset.NumberOfFrames, dataset.ImageType = len(frames), ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), THICKNESS
    orientation.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for index in range(len(frames)):
        z = len(frames) - 1 - index
        frame, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [START[0], START[1], START[2] + z * THICKNESS]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slopes[z], 0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Items([position]), Items([values])
        groups.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Items(groups)
    return dataset


def make_picture(pixels: np.ndarray, photometric: str = "MONOCHROME2", number: int = 1) -> FileDataset:
    """A file without a place in the patient."""
    dataset = make_dataset(SECONDARY, "pictures", number=number)
    del dataset.FrameOfReferenceUID
    dataset.Modality, dataset.ConversionType = "OT", "WSD"
    set_pixels(dataset, pixels, photometric)
    return dataset

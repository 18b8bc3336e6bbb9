"""DICOM segmentations (DICOM-SEG): masks that refer to the series they belong to.

Written: one binary segment per class, one frame per slice and segment, empty ones too, so that the file is complete
without its series. Patient and study are those of the series, as the standard demands: such a file names the patient.

Read: the value of a voxel is the number of its segment. Many programs leave out empty frames; the others are laid on
the series, which must then lie in `images/` beside the folder of the masks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io import nifti
from knowsam.io.checks import whole_numbers
from knowsam.io.dicom_geometry import ORIENTATION_TOLERANCE, Doubled, Placement, SlicePlace, make_header, place_slices
from knowsam.io.dicom_header import FileHeader, import_pydicom, open_dicom, places_of, read_header
from knowsam.io.dicom_scan import Series, find_series, hashed_stem, known_directories, scan_directory
from knowsam.storage import whole_file
from knowsam.types import Geometry, MedicalImage, MedicalLabel

FRACTIONAL = "FRACTIONAL"
LABELMAP = "LABELMAP"
MAKER = "knowsam"
SERIES_NUMBER = 900
"""Of the series that a written segmentation is: high, so that viewers list it behind the images."""
EMPTY = 0
LONGEST_LABEL = 64
ON_GRID = 0.1
"""How far a frame may lie off a slice of its series, in voxels."""


def referred_stem(header: FileHeader) -> str:
    """The name of the case that a mask belongs to.

    Args:
        header: Of a DICOM file among masks.

    Raises:
        InputError: It is no segmentation, or says not what it belongs to.
    """
    _check_kind(header)
    if len(header.refers_to) != 1:
        raise InputError(
            f"{header.path}: a segmentation of {len(header.refers_to)} series, but expected it to refer to one; export"
            " it again with its series."
        )
    (series, instances), *_ = header.refers_to.items()
    if not header.has_place and len(instances) == 1:
        return hashed_stem("image", instances[0])
    return hashed_stem("series", series)


def read_label(path: Path) -> MedicalLabel:
    """Read a segmentation as one label map.

    Args:
        path: A DICOM segmentation with binary segments, or a label map of segments.

    Returns:
        `(X, Y, Z)` int32 in the axes of its series, of a picture `(H, W)`; the numbers of the segments, 0 where there
        is none.

    Raises:
        InputError: Another kind of DICOM file, overlapping or fractional segments, frames that do not fit the series.
    """
    from knowsam.io.dicom import decode

    header = read_header(path)
    _check_kind(header)
    dataset = open_dicom(path)
    kind = str(dataset.get("SegmentationType"))
    if kind == FRACTIONAL:
        raise InputError(f"{path}: fractional segments, but expected binary ones; threshold them and save them again.")
    frames = decode(dataset, path)
    frames = frames.reshape(-1, *frames.shape[-2:])
    places = places_of(dataset, path.name)
    numbers = [None if kind == LABELMAP else _segment_of(dataset, index, path) for index in range(len(frames))]
    if len(places) != len(frames):
        raise InputError(f"{path}: {len(frames)} frames, but places for {len(places)}; export it again.")
    if not header.has_place:
        label = np.zeros(frames.shape[1:], np.int32)
        for frame, number in zip(frames, numbers, strict=True):
            _add(label, frame, number, path)
        return MedicalLabel(whole_numbers(label, path), Geometry(places[0].spacing), path)
    grid, depth, geometry = _grid(header, places, path)
    label = np.zeros((depth, *frames.shape[1:]), np.int32)
    for frame, number, z in zip(frames, numbers, grid, strict=True):
        _add(label[z], frame, number, path)
    return MedicalLabel(whole_numbers(geometry.as_read(label.transpose(2, 1, 0)), path), geometry, path)


def write_label(
    path_without_suffix: Path, label: np.ndarray, like: MedicalImage, class_names: Sequence[str] | None = None
) -> Path:
    """Write a segmentation that refers to every slice of the series of its image.

    Args:
        path_without_suffix: Where to write.
        label: uint8 or uint16 of `like.spatial_shape`.
        like: The image, read from DICOM.
        class_names: Background first; None: `class_1`, `class_2`, ...

    Returns:
        The file, `.dcm`.

    Raises:
        InputError: highdicom is not installed, or the series lacks what a segmentation takes from it.
    """
    import_pydicom(like.path)
    try:
        import highdicom
    except ModuleNotFoundError as error:
        if error.name != "highdicom":
            raise
        raise InputError(
            f"{like.path}: writing DICOM segmentations needs highdicom; run pip install 'knowsam[dicom]'."
        ) from error
    series = find_series(like.path)
    names = list(class_names or ())[1:]
    names += [f"class_{number}" for number in range(len(names) + 1, max(1, int(label.max(initial=0))) + 1)]
    sources = [open_dicom(header.path, stop_before_pixels=True) for header in series.headers]
    frames = label[None] if series.placement is None else like.geometry.as_stored(label).transpose(2, 1, 0)
    if series.placement is not None:
        # From the order along the normal to that of the files.
        frames = frames[np.argsort(series.placement.order)]
    if series.placement is not None and not all(source.get("FrameOfReferenceUID") for source in sources):
        raise InputError(
            f"{like.path}: a series without FrameOfReferenceUID, to which no DICOM segmentation can refer; write NIfTI"
            " instead (format nifti)."
        )
    from knowsam import __version__

    try:
        written = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(frames),
            segmentation_type="BINARY",
            segment_descriptions=[_describe(number, name) for number, name in enumerate(names, start=1)],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=__version__,
            device_serial_number="0",
            omit_empty_frames=False,
            series_description="Segmentation",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{like.path}: no DICOM segmentation can refer to this series, because it lacks what one takes from it"
            f" ({_keyword(error)}); write NIfTI instead (format nifti)."
        ) from None
    if series.placement is not None and len(series.placement.order) == 1:
        # highdicom knows no distance of slices where there is one, and writes 1 mm.
        measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = float(np.linalg.norm(series.placement.affine[:3, 2]))
    path = path_without_suffix.with_name(path_without_suffix.name + ".dcm")
    with whole_file(path) as temporary:
        written.save_as(temporary)
    return path


def find_referred(header: FileHeader) -> Series | None:
    """Find the series a segmentation belongs to: beside it, or in `images/` beside its folder."""
    beside, images = header.path.parent, header.path.parent.parent / "images"
    known = [place for uid in header.refers_to for place in known_directories(uid)]
    known = [place for place in known if place.is_dir() and (place == beside or place.is_relative_to(images))]
    for place in (*known, beside, *(Path(folder) for folder, _, _ in os.walk(images))):
        for series in scan_directory(place).series:
            if series.uid in header.refers_to and series.placement is not None:
                return series
    return None


def segment_labels(path: Path) -> dict[int, str]:
    """Number -> label of every segment, lower case; for comparison, because a label is free text."""
    dataset = open_dicom(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Rows", "SegmentSequence"])
    segments = dataset.get("SegmentSequence") or []
    return {int(one.SegmentNumber): str(one.get("SegmentLabel", "")).strip().lower() for one in segments}


def _check_kind(header: FileHeader) -> None:
    path = header.path
    if header.kind == "structure set":
        raise InputError(
            f"{path}: an RT structure set holds contours, but expected voxels; convert it to a DICOM segmentation or to"
            " NIfTI (3D Slicer: Export; command line: plastimatch convert)."
        )
    if header.kind != "segmentation":
        raise InputError(
            f"{path}: a DICOM file, but no DICOM segmentation; expected masks as DICOM-SEG, or as NIfTI with the name"
            " of the case."
        )


def _segment_of(dataset: Any, frame: int, path: Path) -> int:
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        found: Any = dataset[groups].value[index] if groups in dataset else {}
        if found and found.get("SegmentIdentificationSequence"):
            return int(found.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    raise InputError(f"{path}: frame {frame + 1} says not which segment it shows; export it again.")


def _add(label: np.ndarray, frame: np.ndarray, number: int | None, path: Path) -> None:
    """Put a frame into its slice, in place; without a number it holds the numbers itself."""
    inside = frame != EMPTY
    taken = inside & (label != EMPTY) & (label != (frame if number is None else number))
    if taken.any():
        other = int(label[taken][0])
        raise InputError(
            f"{path}: segments {other} and {number} overlap in {int(taken.sum())} voxels of a slice, but expected one"
            " class per voxel; decide which of them is on top and save it again."
        )
    label[inside] = frame[inside] if number is None else number


def _grid(header: FileHeader, places: Sequence[SlicePlace], path: Path) -> tuple[list[int], int, Geometry]:
    """Slice of every frame, number of slices, and where they lie."""
    from knowsam.io.dicom import geometry_of

    series = find_referred(header)
    if series is not None and series.placement is not None:
        frames = [owner.slices[index] for owner, index in series.frames]
        first = frames[series.placement.order[0]]
        return _slices(series.placement, first, places, path), len(frames), geometry_of(series)
    apart = {tuple(round(value, 3) for value in one.position or ()): one for one in places}
    try:
        own = place_slices(list(apart.values()), path)
    except InputError:
        own = Doubled(0, 0)
    if isinstance(own, Doubled):
        raise InputError(
            f"{path}: a segmentation whose frames make no whole volume, and its series is not in images/ beside its"
            " folder; put the series there, or export the segmentation with its empty frames."
        )
    rows, columns = places[0].size
    shape = columns, rows, len(own.order)
    nifti_header = make_header(own, shape)
    geometry = nifti.geometry_of(nifti_header, nifti_header.get_best_affine(), shape)
    return _slices(own, next(iter(apart.values())), places, path), len(own.order), geometry


def _slices(placement: Placement, first: SlicePlace, places: Sequence[SlicePlace], path: Path) -> list[int]:
    """Index of the slice each frame lies on."""
    to_voxel = np.linalg.inv(placement.affine) @ np.diag((-1.0, -1.0, 1.0, 1.0))
    found = []
    for one in places:
        fits = one.position is not None and one.size == first.size
        fits = fits and np.allclose(one.orientation or 0, first.orientation or 0, atol=ORIENTATION_TOLERANCE)
        fits = fits and np.allclose(one.spacing or 0, first.spacing or 0, rtol=1e-3)
        voxel = to_voxel @ (*(one.position or (np.inf,) * 3), 1.0) if fits else np.full(4, np.inf)
        z = np.rint(voxel[2])
        if not (np.abs(voxel[:3] - (0, 0, z)) <= ON_GRID).all() or not 0 <= z < len(placement.order):
            raise InputError(
                f"{path}: {one.name} lies on no slice of the series it belongs to, but expected the series' own slices;"
                " export it again in the geometry of the series."
            )
        found.append(int(z))
    return found


def _describe(number: int, name: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    from knowsam import __version__

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    # What a class is in the body, only its name says; this is what other programs write of such segments.
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name.replace("\\", "/")[:LONGEST_LABEL],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )


def _keyword(error: Exception) -> str:
    """The DICOM keyword an error is about, or its type: its text may quote the patient."""
    from pydicom.datadict import tag_for_keyword

    words = str(error).replace("'", " ").replace('"', " ").split()
    return next((word for word in words if tag_for_keyword(word) is not None), type(error).__name__)

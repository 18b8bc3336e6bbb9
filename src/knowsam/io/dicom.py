"""DICOM: a file stands for its whole series, read as a volume in the patient, or for a single picture.

A volume, stored as column, row, slice in order along the normal, is turned to `(X, Y, Z, C)` as a NIfTI of it would be.
A file without a place in the patient (radiograph, ultrasound, photograph) is a picture `(H, W, C)`.

| in the file                      | as an image                                                            |
|----------------------------------|------------------------------------------------------------------------|
| rescale slope and intercept      | applied, of each slice its own; integers stay integers (CT: HU)        |
| MONOCHROME1                      | inverted, so that bright is bright                                     |
| RGB, YBR, palette                | RGB of 8 bit; pictures only                                            |
| window, overlays, padding value  | not used                                                               |
| tilted gantry                    | slices as scanned, in a sheared affine                                 |

Masks are DICOM segmentations (`io/dicom_seg.py`). Soft maps are written as NIfTI, of a picture as TIFF and PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knowsam.errors import InputError
from knowsam.io import dicom_seg, nifti, raster
from knowsam.io.checks import check_finite, check_not_empty
from knowsam.io.dicom_geometry import make_header
from knowsam.io.dicom_header import import_pydicom, open_dicom
from knowsam.io.dicom_scan import Series, find_series
from knowsam.io.limits import check_size
from knowsam.types import Geometry, MedicalImage, MedicalLabel


def read_image(path: Path) -> MedicalImage:
    """Read the series that a file belongs to, from all files of its directory.

    Args:
        path: Any file of the series; by custom the first by name.

    Returns:
        `(X, Y, Z, 1)`, or of a picture `(H, W, 1)` or `(H, W, 3)`. Integers where slope and intercept are whole, else
        float32.

    Raises:
        InputError: A file is broken or no image, slices are missing, double or do not fit, or no decoder is installed.
    """
    series = find_series(path)
    if series.problem is not None:
        raise InputError(series.problem)
    if series.placement is None:
        return _read_picture(series)
    array, geometry = _read_volume(series), geometry_of(series)
    check_finite(array, path)
    return MedicalImage(geometry.as_read(array)[..., None], geometry, path)


def read_label(path: Path) -> MedicalLabel:
    """Read a DICOM segmentation; see `knowsam.io.dicom_seg.read_label`."""
    return dicom_seg.read_label(path)


def write_label(
    path_without_suffix: Path, label: np.ndarray, like: MedicalImage, class_names: Sequence[str] | None = None
) -> Path:
    """Write a DICOM segmentation that refers to the series; see `knowsam.io.dicom_seg.write_label`."""
    return dicom_seg.write_label(path_without_suffix, label, like, class_names)


def write_probabilities(path_without_suffix: Path, probs: np.ndarray, like: MedicalImage) -> Path:
    """Write `(K, *spatial)` float32 as a 4-D NIfTI, of a picture as a TIFF: DICOM has no such format of 32 bits."""
    return (nifti if like.is_volume else raster).write_probabilities(path_without_suffix, probs, like)


def write_map(path_without_suffix: Path, values: np.ndarray, like: MedicalImage) -> Path:
    """Write float32 of `like.spatial_shape` as NIfTI, of a picture as a grey PNG."""
    return (nifti if like.is_volume else raster).write_map(path_without_suffix, values, like)


def geometry_of(series: Series) -> Geometry:
    """Say where the voxels of a volume lie and how it is turned, with a NIfTI header of the volume as stored."""
    assert series.placement is not None
    rows, columns = series.headers[0].slices[0].size
    shape = columns, rows, len(series.placement.order)
    header = make_header(series.placement, shape)
    return nifti.geometry_of(header, header.get_best_affine(), shape)


def decode(dataset: Any, path: Path) -> np.ndarray:
    """Decode the pixels of a file, as stored.

    Returns:
        `(H, W)`, `(frames, H, W)`, or with a last axis of 3 for colour, which is RGB.

    Raises:
        InputError: No decoder is installed for its compression, or the pixels are broken.
    """
    pydicom = import_pydicom(path)
    from pydicom.pixels import get_decoder, pixel_array

    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax is None:
        # A file without this entry is in DICOM's default, or was read as such.
        dataset.file_meta = meta or pydicom.dataset.FileMetaDataset()
        syntax = dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian
        )
    how_to = "run pip install 'pylibjpeg[all]', or save the series uncompressed"
    try:
        usable = get_decoder(syntax).is_available
    except NotImplementedError:
        raise InputError(
            f"{path}: pixels compressed in a way that is not known here ({syntax.name}); save the series uncompressed."
        ) from None
    if not usable:
        raise InputError(f"{path}: {syntax.name} compression, for which no decoder is installed; {how_to}.")
    try:
        return pixel_array(dataset)
    except Exception as error:  # every decoder has errors of its own
        if syntax.is_encapsulated:
            raise InputError(
                f"{path}: its pixels ({syntax.name}) are broken, or too much for the decoders installed"
                f" ({type(error).__name__}); {how_to}."
            ) from None
        raise InputError(
            f"{path}: its pixels are broken or truncated ({type(error).__name__}); export or copy it again."
        ) from None


def _read_picture(series: Series) -> MedicalImage:
    path, place = series.path, series.headers[0].slices[0]
    dataset = open_dicom(path)
    stored = decode(dataset, path)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        # Colour of 16 bit, palettes above all, has the values of 8 bit in its upper half.
        array = stored if stored.dtype == np.uint8 else (stored >> 8 * (stored.dtype.itemsize - 1)).astype(np.uint8)
    else:
        array = _in_units([_bright_is_bright(stored, dataset)], [_scale(dataset)])[0][..., None]
    check_not_empty(array, path)
    check_finite(array, path)
    return MedicalImage(np.ascontiguousarray(array), Geometry(place.spacing), path)


def _read_volume(series: Series) -> np.ndarray:
    """All slices in order, `(X, Y, Z)`."""
    assert series.placement is not None
    check_size((*series.headers[0].slices[0].size, len(series.placement.order)), series.path)
    frames: list[np.ndarray] = []
    scales: list[Scale | None] = []
    for header in series.headers:
        dataset = open_dicom(header.path)
        if int(dataset.get("SamplesPerPixel", 1)) != 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            raise InputError(f"{header.path}: a slice in colour, but expected a grey volume; leave this series out.")
        stored = _bright_is_bright(decode(dataset, header.path), dataset)
        stored = stored.reshape(-1, *stored.shape[-2:])
        frames.extend(stored)
        scales.extend(_scale(dataset, index) for index in range(len(stored)))
    order = series.placement.order
    if len(frames) != len(order):
        raise InputError(
            f"{series.path}: {len(frames)} frames of pixels, but places for {len(order)}; export the series again."
        )
    if len({scale is None for scale in scales}) > 1 or len({scale.unit for scale in scales if scale}) > 1:
        raise InputError(
            f"{series.path}: its slices are not all rescaled to one unit, but expected one, because values of different"
            " units make no volume; export the series again."
        )
    stack = _in_units([frames[index] for index in order], [scales[index] for index in order])
    return np.ascontiguousarray(stack.transpose(2, 1, 0))


class Scale(NamedTuple):
    """From stored values to the unit of the modality.

    Attributes:
        slope: Factor.
        intercept: What is added then.
        unit: RescaleType, `""` where it is not given.
    """

    slope: float
    intercept: float
    unit: str


def _scale(dataset: Any, frame: int = 0) -> Scale | None:
    """The rescaling of one frame: of the file, or in its functional groups."""
    place = dataset
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        found: Any = dataset[groups].value[index] if groups in dataset else {}
        if found and found.get("PixelValueTransformationSequence"):
            place = found.PixelValueTransformationSequence[0]
            break
    slope, intercept = place.get("RescaleSlope"), place.get("RescaleIntercept")
    if slope is None and intercept is None:
        return None
    return Scale(float(1 if slope is None else slope), float(intercept or 0), str(place.get("RescaleType") or ""))


def _bright_is_bright(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Stored values, those of MONOCHROME1 inverted within the bits that are used."""
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        stored = apply_modality_lut(stored, dataset)
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        return stored
    if stored.dtype.kind == "u":
        bits = min(int(dataset.get("BitsStored", 8 * stored.dtype.itemsize)), 8 * stored.dtype.itemsize)
        return np.asarray(stored.dtype.type(2**bits - 1) - stored)
    return np.asarray(-1 - stored, dtype=stored.dtype)


def _in_units(frames: list[np.ndarray], scales: list[Scale | None]) -> np.ndarray:
    """Frames in order, `(N, H, W)`, each scaled by its own slope and intercept."""
    given = [scale or Scale(1.0, 0.0, "") for scale in scales]
    if all(scale[:2] == (1.0, 0.0) for scale in given):
        return np.stack(frames)
    if all(scale.slope == 1 and scale.intercept.is_integer() for scale in given) and frames[0].dtype.kind in "iu":
        whole = np.stack(
            [frame.astype(np.int32) + int(scale.intercept) for frame, scale in zip(frames, given, strict=True)]
        )
        limits = np.iinfo(np.int16)
        return whole.astype(np.int16) if limits.min <= whole.min() and whole.max() <= limits.max else whole
    factors = [(np.float32(scale.slope), np.float32(scale.intercept)) for scale in given]
    scaled = [frame * slope + intercept for frame, (slope, intercept) in zip(frames, factors, strict=True)]
    return np.stack(scaled).astype(np.float32)

"""NIfTI volumes (`.nii`, `.nii.gz`), NIfTI-1 and NIfTI-2.

Arrays stay in file order `(X, Y, Z)`; nothing is reoriented, so what is written fits the input voxel for
voxel.

A 2-D NIfTI `(X, Y)` is a picture with one channel, `(X, Y, 1)`, and its two spacings: it has no axis to cut
along. A 4-D one with a single time point loses that axis; written back, it has it again.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io.checks import check_finite, check_not_empty, unreadable, whole_numbers
from knowsam.io.limits import check_size
from knowsam.io.names import add_suffix
from knowsam.storage import whole_file
from knowsam.types import Geometry, MedicalImage, MedicalLabel

MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
"""NIfTI's `xyzt_units`; files that leave it unset are in mm by custom."""


def read_image(path: Path) -> MedicalImage:
    """Read a NIfTI image.

    Args:
        path: A `.nii` or `.nii.gz` file.

    Returns:
        `(X, Y, Z, 1)`, or `(X, Y, 1)` for a 2-D file. Integers where the file stores integers without
        scaling, else float32 with slope and intercept applied.

    Raises:
        InputError: Broken file, several time points or colours, NaN or infinite values.
    """
    array, geometry = _read(path)
    check_not_empty(array, path)
    check_finite(array, path)
    return MedicalImage(array[..., None], geometry, path)


def read_label(path: Path) -> MedicalLabel:
    """Read a NIfTI label map.

    Args:
        path: A `.nii` or `.nii.gz` file.

    Returns:
        `(X, Y, Z)` int32, or `(X, Y)` for a 2-D file.

    Raises:
        InputError: As `read_image`, or values that are not whole numbers.
    """
    array, geometry = _read(path)
    return MedicalLabel(whole_numbers(array, path), geometry, path)


def write_label(path_without_suffix: Path, label: np.ndarray, like: MedicalImage) -> Path:
    """Write a label map with the shape, affine, codes and header of its image.

    Args:
        path_without_suffix: Where to write.
        label: uint8 or uint16 of `like.spatial_shape`.
        like: The NIfTI image.

    Returns:
        The file, `.nii` or `.nii.gz` as the input was.
    """
    shape = like.geometry.header.get_data_shape()
    return _write(path_without_suffix, label.reshape(shape), like)


def write_probabilities(path_without_suffix: Path, probs: np.ndarray, like: MedicalImage) -> Path:
    """Write `(K, X, Y, Z)` float32 as a 4-D NIfTI `(X, Y, Z, K)` in the space of its image.

    Args:
        path_without_suffix: Where to write.
        probs: `(K, *spatial)` float32.
        like: The NIfTI image; a 2-D one gives `(X, Y, 1, K)`.

    Returns:
        The file, `.nii` or `.nii.gz` as the input was.
    """
    class_last = np.moveaxis(probs, 0, -1)
    if not like.is_volume:
        class_last = class_last[:, :, None, :]
    return _write(path_without_suffix, class_last, like)


def write_map(path_without_suffix: Path, values: np.ndarray, like: MedicalImage) -> Path:
    """Write float32 of `like.spatial_shape` with the shape, affine, codes and header of its image."""
    return write_label(path_without_suffix, values, like)


def largest_spacing_axis(spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> int:
    """The axis slices are cut along: the one of largest spacing, the last of equals.

    A volume one voxel thick is one slice whatever its spacing says: its only axis of length 1 wins.

    Args:
        spacing_mm: Spacing of each axis; a difference below 0.1 % is rounding in a header, not anisotropy.
        shape: Length of each axis.
    """
    thin = [axis for axis, length in enumerate(shape) if length == 1]
    if len(thin) == 1:
        return thin[0]
    largest = max(spacing_mm)
    return max(axis for axis, spacing in enumerate(spacing_mm) if spacing >= largest * 0.999)


def _read(path: Path) -> tuple[np.ndarray, Geometry]:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image: Any = nib.load(path)
        header = image.header.copy()
        shape, proxy = tuple(image.shape), image.dataobj
        dtype = header.get_data_dtype()
        wanted_axes = 2 if len(shape) == 2 else 3
        if any(length != 1 for length in shape[wanted_axes:]) or len(shape) < 2 or dtype.kind not in "uif":
            raise InputError(
                f"{path}: a NIfTI of shape {shape} and dtype {dtype}; expected one grey volume (X, Y, Z); "
                "split time points or channels into files of their own."
            )
        check_size(shape[:wanted_axes], path)
        scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
        raw = np.asarray(proxy) if scaled else np.asarray(proxy.get_unscaled())
    except InputError:
        raise
    except (OSError, EOFError, ValueError, TypeError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise unreadable(path, "NIfTI file", error) from error
    keep_integers = raw.dtype.kind in "ui" and not scaled
    # Native byte order: torch takes no other.
    array = raw.astype(raw.dtype.newbyteorder("=") if keep_integers else np.float32, copy=False)
    array = array.reshape(shape[:wanted_axes])
    return array, geometry_of(header, image.affine, array.shape)


def geometry_of(header: Any, affine: np.ndarray, shape: tuple[int, ...]) -> Geometry:
    """What a NIfTI header says of an array's place.

    Args:
        header: Its zooms are the spacing.
        affine: `(4, 4)`.
        shape: Of the array, two or three axes.
    """
    factor = MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    zooms = tuple(float(zoom) * factor for zoom in header.get_zooms()[: len(shape)])
    # Some writers leave NaN: then distances are in px, and the unit says so. nibabel itself turns 0 into 1.
    known = all(np.isfinite(zoom) and zoom > 0 for zoom in zooms)
    axis = largest_spacing_axis(zooms if known else (1.0,) * len(shape), shape) if len(shape) == 3 else 0
    return Geometry(zooms if known else None, axis, np.array(affine, dtype=np.float64), header)


def _write(path_without_suffix: Path, array: np.ndarray, like: MedicalImage) -> Path:
    import nibabel as nib
    from nibabel.nifti2 import Nifti2Header

    header = like.geometry.header.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(None, None)
    # The display window belongs to the image's intensities: kept, it would show the labels as black.
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, Nifti2Header) else nib.Nifti1Image
    # No affine is given, so that the header's own sform and qform and their codes stay as they are.
    image = kind(np.ascontiguousarray(array), None, header)
    # Of a DICOM series, whose soft maps are written here, the shorter file.
    suffix = ".nii" if like.path.name.lower().endswith(".nii") else ".nii.gz"
    path = add_suffix(path_without_suffix, suffix)
    with whole_file(path) as temporary:
        nib.save(image, temporary)
    return path

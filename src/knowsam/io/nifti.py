"""NIfTI volumes (`.nii`, `.nii.gz`), NIfTI-1 and NIfTI-2.

Arrays are brought to the closest canonical orientation, axes towards right, anterior, superior (RAS), so that a volume
means the same whatever the order it is stored in. What is written is stored as the input was: the same order of
voxels, affine and header codes. A file without qform and sform code does not say how it lies and stays as stored.

Of the two affines of a file the sform counts, else the qform; the spacing is that of the affine. `Geometry.doubt` says
where the header contradicts itself.

A 2-D NIfTI `(X, Y)` is a picture with one channel, `(X, Y, 1)`, and its two spacings: it has no axis to cut
along; its two axes are put in order among themselves. A 4-D one with a single time point loses that axis; written back,
it has it again.
"""

from __future__ import annotations

import gzip
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io.checks import check_finite, check_not_empty, unreadable, whole_numbers
from knowsam.io.limits import DEFLATE, check_promise, check_size
from knowsam.io.names import add_suffix
from knowsam.storage import whole_file
from knowsam.types import Geometry, MedicalImage, MedicalLabel, Turn

DOUBTFUL = 0.01
"""Two parts of a header that differ by more than this share contradict each other."""

TURNED = 0.1
"""mm a voxel; qform and sform that differ by more turn the volume differently."""

SAME_SPACING = 1e-3
"""Below this share, float32 headers differ by rounding: then pixdim has the rounder number."""

MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
"""NIfTI's `xyzt_units`; files that leave it unset are in mm by custom."""

KIND = "NIfTI file"
FIRST_BYTES = 540
"""What tells the versions of the format apart."""

HEADER_BYTES = 1 << 26
"""Most that a header takes with its extensions, which say themselves how long they are."""

PIECE, REST_BYTES = 1 << 20, 1 << 20
"""Bytes read at a time of what lies behind the voxels; so many of them are accepted beside the volume's own size."""


def read_image(path: Path) -> MedicalImage:
    """Read a NIfTI image.

    Args:
        path: A `.nii` or `.nii.gz` file.

    Returns:
        `(X, Y, Z, 1)`, or `(X, Y, 1)` for a 2-D file, canonical. Integers where the file stores integers without
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
        `(X, Y, Z)` int32, or `(X, Y)` for a 2-D file, canonical.

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
    return _write(path_without_suffix, like.geometry.as_stored(label).reshape(shape), like)


def write_probabilities(path_without_suffix: Path, probs: np.ndarray, like: MedicalImage) -> Path:
    """Write `(K, X, Y, Z)` float32 as a 4-D NIfTI `(X, Y, Z, K)` in the space of its image.

    Args:
        path_without_suffix: Where to write.
        probs: `(K, *spatial)` float32.
        like: The NIfTI image; a 2-D one gives `(X, Y, 1, K)`.

    Returns:
        The file, `.nii` or `.nii.gz` as the input was.
    """
    class_last = np.moveaxis(like.geometry.as_stored(probs, first=1), 0, -1)
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
    try:
        with _open(path) as stream:
            with _SAID.listening() as said:
                header, affine, raw, scaled = _read_stream(stream, path)
            _check_rest(stream, path, raw.nbytes)
    except InputError:
        raise
    except Exception as error:  # nibabel stumbles over broken headers in many ways
        raise unreadable(path, KIND, error) from error
    keep_integers = raw.dtype.kind in "ui" and not scaled
    # Native byte order: torch takes no other.
    shape = tuple(header.get_data_shape())
    # Too large for float32 is infinite, which is refused; an affine of such numbers says nothing.
    with np.errstate(over="ignore", invalid="ignore"):
        array = raw.astype(raw.dtype.newbyteorder("=") if keep_integers else np.float32, copy=False)
        array = array.reshape(shape[: _spatial_axes(shape)])
        geometry = geometry_of(header, affine, array.shape)
    if not geometry.doubt and (codes := [text for text in said if "form_code" in text]):
        geometry = replace(geometry, doubt=f"has a broken header ({codes[0]})")
    return geometry.as_read(array), geometry


_FIRST_IMPORT = threading.Lock()


class _Said(logging.Filter):
    """What nibabel says of a header while this thread reads it, kept from the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        said: list[str] | None = getattr(self.local, "said", None)
        if said is not None:
            said.append(record.getMessage())
        return said is None

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        # Its modules import each other: two threads that begin at once may find one of them half made.
        with _FIRST_IMPORT:
            from nibabel.imageglobals import logger

        logger.addFilter(self)
        said: list[str] = []
        self.local.said = said
        try:
            yield said
        finally:
            self.local.said = None


_SAID = _Said()


def _open(path: Path) -> Any:
    """The content of a file, unpacked; its end is checked when that is read."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


class _HeaderStream:
    """The beginning of a file, as far as a header reaches."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.left, self.tell = stream, HEADER_BYTES, stream.tell

    def read(self, size: int) -> bytes:
        """So many bytes, or as many as there are.

        Raises:
            ValueError: That is more than a header has, or less than nothing, which would be all.
        """
        if not 0 <= size <= self.left:
            raise ValueError(f"an extension of its header of {size:,} bytes")
        self.left -= size
        content: bytes = self.stream.read(size)
        return content


def _read_stream(stream: Any, path: Path) -> tuple[Any, np.ndarray, np.ndarray, bool]:
    """Header, affine, array as stored (with slope and intercept applied where there are any), and whether there are."""
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    start = stream.read(FIRST_BYTES)
    header_class = next((one for one in (Nifti1Header, Nifti2Header) if one.may_contain_header(start)), None)
    if header_class is None:
        raise ValueError("no NIfTI header at its beginning")
    stream.seek(0)
    header: Any = header_class.from_fileobj(_HeaderStream(stream))
    shape, dtype = tuple(header.get_data_shape()), header.get_data_dtype()
    axes = _spatial_axes(shape)
    if any(length != 1 for length in shape[axes:]) or len(shape) < 2 or dtype.kind not in "uif":
        raise InputError(
            f"{path}: a NIfTI of shape {shape} and dtype {dtype}; expected one grey volume (X, Y, Z); "
            "split time points or channels into files of their own."
        )
    if min(shape) < 0:
        raise ValueError(f"a shape of {shape}")
    packed = DEFLATE if isinstance(stream, gzip.GzipFile) else 1
    needed = header.get_data_offset() + prod(map(int, shape)) * dtype.itemsize
    check_promise(shape[:axes], needed / packed, path.stat().st_size, path)
    check_size(shape[:axes], path)
    proxy = ArrayProxy(stream, header.copy(), mmap=False)  # a mapped file that is cut meanwhile would end the process
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    raw = np.asarray(proxy) if scaled else np.asarray(proxy.get_unscaled())
    return header, header.get_best_affine(), raw, scaled


def _spatial_axes(shape: tuple[int, ...]) -> int:
    return 2 if len(shape) == 2 else 3


def _check_rest(stream: Any, path: Path, size: int) -> None:
    """Read a gzip file to its end, where its checksum is, and refuse one that goes on as no volume does."""
    if not isinstance(stream, gzip.GzipFile):
        return
    left = size + REST_BYTES
    while piece := stream.read(min(left + 1, PIECE)):
        left -= len(piece)
        if left < 0:
            raise InputError(
                f"{path}: more than twice as much is packed in it as its header promises ({size:,} bytes); it is"
                " broken; export it again."
            )


def canonical_turn(affine: np.ndarray, axes: int) -> Turn | None:
    """How an array is turned towards right, anterior, superior; None where it lies so already.

    Args:
        affine: `(4, 4)`, of the array as stored.
        axes: Number of its spatial axes, 2 or 3; those of a picture are put in order among themselves.
    """
    from nibabel.orientations import io_orientation

    # Of each stored axis the axis of the world nearest to it, and whether it runs along (1) or against it (-1).
    nearest = io_orientation(affine)[:axes]
    if not np.isfinite(nearest).all():
        return None
    order = tuple(int(axis) for axis in np.argsort(nearest[:, 0], kind="stable"))
    turn = Turn(order, tuple(bool(nearest[axis, 1] < 0) for axis in order))
    return None if order == tuple(range(axes)) and not any(turn.flips) else turn


def geometry_of(header: Any, affine: np.ndarray, shape: tuple[int, ...]) -> Geometry:
    """What a NIfTI header says of an array's place, once that is turned (`Geometry.as_read`).

    Args:
        header: Of the file.
        affine: `(4, 4)`, of the array as stored.
        shape: Of the array as stored, two or three axes.
    """
    try:
        factor = MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    except KeyError:
        code = int(header["xyzt_units"])
        raise ValueError(f"{code} for the unit of distances, which stands for none") from None
    affine = np.array(affine, dtype=np.float64)
    affine[:3] *= factor
    spacing, doubt = _spacing(header, affine, factor, len(shape))
    oriented = bool(header["qform_code"] or header["sform_code"])
    turn = canonical_turn(affine, len(shape)) if oriented else None
    if turn is not None:
        affine = turn.apply_to_affine(affine, shape)
        spacing = None if spacing is None else turn.apply_to_lengths(spacing)
        shape = tuple(shape[axis] for axis in turn.axes)
    axis = largest_spacing_axis(spacing or (1.0,) * len(shape), shape) if len(shape) == 3 else 0
    return Geometry(spacing, axis, affine, header, turn, oriented, doubt)


def _spacing(header: Any, affine: np.ndarray, factor: float, axes: int) -> tuple[tuple[float, ...] | None, str]:
    """Spacing in mm of the stored axes, None where it is not known; and what contradicts itself, or ""."""
    zooms = np.array([float(zoom) for zoom in header.get_zooms()[:axes]]) * factor
    placed = np.linalg.norm(affine[:3, :axes], axis=0)
    known = bool(np.isfinite(zooms).all() and (zooms > 0).all())  # nibabel itself turns 0 into 1
    if not header["sform_code"] or not (np.isfinite(placed).all() and (placed > 0).all()):
        # The affine, if there is one, is made of pixdim. Where that is NaN distances are in px, and the unit says so.
        return tuple(zooms.tolist()) if known else None, ""
    if not known:
        return tuple(placed.tolist()), "has no spacing in pixdim; that of its affine was taken"
    apart = np.abs(zooms / placed - 1)
    spacing = tuple(np.where(apart <= SAME_SPACING, zooms, placed).tolist())
    if (apart > DOUBTFUL).any():
        texts = (" x ".join(f"{step:.4g}" for step in steps) for steps in (zooms, placed))
        return spacing, "says {} mm in pixdim and {} mm in its affine, which was believed".format(*texts)
    return spacing, _qform_doubt(header, affine, factor) if header["qform_code"] else ""


def _qform_doubt(header: Any, affine: np.ndarray, factor: float) -> str:
    """What a qform says against the sform that was taken."""
    try:
        other = np.array(header.get_qform())
    except ValueError:  # its quaternion is none
        return "has a broken qform; the sform was believed"
    apart = np.abs(other[:3, :3] * factor - affine[:3, :3]).max()
    return "turns differently by its qform and its sform; the sform was believed" if apart > TURNED else ""


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

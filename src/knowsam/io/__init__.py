"""Image files in, image files out: numpy arrays that keep their geometry.

One table, `READERS`, says which module reads which suffix; a new format is one module with the five functions
of `Reader` and its lines in the table. Every reader promises:

- `read_image` gives channels last, the file's own value range, never NaN or infinity;
- arrays are turned as the file says that it lies (`Geometry.turn`), and what is written is turned back;
- `read_label` gives whole numbers as stored, never interpolated, scaled or guessed;
- what `write_label` writes for an image reads back with the same array, spacing and affine;
- a broken file is an `InputError` of one sentence: what it promises is held against what it has before memory is taken,
  checksums and lengths are checked, and what a library would make up is refused.

The libraries behind the formats are imported inside the functions, so that importing this package is instant.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from knowsam.errors import InputError
from knowsam.io import dicom, dicom_seg, hdf5, nifti, raster
from knowsam.io.checks import check_regular, unreadable
from knowsam.io.dicom_header import DICOM_SUFFIX, has_mark, read_header
from knowsam.io.dicom_scan import find_series
from knowsam.types import MedicalImage, MedicalLabel

MaskFormat = Literal["nifti", "dicom"]
"""Formats that masks of a DICOM volume can be written in."""


class Reader(NamedTuple):
    """The five functions a file format consists of.

    Attributes:
        read_image: Path -> image.
        read_label: Path -> label.
        write_label: `(path without suffix, label, image it belongs to)` -> path written.
        write_probabilities: `(path without suffix, probabilities, image they belong to)` -> path written.
        write_map: `(path without suffix, map, image it belongs to)` -> path written.
    """

    read_image: Callable[[Path], MedicalImage]
    read_label: Callable[[Path], MedicalLabel]
    write_label: Callable[[Path, np.ndarray, MedicalImage], Path]
    write_probabilities: Callable[[Path, np.ndarray, MedicalImage], Path]
    write_map: Callable[[Path, np.ndarray, MedicalImage], Path]


RASTER = Reader(raster.read_image, raster.read_label, raster.write_label, raster.write_probabilities, raster.write_map)
NIFTI = Reader(nifti.read_image, nifti.read_label, nifti.write_label, nifti.write_probabilities, nifti.write_map)
HDF5 = Reader(hdf5.read_image, hdf5.read_label, hdf5.write_label, hdf5.write_probabilities, hdf5.write_map)
DICOM = Reader(dicom.read_image, dicom.read_label, dicom.write_label, dicom.write_probabilities, dicom.write_map)

READERS: dict[str, Reader] = {
    ".png": RASTER,
    ".jpg": RASTER,
    ".jpeg": RASTER,
    ".tif": RASTER,
    ".tiff": RASTER,
    ".bmp": RASTER,
    ".gif": RASTER,
    ".nii": NIFTI,
    ".nii.gz": NIFTI,
    ".h5": HDF5,
    ".hdf5": HDF5,
    DICOM_SUFFIX: DICOM,
}

IMAGE_SUFFIXES: tuple[str, ...] = tuple(READERS)
"""Every suffix that can be read, lower case."""


def file_suffix(path: str | Path) -> str | None:
    """The known suffix a file name ends with, lower case (`".nii.gz"` is one suffix), or None."""
    name = Path(path).name.lower()
    if name.endswith(".nii.gz"):
        return ".nii.gz"
    dot = name.rfind(".")
    suffix = name[dot:] if dot > 0 else ""
    return suffix if suffix in READERS else None


def file_stem(path: str | Path) -> str:
    """The file name without its known suffix: `"a.nii.gz"` -> `"a"`.

    Other dots belong to the stem: `"patient.001"` stays whole. Letters with accents are composed (Unicode NFC), since
    one disk stores them so and the other in two parts.
    """
    name = unicodedata.normalize("NFC", Path(path).name)
    suffix = file_suffix(name)
    return name if suffix is None else name[: -len(suffix)]


def is_image_file(path: Path) -> bool:
    """Tell whether a file can be read: by its suffix, or by DICOM's own mark where no suffix is known."""
    return reader_of(path) is not None


def reader_of(path: Path) -> Reader | None:
    """The reader of a file, by its suffix, or by DICOM's own mark where no suffix is known; None if there is none."""
    suffix = file_suffix(path)
    if suffix is not None:
        return READERS[suffix]
    return DICOM if has_mark(path) else None


def case_stem(path: Path) -> str:
    """The name of the case an image or mask file belongs to.

    It is the stem of the file, but of DICOM, whose files are named after patients or by number, a name made of the
    series: `series_1a2b3c4d5e`. Of a DICOM segmentation it is that of the series it refers to.

    Raises:
        InputError: A DICOM file that belongs to no series, or says not to which.
    """
    if reader_of(path) is not DICOM or not path.is_file():
        return file_stem(path)
    header = read_header(path)
    return find_series(path).stem if header.kind == "image" else dicom_seg.referred_stem(header)


def read_image(path: str | Path) -> MedicalImage:
    """Read an image file of any known format.

    Args:
        path: The file.

    Returns:
        `(H, W, C)` for a picture, `(X, Y, Z, C)` for a volume, with its geometry.

    Raises:
        InputError: The format is unknown, or the file is missing, broken or not a grey or RGB image.
    """
    reader = _reader(Path(path))
    with _whatever_libraries_raise(Path(path)):
        return reader.read_image(Path(path))


def read_label(path: str | Path) -> MedicalLabel:
    """Read a mask file of any known format.

    Args:
        path: The file.

    Returns:
        `(H, W)` or `(X, Y, Z)` int32, the values as the file has them, and how it stores them. What they mean is
        decided for all masks of a set together, see `knowsam.data.labels`.

    Raises:
        InputError: The format is unknown, or the file is missing, broken or not one integer per pixel.
    """
    reader = _reader(Path(path))
    with _whatever_libraries_raise(Path(path)):
        return reader.read_label(Path(path))


def write_label(
    path_without_suffix: str | Path,
    label: np.ndarray,
    like: MedicalImage,
    class_names: Sequence[str] | None = None,
    as_format: MaskFormat | None = None,
    values: Sequence[int] | None = None,
) -> Path:
    """Write a label map in the format and geometry of the image it belongs to.

    Args:
        path_without_suffix: Where to write; the format's suffix is added. The folder must exist.
        label: Integer array of `like.spatial_shape`, values 0..65535.
        like: The image: NIfTI -> NIfTI with its header, picture -> PNG (8 bit, 16 bit above 255), TIFF stack -> ImageJ
            stack of the same pages, HDF5 -> HDF5, DICOM -> DICOM segmentation.
        class_names: Background first; only DICOM stores them.
        as_format: Another format than the image's own: `"nifti"` for a DICOM volume.
        values: What stands in the file for label 0, 1, ..., at most 65535; None: the label itself. DICOM numbers its
            segments without gaps and names them: there the label always stands for itself.

    Returns:
        The file written; it appears whole or not at all.

    Raises:
        InputError: Shape, dtype or range of the label do not fit, or the format does not suit the image.
    """
    if label.shape != like.spatial_shape:
        raise InputError(f"{like.path}: the label has shape {label.shape}, expected {like.spatial_shape}.")
    if not np.issubdtype(label.dtype, np.integer) and label.dtype != np.bool_:
        raise InputError(f"{like.path}: the label has dtype {label.dtype}, expected integers.")
    if label.size and (int(label.min()) < 0 or int(label.max()) > np.iinfo(np.uint16).max):
        raise InputError(
            f"{like.path}: the label has values {label.min()}..{label.max()}, expected 0..65535 to write it."
        )
    reader = _writer(like, as_format)
    if values is not None and reader is not DICOM:
        label = np.array(values)[label]
    narrow = label.astype(np.uint8 if not label.size or int(label.max()) <= 255 else np.uint16)
    if reader is DICOM:
        return dicom.write_label(Path(path_without_suffix), narrow, like, class_names)
    return reader.write_label(Path(path_without_suffix), narrow, like)


def write_probabilities(path_without_suffix: str | Path, probs: np.ndarray, like: MedicalImage) -> Path:
    """Write one soft map per class in the format and geometry of the image they belong to.

    Args:
        path_without_suffix: Where to write; the format's suffix is added. The folder must exist.
        probs: `(K, *like.spatial_shape)` float, written as float32.
        like: The image: NIfTI or DICOM -> 4-D NIfTI with the class last; picture -> TIFF with one page per class; TIFF
            stack -> ImageJ stack with one channel per class; HDF5 -> HDF5 with the dataset `probabilities`
            `(K, *spatial)`.

    Returns:
        The file written; it appears whole or not at all.

    Raises:
        InputError: The shape does not fit.
    """
    if probs.ndim != len(like.spatial_shape) + 1 or probs.shape[1:] != like.spatial_shape:
        raise InputError(
            f"{like.path}: the probabilities have shape {probs.shape}, expected (K, *{like.spatial_shape})."
        )
    return _reader(like.path).write_probabilities(Path(path_without_suffix), probs.astype(np.float32), like)


def write_map(path_without_suffix: str | Path, values: np.ndarray, like: MedicalImage) -> Path:
    """Write one number per pixel in the format and geometry of the image it belongs to.

    Args:
        path_without_suffix: Where to write; the format's suffix is added. The folder must exist.
        values: Float in [0, 1], of `like.spatial_shape`.
        like: The image: NIfTI or DICOM -> NIfTI of float32 in its place; picture -> grey PNG of 8 bit, where 255 is 1,
            which every viewer shows; TIFF stack -> TIFF stack of float32; HDF5 -> HDF5 with the float32 dataset `map`.

    Returns:
        The file written; it appears whole or not at all.

    Raises:
        InputError: The shape does not fit.
    """
    if values.shape != like.spatial_shape:
        raise InputError(f"{like.path}: the map has shape {values.shape}, expected {like.spatial_shape}.")
    return _reader(like.path).write_map(Path(path_without_suffix), values.astype(np.float32), like)


@cache
def _quiet_libraries() -> None:
    """What libraries think of a file is an error here, or does not matter; they would print it without its name."""
    warnings.filterwarnings("ignore", module=r"(PIL|nibabel)(\.|$)")


@contextmanager
def _whatever_libraries_raise(path: Path) -> Iterator[None]:
    """One sentence for a broken file, by whatever error it makes the library behind its format stumble."""
    check_regular(path)
    _quiet_libraries()
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, "file of that format", error) from error


def _reader(path: Path) -> Reader:
    reader = reader_of(path)
    if reader is None:
        raise InputError(
            f"{path}: {path.suffix or 'a name without suffix'} is not a known image format; expected one of "
            f"{' '.join(IMAGE_SUFFIXES)}."
        )
    return reader


def _writer(like: MedicalImage, as_format: MaskFormat | None) -> Reader:
    own = _reader(like.path)
    wanted = own if as_format is None else {"nifti": NIFTI, "dicom": DICOM}[as_format]
    if wanted is own or (wanted is NIFTI and own is DICOM and like.is_volume):
        return wanted
    raise InputError(
        f"{like.path}: a mask in format {as_format} was asked for, which "
        + (
            "refers to DICOM images, and this is none; leave the format out."
            if wanted is DICOM
            else "needs a place in the patient: expected a NIfTI file or a DICOM volume; leave the format out."
        )
    )

"""HDF5 in the SSL4MIS layout: dataset `image`, and `label` in the same file where there is one.

A slice is `(H, W)`, `(H, W, 1)`, or `(H, W, 3)` in colour; a volume `(D, H, W)`, `(D, H, W, 1)` or `(D, H, W, 3)`, its
slices first. The format stores no spacing, so distances are in px.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io.apart import allow_memory, read_apart
from knowsam.io.checks import check_finite, check_not_empty, unreadable, whole_numbers
from knowsam.io.limits import DEFLATE, check_promise, check_size
from knowsam.io.names import add_suffix
from knowsam.storage import whole_file
from knowsam.types import Geometry, MedicalImage, MedicalLabel

CHANNELS, WITH_ALPHA = (1, 3), (2, 4)
"""Lengths of a last axis that holds channels; those that may be transparency or few slices."""

KIND = "HDF5 file"

LONGEST = 200
"""Characters of what a file holds in a message."""


def read_image(path: Path) -> MedicalImage:
    """Read the dataset `image`; `label` is not touched.

    Args:
        path: An `.h5` file.

    Returns:
        `(H, W, C)` for a slice, `(D, H, W, C)` for a volume (`slice_axis` 0), in the file's dtype; C is 1 or 3.

    Raises:
        InputError: Broken file, no dataset `image`, another number of axes, NaN or infinite values.
    """
    array = _read(path, "image")
    check_not_empty(array, path)
    check_finite(array, path)
    has_channels = array.ndim == 4 or (array.ndim == 3 and array.shape[-1] in CHANNELS)
    if array.ndim == 3 and array.shape[-1] in WITH_ALPHA:
        raise InputError(
            f"{path}: dataset `image` has shape {array.shape}; expected (H, W), (H, W, 3) or a volume (D, H, W); leave"
            " the alpha channel out, or put the slices of a volume first."
        )
    if has_channels and array.shape[-1] not in CHANNELS:
        raise InputError(f"{path}: dataset `image` has shape {array.shape}; expected 1 or 3 channels, last.")
    return MedicalImage(array if has_channels else array[..., None], Geometry(), path)


def read_label(path: Path) -> MedicalLabel:
    """Read the dataset `label`.

    Args:
        path: An `.h5` file.

    Returns:
        `(H, W)` or `(D, H, W)` int32.

    Raises:
        InputError: Broken file, no dataset `label`, another number of axes, values that are not whole
            numbers.
    """
    array = _read(path, "label")
    if array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 4:
        raise InputError(f"{path}: dataset `label` has shape {array.shape}; expected one class index per voxel.")
    return MedicalLabel(whole_numbers(array, path), Geometry(), path)


def write_label(path_without_suffix: Path, label: np.ndarray, like: MedicalImage) -> Path:
    """Write an `.h5` file with the dataset `label`, in the shape of the image's spatial axes."""
    return _write(path_without_suffix, "label", label)


def write_probabilities(path_without_suffix: Path, probs: np.ndarray, like: MedicalImage) -> Path:
    """Write an `.h5` file with the dataset `probabilities`, `(K, *spatial)` float32."""
    return _write(path_without_suffix, "probabilities", probs)


def write_map(path_without_suffix: Path, values: np.ndarray, like: MedicalImage) -> Path:
    """Write an `.h5` file with the float32 dataset `map`, in the shape of the image's spatial axes."""
    return _write(path_without_suffix, "map", values)


def _read(path: Path, name: str) -> np.ndarray:
    return read_apart("knowsam.io.hdf5:read_dataset", path, KIND, name)[0]


def read_dataset(path: Path, name: str) -> tuple[np.ndarray, None]:
    """Read a dataset in this process, which HDF5 may end: it believes what a file says of itself.

    Args:
        path: The file.
        name: Of the dataset.

    Returns:
        The array in native byte order, and nothing more (see `read_apart`).

    Raises:
        InputError: No such dataset, one of other files, of text, or broken.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = find_dataset(file, name, path)
            if found.ndim not in (2, 3, 4) or found.dtype.kind not in "buif":
                raise InputError(
                    f"{path}: dataset `{name}` has shape {found.shape} and dtype {found.dtype}; expected "
                    "numbers of shape (H, W), (H, W, 3) or (D, H, W)."
                )
            _check_parts(found, name, path)
            check_size(found.shape, path)
            allow_memory(2 * found.nbytes)
            array = np.asarray(found[()])
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise unreadable(path, KIND, error) from error
    return array.astype(array.dtype.newbyteorder("="), copy=False), None


def find_dataset(file: Any, name: str, path: Path) -> Any:
    """The dataset of that name, all of it in this file: others may be gone (zeros then), or nobody's business here.

    Raises:
        InputError: There is none, or its values lie elsewhere.
    """
    import h5py

    links = file.id.links
    if not links.exists(name.encode()):
        there = ", ".join(sorted(key if isinstance(key, str) else ascii(key) for key in file)) or "nothing"
        raise InputError(f"{path}: has no dataset `{name}` (found: {there[:LONGEST]}); expected one.")
    kind = links.get_info(name.encode()).type
    if kind != h5py.h5l.TYPE_HARD:
        # Followed, it could open any file, a FIFO or a device too.
        raise _is_elsewhere(name, path, "lies in another file" if kind == h5py.h5l.TYPE_EXTERNAL else "is a link")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: `{name}` is a group; expected a dataset.")
    if found.is_virtual or found.external is not None:
        raise _is_elsewhere(name, path, "lies in another file")
    return found


def _is_elsewhere(name: str, path: Path, how: str) -> InputError:
    return InputError(
        f"{path}: dataset `{name}` {how}, but expected all of it here; copy it into one file (h5repack or h5py)."
    )


def _check_parts(found: Any, name: str, path: Path) -> None:
    """Hold what is stored against what is promised: HDF5 fills in what is missing, and may end with a broken table.

    Raises:
        InputError: A part is missing, stored twice, or outside the file.
    """
    stored = path.stat().st_size
    if found.chunks is None:
        size, offset = found.id.get_storage_size(), found.id.get_offset()
        if size < found.nbytes:
            raise _not_all(name, path, size, found.nbytes, "bytes")
        check_promise(found.shape, (offset or 0) + found.nbytes, stored, path)
        return
    expected = prod(-(-length // part) for length, part in zip(found.shape, found.chunks, strict=True))
    check_promise(found.shape, expected, stored, path)
    parts: list[Any] = []
    found.id.chunk_iter(parts.append)
    places = {part.chunk_offset for part in parts}
    if len(places) != len(parts) or any(part.size <= 0 or part.byte_offset + part.size > stored for part in parts):
        raise InputError(f"{path}: the table of parts of dataset `{name}` is broken; export or copy it again.")
    if len(parts) != expected:
        raise _not_all(name, path, len(parts), expected, "parts")
    if found.compression == "gzip":
        check_promise(found.shape, found.nbytes / DEFLATE, sum(part.size for part in parts), path)


def _not_all(name: str, path: Path, there: int, expected: int, what: str) -> InputError:
    return InputError(
        f"{path}: {there} {what} of dataset `{name}` are stored, but expected {expected}, because the rest would be"
        " made up; write all of it."
    )


def _write(path_without_suffix: Path, name: str, array: np.ndarray) -> Path:
    import h5py

    path = add_suffix(path_without_suffix, ".h5")
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset(name, data=array, compression="gzip", compression_opts=4)
    return path

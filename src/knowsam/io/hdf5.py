"""HDF5 in the SSL4MIS layout: dataset `image`, and `label` in the same file where there is one.

A slice is `(H, W)`, `(H, W, 1)`, or `(H, W, 3)` in colour; a volume `(D, H, W)`, `(D, H, W, 1)` or `(D, H, W, 3)`, its
slices first. The format stores no spacing, so distances are in px.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io.checks import check_finite, check_not_empty, unreadable, whole_numbers
from knowsam.io.limits import check_size
from knowsam.io.names import add_suffix
from knowsam.storage import whole_file
from knowsam.types import Geometry, MedicalImage, MedicalLabel

CHANNELS, WITH_ALPHA = (1, 3), (2, 4)
"""Lengths of a last axis that holds channels; those that may be transparency or few slices."""


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
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = file.get(name)
            if not isinstance(found, h5py.Dataset):
                there = ", ".join(sorted(file)) or "nothing"
                raise InputError(f"{path}: has no dataset `{name}` (found: {there}); expected one.")
            if _is_elsewhere(file, found, name):
                raise InputError(
                    f"{path}: dataset `{name}` lies in another file, but expected all of it here; copy it into one file"
                    " (h5repack or h5py)."
                )
            if found.ndim not in (2, 3, 4) or found.dtype.kind not in "buif":
                raise InputError(
                    f"{path}: dataset `{name}` has shape {found.shape} and dtype {found.dtype}; expected "
                    "numbers of shape (H, W), (H, W, 3) or (D, H, W)."
                )
            check_size(found.shape, path)
            if not _chunks_are_sound(found, path.stat().st_size):
                raise InputError(f"{path}: the table of parts of dataset `{name}` is broken; export or copy it again.")
            array = np.asarray(found[()])
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise unreadable(path, "HDF5 file", error) from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_elsewhere(file: Any, found: Any, name: str) -> bool:
    """Whether values come from other files, which may be gone (then they read as zeros) or nobody's business here."""
    import h5py

    linked = file.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_EXTERNAL
    return linked or found.is_virtual or found.external is not None


def _chunks_are_sound(found: Any, file_size: int) -> bool:
    """Whether every stored part is there once and inside the file; HDF5 believes its table and may end the process."""
    if found.chunks is None:
        return True
    parts: list[Any] = []
    found.id.chunk_iter(parts.append)
    places = {part.chunk_offset for part in parts}
    return len(places) == len(parts) and all(
        part.size > 0 and part.byte_offset + part.size <= file_size for part in parts
    )


def _write(path_without_suffix: Path, name: str, array: np.ndarray) -> Path:
    import h5py

    path = add_suffix(path_without_suffix, ".h5")
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset(name, data=array, compression="gzip", compression_opts=4)
    return path

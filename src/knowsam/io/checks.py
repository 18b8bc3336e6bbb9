"""What all formats share: the checks every array passes."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import numpy as np

from knowsam.errors import InputError


def check_regular(path: Path, kind: str = "file") -> None:
    """Refuse what is no file on a disk, before it is opened: a FIFO would wait for ever, a device may never end.

    Args:
        path: The file.
        kind: As in `unreadable`.

    Raises:
        InputError: It is missing, a folder, a FIFO, a socket or a device, or may not be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, kind, error) from error
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise unreadable(path, kind, IsADirectoryError())
    found = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise InputError(f"{path}: {found} was found, but expected a {kind}; remove it, or put a file in its place.")


def unreadable(path: Path, kind: str, error: Exception) -> InputError:
    """The sentence for a file that its library, or the system, cannot read.

    Args:
        path: The file.
        kind: What it should have been, such as `"PNG image"`.
        error: What the library said.
    """
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: there is no such file; expected a {kind}.")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: no permission to read this file.")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path}: this is a folder; expected a {kind}.")
    if isinstance(error, MemoryError):
        return InputError(f"{path}: memory ran out while it was read; expected enough for it; cut it into tiles.")
    # An error of the system has a number; a place that a broken file makes a library go to is an invalid argument.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return InputError(
            f"{path}: could not be read ({error.strerror}), but expected a {kind}; mend that and repeat the command."
        )
    if path.is_file() and path.stat().st_size == 0:
        return InputError(f"{path}: the file is empty (0 bytes); expected a {kind}; export or copy it again.")
    said = " ".join(str(error).split()) or type(error).__name__
    said = said.replace(str(path), "it")[:160].rstrip(".")
    return InputError(
        f"{path}: broken or truncated, or not what its name says ({said}); expected a complete {kind}; "
        "export or copy it again, or remove it."
    )


def check_finite(array: np.ndarray, path: Path) -> None:
    """Raise an `InputError` with the count if a float array has NaN or infinite values."""
    if not np.issubdtype(array.dtype, np.floating):
        return
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(
            f"{path}: {bad} of {array.size} values are NaN or infinite; expected finite intensities; replace "
            "them (for example by the background value)."
        )


def check_not_empty(array: np.ndarray, path: Path) -> None:
    """Raise an `InputError` if an array has an axis of length 0."""
    if array.size == 0:
        raise InputError(f"{path}: the image is empty (shape {array.shape}); expected at least one pixel.")


ROUNDING = 1e-3
"""Labels that are this near to whole numbers were whole before a float format or a scale factor held them."""


def whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    """A label array as int32, checked to hold whole numbers.

    Args:
        array: Any shape, boolean, integer or float.
        path: The file, for the message.

    Returns:
        The same shape, int32, C-contiguous; floats within `ROUNDING` of whole numbers are rounded.

    Raises:
        InputError: A value is NaN, not whole, or does not fit 32 bits.
    """
    check_not_empty(array, path)
    if array.dtype.kind not in "buif":
        raise InputError(f"{path}: a mask of dtype {array.dtype}; expected one whole number per pixel.")
    if array.dtype.kind == "f":
        check_finite(array, path)
        whole = np.rint(array)
        fractional = np.abs(array - whole) > ROUNDING
        if fractional.any():
            example = float(array[fractional].flat[0])
            raise InputError(
                f"{path}: {int(fractional.sum())} mask values are not whole numbers (such as {example:.6g}); "
                "expected class indices; was the mask interpolated? Resample it with nearest neighbour."
            )
        array = whole
    if array.dtype.itemsize > 2 and array.dtype.kind != "b":
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise InputError(f"{path}: mask values up to {array.max()}; expected class indices.")
    return np.ascontiguousarray(array, dtype=np.int32)

"""How large an image may be: one limit for every format, looked at in the header before memory is taken."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

from knowsam.errors import InputError

VARIABLE = "KNOWSAM_MAX_PIXELS"
MAX_PIXELS = 2**28
"""A CT of 512 x 512 x 1024, a picture of 16,384 x 16,384; far more is a broken header, or a slide to cut into tiles."""

BYTES_PER_PIXEL = 35
"""What reading and predicting a grey picture takes at its peak, measured at 182 million pixels and two classes."""

DEFLATE = 1032
"""How many bytes one byte can stand for at most in zlib's compression (PNG, gzip, TIFF, HDF5)."""


def check_size(shape: Sequence[int], path: Path) -> None:
    """Refuse an image that is too large, before it is read.

    Args:
        shape: Its spatial axes, in pixels or voxels.
        path: The file, for the message.

    Raises:
        InputError: It has more than `MAX_PIXELS`, or than the variable `KNOWSAM_MAX_PIXELS` says.
    """
    pixels, most = prod(int(length) for length in shape), max_pixels()
    if pixels > most:
        size = " x ".join(str(int(length)) for length in shape)
        raise InputError(
            f"{path}: {size} = {pixels / 1e6:,.0f} million pixels were found, but expected at most"
            f" {most / 1e6:,.0f} million; cut it into tiles, or raise the limit with {VARIABLE}={pixels} (reading and"
            f" predicting it takes about {pixels * BYTES_PER_PIXEL / 1e9:,.1f} GB of memory)."
        )


def max_pixels() -> int:
    """The limit: that of the environment, else `MAX_PIXELS`.

    Raises:
        InputError: The variable holds no whole number.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    if not text.isdecimal():
        raise InputError(f"{VARIABLE}: '{text}' was found, but expected a whole number, e.g. {MAX_PIXELS}; correct it.")
    return int(text)


def check_promise(shape: Sequence[int], needed: float, stored: int, path: Path) -> None:
    """Refuse a header that promises more than its file can hold, before memory is taken.

    Args:
        shape: The spatial axes promised.
        needed: Bytes that they take at least, in the most compressed form there is.
        stored: Bytes that there are.
        path: The file, for the message.

    Raises:
        InputError: There are too few bytes.
    """
    if stored < needed:
        size = " x ".join(str(int(length)) for length in shape)
        raise InputError(
            f"{path}: broken or truncated: its header promises {size} pixels, which take {math.ceil(needed):,} bytes"
            f" or more, but {stored:,} were found; export or copy it again."
        )

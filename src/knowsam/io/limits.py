"""How large an image may be: one limit for every format, looked at in the header before memory is taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from knowsam.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

VARIABLE = "KNOWSAM_MAX_PIXELS"
MAX_PIXELS = 2**28
"""A CT of 512 x 512 x 1024, a picture of 16,384 x 16,384; far more is a broken header, or a slide to cut into tiles."""

BYTES_PER_PIXEL = 30
"""What reading and predicting a grey picture takes at its peak, measured at 182 million pixels and two classes."""

_pillow_limit = threading.Lock()


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


@contextmanager
def open_picture(path: Path) -> Iterator[Image]:
    """Open a picture with Pillow, under this limit in place of Pillow's own.

    Raises:
        InputError: It is too large.
        OSError: It is missing or no picture.
    """
    from PIL import Image

    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        check_size((image.height, image.width), path)
        yield image

"""Picture files before they are decoded: opened by the formats read here, and held against what they promise."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from knowsam.errors import InputError
from knowsam.io.limits import DEFLATE, check_promise, check_size

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF")
"""Pillow knows many more, and would start Ghostscript for what begins like PostScript, whatever its name."""
TIFF_SUFFIXES = (".tif", ".tiff")

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS_PER_BYTE = {"JPEG": 4096, "MPO": 4096, "GIF": 4096, "BMP": 16384, "DIB": 16384}
"""How many pixels one byte can stand for at most: a bit for a block of DCT, a code of LZW, a jump of run lengths."""

PIECE = 1 << 20
"""Bytes read at a time."""

_pillow_limit = threading.Lock()


@contextmanager
def open_picture(path: Path) -> Iterator[ImageFile]:
    """Open a picture with Pillow, without its limit of size: that of this package is looked at in `check_content`.

    Raises:
        OSError: It is missing or no picture.
    """
    from PIL import Image

    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path, formats=("TIFF",) if is_tiff(path) else FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image


def is_tiff(path: Path) -> bool:
    """Whether a file is a TIFF by its name."""
    return path.name.lower().endswith(TIFF_SUFFIXES)


def check_content(image: ImageFile, path: Path) -> None:
    """Hold an opened picture against its file: the size that it promises, and the checksums of PNG.

    Raises:
        InputError: It promises more than its bytes can hold, is too large, a checksum is wrong, or its end is missing.
    """
    size, stored = (image.height, image.width), path.stat().st_size
    if image.format == "PNG":
        stored = _check_png(path)
        check_promise(size, image.height * ceil(image.width * _png_bits(path) / 8) / DEFLATE, stored, path)
    elif image.format == "GIF" and image.tile and image.tile[0][1] != (0, 0, *image.size):
        raise InputError(
            f"{path}: a GIF whose picture covers only a part of its canvas was found, but expected all of it, because"
            " the rest would be made up; save it as PNG."
        )
    elif image.format in PIXELS_PER_BYTE:
        plain = image.tile and image.tile[0][0] == "raw"  # BMP without compression, of 1 bit or more
        check_promise(size, image.height * image.width / (8 if plain else PIXELS_PER_BYTE[image.format]), stored, path)
    check_size(size, path)


def png_depth(path: Path) -> int:
    """Bits per sample: byte 24 of a PNG, in the header chunk that must come first."""
    with path.open("rb") as file:
        return file.read(25)[24]


def _png_bits(path: Path) -> int:
    """Bits per pixel, by the header chunk."""
    with path.open("rb") as file:
        header = file.read(26)
    return header[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[25], 1)


def _check_png(path: Path) -> int:
    """Go through the chunks of a PNG, whose checksums Pillow does not look at in those that hold the pixels.

    Returns:
        Bytes of compressed pixels.

    Raises:
        InputError: A checksum is wrong, or the file ends too early.
    """
    pixels = 0
    with path.open("rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while True:
            head = file.read(8)
            if len(head) < 8:
                raise _cut(path)
            length, name = struct.unpack(">I4s", head)
            found = _checksum(file, length, zlib.crc32(name))
            stored = file.read(4)
            if found is None or len(stored) < 4:
                raise _cut(path)
            if found != int.from_bytes(stored, "big"):
                shown = name.decode("ascii", "replace")
                raise InputError(
                    f"{path}: the checksum of its part {shown!r} is wrong, so that it is not what was saved; copy or"
                    " export it again."
                )
            if name == b"IDAT":
                pixels += length
            elif name == b"IEND":
                return pixels


def _checksum(file: BinaryIO, length: int, begun: int) -> int | None:
    """CRC-32 of the next bytes, None if there are fewer."""
    while length:
        piece = file.read(min(length, PIECE))
        if not piece:
            return None
        begun = zlib.crc32(piece, begun)
        length -= len(piece)
    return begun


def _cut(path: Path) -> InputError:
    return InputError(
        f"{path}: broken or truncated (its end is missing); expected a complete PNG picture; export or copy it again,"
        " or remove it."
    )

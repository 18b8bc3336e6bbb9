"""TIFF pictures and stacks through tifffile; compressions that it brings no decoder for through Pillow."""

from __future__ import annotations

import logging
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knowsam.errors import InputError
from knowsam.io.apart import read_apart
from knowsam.io.checks import unreadable
from knowsam.io.limits import DEFLATE, check_promise, check_size
from knowsam.io.mask_storage import LOSSY_TIFF_COMPRESSIONS, check_opaque, palette_colours
from knowsam.io.pillow import ORIENTATION, TURNS, look_up
from knowsam.io.tiff_stack import Planes, find_planes, stack_spacing

GREY_WHITE_IS_ZERO, PALETTE = 0, 3  # TIFF tag 262, photometric interpretation
COLOUR_PHOTOMETRICS = (0, 1, 2, 3)  # the ones read here: grey both ways, RGB, palette; not CMYK, YCbCr, Lab
LAYOUT_TAGS = frozenset((256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339))
"""Tags that say how the bytes of a TIFF become pixels: size, depth, compression, strips, tiles, colours."""
REQUIRED_TAGS = ((256,), (257,), (273, 324), (279, 325))
"""Width, length, offsets and byte counts of strips or tiles: what a TIFF cannot be read without, or by guesses only."""
SINGLE_VALUES = (256, 257, 259, 262, 277, 278, 284, 317, 322, 323)
EXPANSION = {1: 1, 5: 4096, 8: DEFLATE, 32946: DEFLATE, 32773: 64}
"""How many bytes one byte can stand for at most: uncompressed, LZW, deflate (twice), PackBits."""
MOST_EXPANSION = 1 << 16
KIND = "TIFF picture"
_SILENT = logging.NullHandler()
SEPARATE_PLANES = 2  # TIFF tag 284


class TiffContent(NamedTuple):
    """What a TIFF holds.

    Attributes:
        array: `(H, W, C)`, or `(Z, H, W, C)` of a stack, as stored; C is 1 or 3.
        orientation: The tag, 0 where there is none.
        spacing_mm: Of a stack that states it.
    """

    array: np.ndarray
    orientation: int
    spacing_mm: tuple[float, ...] | None


def read_tiff(path: Path, as_label: bool) -> TiffContent:
    """Read a TIFF.

    Args:
        path: The file.
        as_label: Whether it is a mask.

    Raises:
        InputError: It is broken, of other colours, or its pages are no slices of one volume.
    """
    import tifffile

    # What it thinks of a file is said in one sentence, or does not matter.
    logging.getLogger("tifffile").addHandler(_SILENT)
    try:
        # Files that an OME header names are none of the picture.
        with tifffile.TiffFile(path, _multifile=False) as file:
            first: Any = file.pages[0]
            _check_tags(file, first, path)
            _check_chain(file, path)
            planes = find_planes(file, path)
            for page in planes.pages:
                if page is not first:
                    _check_tags(file, page, path)
                _check_tiff_page(page, path, as_label)
                _check_parts(page, path)
            array = _decode(planes, path, as_label)
            array = array if array.ndim == 3 + planes.is_stack else array[..., None]
            return TiffContent(array, _tiff_orientation(first), stack_spacing(file) if planes.is_stack else None)
    except InputError:
        raise
    except Exception as error:  # tifffile stumbles over broken values in many ways
        raise unreadable(path, KIND, error) from error


def _decode(planes: Planes, path: Path, as_label: bool) -> np.ndarray:
    """`(H, W)` or `(H, W, 3)`, with the slices of a stack before that."""
    page = planes.pages[0]
    if planes.offset is not None:
        stored = np.fromfile(path, page.dtype.newbyteorder(page.parent.byteorder), planes.number * page.size,
                             offset=planes.offset).reshape(planes.number, *page.shape)  # fmt: skip
        arrays = [_tiff_channels(plane, page, path, as_label) for plane in stored]
    else:
        try:
            arrays = [_tiff_channels(one.asarray(), one, path, as_label) for one in planes.pages]
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            # LZW, JPEG and fax compression need a decoder that tifffile does not bring; Pillow has them.
            return _read_compressed_tiff(planes, path, as_label)
    return np.stack(arrays) if planes.is_stack else arrays[0]


def _check_chain(file: Any, path: Path) -> None:
    """Follow the chain of pages, which tifffile follows in circles."""
    layout, handle, seen = file.tiff, file.filehandle, set()
    following = file.pages[0].offset
    while following:
        if following in seen or following + layout.tagnosize > handle.size:
            raise InputError(
                f"{path}: broken or truncated: its chain of pages leads back or behind its end; export it again."
            )
        seen.add(following)
        handle.seek(following)
        count = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))[0]
        handle.seek(following + layout.tagnosize + count * layout.tagsize)
        after = handle.read(layout.offsetsize)
        following = struct.unpack(layout.offsetformat, after)[0] if len(after) == layout.offsetsize else 0


def _check_tags(file: Any, page: Any, path: Path) -> None:
    """Refuse a picture whose layout is not all there: what a missing tag leaves out would be guessed."""
    layout, handle = file.tiff, file.filehandle
    handle.seek(page.offset)
    count = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))[0]
    entries = handle.read(count * layout.tagsize)
    starts = range(0, len(entries) - 1, layout.tagsize)
    declared = {struct.unpack_from(layout.byteorder + "H", entries, start)[0] for start in starts}
    lost = sorted(code for code in declared & LAYOUT_TAGS if code not in page.tags)
    if lost:
        raise InputError(
            f"{path}: the value of TIFF tag {lost[0]} lies outside the file; it is cut or broken; copy it again."
        )
    if missing := [names for names in REQUIRED_TAGS if not any(code in page.tags for code in names)]:
        raise InputError(
            f"{path}: TIFF tag {missing[0][0]}, which says where the pixels are, is missing; it is broken; export it"
            " again."
        )
    for code in SINGLE_VALUES:
        if code in page.tags and not isinstance(page.tags[code].value, int):
            raise InputError(
                f"{path}: TIFF tag {code} has {page.tags[code].count} values, but expected one; it is broken; export it"
                " again."
            )


def _check_tiff_page(page: Any, path: Path, as_label: bool) -> None:
    if (strips := len(page.dataoffsets)) != prod(page.chunked):
        raise InputError(
            f"{path}: {strips} parts of the picture were found, but its header promises {prod(page.chunked)}; the TIFF"
            " is broken; export it again."
        )
    lossy = int(page.compression) in LOSSY_TIFF_COMPRESSIONS
    if as_label and int(page.photometric) == GREY_WHITE_IS_ZERO and page.bitspersample > 1:
        raise InputError(
            f"{path}: a mask stored with white as zero, so that its class indices are ambiguous; save it as a grey PNG."
        )
    if int(page.photometric) not in COLOUR_PHOTOMETRICS and not lossy:
        name = getattr(page.photometric, "name", page.photometric)
        raise InputError(f"{path}: a TIFF in colour space {name}; expected grey or RGB; save it as PNG.")


def _check_parts(page: Any, path: Path) -> None:
    """Hold the strips or tiles against the file: what lies behind its end, or is not stored, would be made up."""
    stored, ends = path.stat().st_size, zip(page.dataoffsets, page.databytecounts, strict=True)
    if any(offset <= 0 or count <= 0 or offset + count > stored for offset, count in ends):
        raise InputError(
            f"{path}: broken or truncated: a part of the picture is not stored, or lies behind the end of the file;"
            " export or copy it again."
        )
    bits = prod((page.imagelength, page.imagewidth, page.samplesperpixel, _bits(page)))
    most = EXPANSION.get(int(page.compression), MOST_EXPANSION)
    check_promise((page.imagelength, page.imagewidth), bits / 8 / most, sum(page.databytecounts), path)
    check_size((page.imagelength, page.imagewidth), path)
    if page.is_tiled:  # a tile may be much larger than what is seen of it
        check_size((page.tilelength, page.tilewidth), path)


def _bits(page: Any) -> int:
    """Bits per sample, the fewest where samples differ."""
    bits = page.bitspersample
    return int(min(bits)) if isinstance(bits, tuple) else int(bits)


def _read_compressed_tiff(planes: Planes, path: Path, as_label: bool) -> np.ndarray:
    """As `_decode`."""
    page = planes.pages[0]
    if page.samplesperpixel > 1 and page.bitspersample > 8:
        name = getattr(page.compression, "name", page.compression)
        raise InputError(
            f"{path}: 16-bit colour with {name} compression cannot be read without loss; save it "
            "uncompressed or with zlib (deflate) compression."
        )
    # Through libtiff, which is older than most attacks on it.
    order = [one.index for one in planes.pages] if planes.is_stack else None
    array, left = read_apart("knowsam.io.pillow:read_pillow", path, KIND, as_label, order)
    orientation = _tiff_orientation(page)
    if left != orientation and orientation in TURNS:  # Pillow has turned it, as it does with TIFF alone
        array = TURNS[orientation].inverse.apply(array, first=int(planes.is_stack))
    return array


def _tiff_orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return tag.value if tag is not None and isinstance(tag.value, int) else 0


def _tiff_channels(array: np.ndarray, page: Any, path: Path, as_label: bool) -> np.ndarray:
    """A decoded TIFF page as `(H, W)` or `(H, W, 3)`, by the table above."""
    photometric = int(page.photometric)
    if page.samplesperpixel > 1 and int(page.planarconfig) == SEPARATE_PLANES:
        array = np.moveaxis(array, 0, -1)
    expected_axes = 2 if page.samplesperpixel == 1 else 3
    channels = 1 if array.ndim == 2 else array.shape[-1]
    has_alpha = len(page.extrasamples) == 1 and channels in (2, 4)
    if array.ndim != expected_axes or array.dtype.kind not in "buif" or channels - has_alpha not in (1, 3):
        raise InputError(
            f"{path}: a TIFF of shape {array.shape} and dtype {array.dtype}; expected (H, W), RGB or RGBA."
        )
    if channels > 1:
        if as_label and has_alpha:
            check_opaque(array[..., -1], path)
        array = array[..., : channels - has_alpha]
        array = array[..., 0] if array.shape[-1] == 1 else array
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        white = ~array if photometric == GREY_WHITE_IS_ZERO else array
        return white.astype(np.uint8) * np.uint8(1 if as_label else 255)
    if photometric == PALETTE and not as_label and page.colormap is not None:
        return look_up(array, palette_colours(page.colormap))
    if photometric == GREY_WHITE_IS_ZERO and array.dtype.kind in "ui":
        return np.iinfo(array.dtype).max - array
    return np.ascontiguousarray(array)

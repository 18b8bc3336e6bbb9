"""TIFF stacks: which pages are the slices of a volume, how far apart they lie, and how such a volume is written.

A stack is plain pages, an ImageJ stack (all planes behind one page, or one page each) or an OME-TIFF. Slices come
first, `(Z, H, W)`. What a file calls channels or time points is no slice; fewer than `FEWEST_PAGES` that it calls
nothing could be either.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from knowsam.errors import InputError
from knowsam.io.limits import check_size
from knowsam.io.pillow import ORIENTATION
from knowsam.storage import whole_file
from knowsam.types import Geometry, Turn

FEWEST_PAGES = 5
"""Fewest pages without a word on what they are that are slices: up to four are as often channels."""

NOT_SLICES = {"C": "channels", "T": "time points"}
ADVICE = "save it as an ImageJ stack of slices, as NIfTI, or each slice as a file of its own, named such as"

MM = {
    "nm": 1e-6,
    "um": 1e-3,
    "µm": 1e-3,
    "μm": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "micrometer": 1e-3,
    "mm": 1.0,
    "millimeter": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "inch": 25.4,
    "in": 25.4,
}
"""mm in the units of length that ImageJ and OME write."""

DIGITS = 9
"""Significant digits of a spacing: TIFF stores its inverse, as a ratio of whole numbers."""

LARGEST_IMAGEJ = 2**32 - 2**25
"""Bytes; ImageJ's own format ends at 4 GiB."""

SAME_TAGS = ("imagelength", "imagewidth", "dtype", "bitspersample", "samplesperpixel", "photometric", "planarconfig",
             "extrasamples", "compression")  # fmt: skip
"""What the pages of a stack have in common."""


class Planes(NamedTuple):
    """The planes of a TIFF.

    Attributes:
        pages: One page for each plane, in their order; a single one where all planes lie behind it.
        number: Of planes.
        offset: Byte where planes behind a single page begin; None where each has its page.
        is_stack: Whether this is a volume.
    """

    pages: list[Any]
    number: int
    offset: int | None
    is_stack: bool


def find_planes(file: Any, path: Path) -> Planes:
    """The planes of an opened TIFF, whose chain of pages is sound.

    Args:
        file: `tifffile.TiffFile`.
        path: The file, for messages.

    Raises:
        InputError: Pages that are no slices, are not alike, or are not all there.
    """
    pages = list(file.pages)
    if _lies_apart(file, len(pages), path):
        return Planes(pages, 1, None, False)
    series = list(file.series)
    _check_imagej(file, series, len(pages), path)
    plain = len(series) == len(pages) > 1 and not file.is_imagej and not file.is_ome
    if len(series) != 1 and not plain:
        raise InputError(
            f"{path}: a TIFF of {len(series)} pictures of different kinds; expected one picture, or the slices of one"
            " volume; save each as a file of its own."
        )
    if any(len(one.levels) > 1 for one in series) and len(pages) > 1:
        raise InputError(
            f"{path}: a TIFF of one picture in {len(series[0].levels)} sizes, a pyramid; expected one picture; save the"
            " size that is wanted, cut into tiles, as a file of its own."
        )
    number = len(series) if plain else sum(one.size for one in series) // max(pages[0].size, 1)
    if number <= 1 and len(pages) == 1:
        return Planes(pages, 1, None, False)
    axes = [("I", number)] if plain else _leading_axes(series[0])
    if plain:
        _check_alike(pages, path)
    _check_axes(axes, number, path)
    check_size((number, pages[0].imagelength, pages[0].imagewidth), path)
    if len(pages) == 1:
        return Planes(pages, number, _offset_of_all(series[0], pages[0], number, path), True)
    ordered = pages if plain else [None if one is None else pages[one.index] for one in series[0].pages]
    if None in ordered or not number == len(pages) == len(ordered):
        raise InputError(
            f"{path}: {len(pages)} pages were found, but its header promises {number} planes; the TIFF is broken, or"
            " refers to other files; export it again as one file."
        )
    if not plain:
        _check_alike(ordered, path)
    return Planes(ordered, number, None, True)


def stack_spacing(file: Any) -> tuple[float, float, float] | None:
    """Distances of slices, rows and columns in mm; None where the file does not state all three."""
    first: Any = file.pages[0]
    if file.is_ome:
        pixels = _ome_pixels(file)
        found = [
            _number(pixels.get(f"PhysicalSize{axis}")) * MM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0)
            for axis in "ZYX"
        ]
    elif file.is_imagej:
        said = file.imagej_metadata or {}
        unit = MM.get(str(said.get("unit", "")).replace("\\u00B5", "µ"), 0)
        distances = [_number(said.get("spacing")), *(_inverse(first.tags.get(tag)) for tag in (283, 282))]
        found = [distance * unit for distance in distances]
    else:
        return None
    if not all(np.isfinite(one) and one > 0 for one in found):
        return None
    slices, rows, columns = (float(f"{one:.{DIGITS}g}") for one in found)
    return slices, rows, columns


def stack_turn(turn: Turn) -> Turn:
    """The turn of a volume whose every slice is turned."""
    return Turn((0, *(1 + axis for axis in turn.axes)), (False, *turn.flips))


def slice_turn(turn: Turn) -> Turn:
    """The turn of each slice of a volume, see `stack_turn`."""
    return Turn(tuple(axis - 1 for axis in turn.axes[1:]), turn.flips[1:])


def write_stack(path: Path, values: np.ndarray, geometry: Geometry, orientation: int | None) -> Path:
    """Write a volume as an ImageJ stack, one page for each slice; above 4 GB as BigTIFF.

    Args:
        path: Where to write.
        values: `(Z, H, W)` or `(K, Z, H, W)` of 8 or 16 bit or float32, as stored; of K, each is a channel.
        geometry: Of the image, for the spacing.
        orientation: Value of the orientation tag; None: no tag.
    """
    import tifffile

    if values.ndim == 4:
        values = values.swapaxes(0, 1)
    metadata: dict[str, Any] = {"axes": "ZYX" if values.ndim == 3 else "ZCYX"}
    options: dict[str, Any] = {}
    if geometry.spacing_mm is not None:
        turn, spacing = geometry.turn, geometry.spacing_mm
        slices, rows, columns = spacing if turn is None else turn.inverse.apply_to_lengths(spacing)
        metadata |= {"spacing": slices, "unit": "mm"}
        options["resolution"] = (1 / columns, 1 / rows)
    if orientation is not None:
        options["extratags"] = [(ORIENTATION, "H", 1, orientation, False)]
    small = values.nbytes < LARGEST_IMAGEJ
    with whole_file(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(values),
            imagej=small,
            bigtiff=not small,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
            **options,
        )
    return path


def _leading_axes(series: Any) -> list[tuple[str, int]]:
    """The axes of a series beside rows, columns and samples, with their lengths, those of length 1 left out."""
    named = zip(series.get_axes(squeeze=False), series.get_shape(squeeze=False), strict=True)
    return [(axis, length) for axis, length in named if axis not in "YXS" and length > 1]


def _check_axes(axes: list[tuple[str, int]], number: int, path: Path) -> None:
    name = f"{path.stem}_z001.tif"
    other = [f"{length} {NOT_SLICES[axis]}" for axis, length in axes if axis in NOT_SLICES]
    if other or len(axes) > 1:
        said = " and ".join(other) or " x ".join(str(length) for _, length in axes)
        rest = [f"{length} slices" for axis, length in axes if axis == "Z" and other]
        of = f"{said} of {rest[0]}" if rest else said
        raise InputError(
            f"{path}: a TIFF of {of}; expected the slices of one channel and time; if these are slices, say so:"
            f" {ADVICE} {name}; else save each channel and time as a file of its own."
        )
    if axes and axes[0][0] != "Z" and number < FEWEST_PAGES:
        raise InputError(
            f"{path}: a TIFF of {number} pages that does not say whether they are slices or channels; expected one"
            f" picture, or a stack of slices; {ADVICE} {name}."
        )


def _check_alike(pages: list[Any], path: Path) -> None:
    """Refuse pages of different layout: they are no slices of one volume."""
    first = pages[0]
    for number, page in enumerate(pages[1:], 2):
        different = [name for name in SAME_TAGS if getattr(page, name) != getattr(first, name)]
        if _value(page, ORIENTATION) not in (None, _value(first, ORIENTATION)):
            different.append("orientation")
        if not np.array_equal(_value(page, 320), _value(first, 320)):
            different.append("palette")
        if different:
            raise InputError(
                f"{path}: a TIFF whose page {number} differs from its first in {', '.join(different)}; expected the"
                " slices of one volume, all alike; save each page as a file of its own."
            )


def _offset_of_all(series: Any, page: Any, number: int, path: Path) -> int:
    """Where the planes behind a single page begin; they must all be there."""
    offset, needed = series.dataoffset, number * page.nbytes
    if offset is None or int(page.compression) != 1 or not page.is_contiguous:
        raise InputError(
            f"{path}: a TIFF of {number} planes in one page, and not one after the other; expected a page for each;"
            " export it again."
        )
    if offset + needed > (stored := path.stat().st_size):
        raise InputError(
            f"{path}: broken or truncated: its header promises {number} planes, which take {needed:,} bytes, but"
            f" {max(0, stored - offset):,} were found; export or copy it again."
        )
    return int(offset)


def _lies_apart(file: Any, pages: int, path: Path) -> bool:
    """Whether a picture is one plane of an OME set of one file each, whose header speaks of all.

    Raises:
        InputError: It promises more planes than there are pages, maybe more than memory holds.
    """
    if not file.is_ome:
        return False
    sizes = [_number(_ome_pixels(file).get(f"Size{axis}"), 1) for axis in "ZCT"]
    if prod(sizes) <= pages * file.pages[0].samplesperpixel:
        return False
    if pages == 1 and "FileName=" in file.ome_metadata:
        return True
    raise InputError(
        f"{path}: {pages} pages were found, but its OME header promises {prod(sizes):,.0f} planes; it is broken, or the"
        " others lie in other files; export it again as one file."
    )


def _check_imagej(file: Any, series: list[Any], pages: int, path: Path) -> None:
    """Refuse an ImageJ header that does not fit: without it, the first plane would be taken for all."""
    said = file.imagej_metadata if file.is_imagej else None
    if not said or series[0].kind == "imagej":
        return
    promised = prod(_number(said.get(name), 1) for name in ("frames", "slices", "channels"))
    if promised > 1:
        raise InputError(
            f"{path}: broken or truncated: its ImageJ header promises {promised:,.0f} planes, but {pages} pages were"
            " found that do not hold them; export or copy it again."
        )


def _ome_pixels(file: Any) -> dict[str, str]:
    """The attributes of the first image's pixels in an OME header, empty where it cannot be read."""
    try:
        root = ElementTree.fromstring(file.ome_metadata or "")
    except ElementTree.ParseError:
        return {}
    found = next((one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels"), None)
    return {} if found is None else dict(found.attrib)


def _number(text: Any, otherwise: float = float("nan")) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return otherwise


def _inverse(tag: Any) -> float:
    """Of a ratio of whole numbers as TIFF stores it."""
    value = () if tag is None else tag.value
    return value[1] / value[0] if isinstance(value, tuple) and len(value) == 2 and value[0] else float("nan")


def _value(page: Any, code: int) -> Any:
    tag = page.tags.get(code)
    return None if tag is None else tag.value

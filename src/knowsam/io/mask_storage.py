"""How a picture file stores a mask: one bit, a palette, compression with loss, transparency, colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io.picture_file import open_picture
from knowsam.types import MaskStorage

LOSSY_FORMATS = ("JPEG", "MPO")
LOSSY_TIFF_COMPRESSIONS = (6, 7, 33003, 33005, 33007, 34892, 34933, 34934)
BLACK_AND_WHITE = {(0, 0, 0), (255, 255, 255)}

CHANNEL_NOISE = 48
"""Channels of a grey JPEG saved as RGB differ by less than this, wherever it is not a colour that was drawn."""

SHOWN_COLOURS = 4


def mask_storage(path: Path, is_tiff: bool) -> tuple[MaskStorage, np.ndarray | None]:
    """What the header of a readable picture file says.

    Args:
        path: The file.
        is_tiff: Whether it is a TIFF.

    Returns:
        How the mask is stored, and the grey value of each palette index, `(256,)` or longer, or None where the pixels
        are no indices of a grey palette.
    """
    one_bit, lossy, colours = _of_tiff(path) if is_tiff else _of_picture(path)
    if colours is None:
        return MaskStorage(one_bit, lossy), None
    listed = tuple((int(red), int(green), int(blue)) for red, green, blue in colours)
    if (colours != colours[:, :1]).any():
        return MaskStorage(lossy=lossy, palette=listed), None
    greys = np.zeros(max(256, len(colours)), np.uint8)
    greys[: len(colours)] = colours[:, 0]
    return MaskStorage(one_bit=len(listed) == 2 and set(listed) == BLACK_AND_WHITE, lossy=lossy), greys


def single_channel(array: np.ndarray, path: Path, lossy: bool) -> np.ndarray:
    """The one channel of a mask that was saved as RGB.

    Args:
        array: `(H, W, 3)`.
        path: The file, for the message.
        lossy: Whether compression may have made the channels differ a little.

    Returns:
        `(H, W)`.

    Raises:
        InputError: It is a colour picture.
    """
    if (array == array[..., :1]).all():
        return array[..., 0]
    if lossy and np.ptp(array.astype(np.int32), axis=-1).max() < CHANNEL_NOISE:
        return np.rint(array.mean(axis=-1)).astype(array.dtype)
    colours, counts = np.unique(array.reshape(-1, 3), axis=0, return_counts=True)
    order = np.argsort(-counts)[:SHOWN_COLOURS]
    named = ", ".join(f"({', '.join(map(str, colours[index].tolist()))}): {counts[index]} px" for index in order)
    more = ", ..." if len(colours) > SHOWN_COLOURS else ""
    raise InputError(
        f"{path}: a colour picture of {len(colours)} colours ({named}{more}); expected one number per pixel; "
        "give each colour a number and save the numbers as grey PNG."
    )


def check_opaque(alpha: np.ndarray, path: Path) -> None:
    """Refuse a mask that is transparent anywhere: what lies below may be the object, or may not.

    Raises:
        InputError: Not all of the alpha channel has its largest value.
    """
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    clear = int(np.count_nonzero(alpha != opaque))
    if clear:
        raise InputError(
            f"{path}: a mask with {clear} of {alpha.size} pixels transparent; expected one number per pixel and no"
            " transparency, since either could be the object; save the mask as grey PNG without an alpha channel."
        )


def _of_picture(path: Path) -> tuple[bool, bool, np.ndarray | None]:
    """One bit, lossy, colours `(N, 3)` of the palette."""
    with open_picture(path) as image:
        lossy = image.format in LOSSY_FORMATS
        if image.mode not in ("P", "PA"):
            return image.mode == "1", lossy, None
        image.load()
        return False, lossy, np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))


def _of_tiff(path: Path) -> tuple[bool, bool, np.ndarray | None]:
    """As `_of_picture`."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        lossy = int(page.compression) in LOSSY_TIFF_COMPRESSIONS
        if int(page.photometric) == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            return False, lossy, palette_colours(page.colormap)
        return page.bitspersample == 1 and page.samplesperpixel == 1, lossy, None


def palette_colours(colormap: np.ndarray) -> np.ndarray:
    """The colours `(N, 3)` uint8 of a TIFF palette `(3, N)`, of 16 bits; some writers fill the lower 8 only."""
    shift = 8 if colormap.max() > 255 else 0
    return (colormap.T >> shift).astype(np.uint8)

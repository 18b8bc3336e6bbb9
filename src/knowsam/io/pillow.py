"""Pictures through Pillow: from its modes to grey or RGB, and the orientation tag."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knowsam.errors import InputError
from knowsam.io.checks import unreadable
from knowsam.io.mask_storage import check_opaque
from knowsam.io.picture_file import check_content, open_picture, png_depth
from knowsam.types import Turn

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

ORIENTATION = 0x0112  # of EXIF and TIFF
TURNS = {
    2: Turn((0, 1), (False, True)),
    3: Turn((0, 1), (True, True)),
    4: Turn((0, 1), (True, False)),
    5: Turn((1, 0), (False, False)),
    6: Turn((1, 0), (False, True)),
    7: Turn((1, 0), (True, True)),
    8: Turn((1, 0), (True, False)),
}
"""From the stored pixels to those shown, by the value of the orientation tag; 1 is as stored."""


def _exif_orientation(image: Image) -> int:
    """The orientation tag of a loaded Pillow picture; 0 where there is none, or none that can be read."""
    try:
        found = image.getexif().get(ORIENTATION, 0)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 0
    return found if isinstance(found, int) else 0


def read_pillow(path: Path, as_label: bool, frames: Sequence[int] | None = None) -> tuple[np.ndarray, int]:
    """Pixels as stored, `(H, W)` or `(H, W, 3)`, and the orientation tag.

    Args:
        path: The file.
        as_label: Whether it is a mask.
        frames: Those of a TIFF to stack, `(Z, H, W)` or `(Z, H, W, 3)`; None: the first, or the only one.
    """
    from PIL import UnidentifiedImageError

    kind = f"{path.suffix[1:].upper()} picture"
    try:
        with open_picture(path) as image:
            if image.format in ("GIF", "PNG") and getattr(image, "n_frames", 1) > 1:
                raise InputError(
                    f"{path}: a {image.format} of several pictures; expected one; save each as a PNG of its own."
                )
            check_content(image, path)
            if frames is not None:
                return _stacked(image, path, as_label, frames)
            depth = png_depth(path) if image.format == "PNG" else 8
            image.load()
            if as_label and depth == 16 and image.mode in ("RGB", "RGBA", "LA"):
                raise InputError(f"{path}: a 16-bit colour mask; expected indices in a grey or palette PNG.")
            array = _channels(image, path, as_label)
            if as_label and depth in (2, 4) and image.mode == "L":
                # Pillow stretches 2- and 4-bit grey to 0..255; class indices must not be stretched.
                array = array // (255 // (2**depth - 1))
            return array, _exif_orientation(image)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        if isinstance(error, UnidentifiedImageError):
            raise unreadable(path, kind, ValueError("no known picture format inside")) from error
        raise unreadable(path, kind, error) from error


def _stacked(image: ImageFile, path: Path, as_label: bool, frames: Sequence[int]) -> tuple[np.ndarray, int]:
    arrays = []
    for frame in frames:
        image.seek(frame)
        image.load()
        arrays.append(_channels(image, path, as_label))
    return np.stack(arrays), _exif_orientation(image)


def _channels(image: Image, path: Path, as_label: bool) -> np.ndarray:
    """A loaded Pillow picture as `(H, W)` or `(H, W, 3)`, by the table above."""
    if image.mode == "1":
        return np.asarray(image, dtype=np.uint8) * np.uint8(1 if as_label else 255)
    if image.mode == "P":
        return np.asarray(image) if as_label else _expand_palette(image)
    if image.mode in ("L", "I", "F", "RGB") or image.mode.startswith("I;16"):
        array = np.asarray(image)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if as_label and image.mode in ("LA", "RGBA", "PA"):
        check_opaque(np.asarray(image)[..., -1], path)
    if image.mode == "LA":
        return np.asarray(image)[..., 0]
    if image.mode in ("RGBA", "RGBX"):
        return np.asarray(image)[..., :3]
    if image.mode == "PA":
        return np.asarray(image)[..., 0] if as_label else np.asarray(image.convert("RGBA"))[..., :3]
    raise InputError(
        f"{path}: pixels in colour mode {image.mode}; expected grey or RGB; convert it and save it as PNG."
    )


def _expand_palette(image: Image) -> np.ndarray:
    flat = image.getpalette("RGB") or []
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(flat) // 3] = np.reshape(flat, (-1, 3))
    return look_up(np.asarray(image), palette)


def look_up(index: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colours of palette indices: `(H, W)` for an all-grey palette `(N, 3)`, else `(H, W, 3)`."""
    if (palette == palette[:, :1]).all():
        return np.ascontiguousarray(palette[:, 0])[index]
    return palette[index]

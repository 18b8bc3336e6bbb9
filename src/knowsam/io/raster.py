"""Pictures: PNG, JPEG, BMP, GIF through Pillow, TIFF through tifffile, its stacks as volumes.

How pixels become channels:

| in the file                   | as an image                   | as a label                           |
|-------------------------------|-------------------------------|--------------------------------------|
| grey, 8 or 16 bit, float TIFF | C = 1                         | the values                           |
| grey of 2 or 4 bit (PNG)      | C = 1, stretched to 0..255    | the stored values 0..3 or 0..15      |
| 1 bit                         | C = 1, 0 and 255              | 0 and 1 (white)                      |
| RGB                           | C = 3                         | the channel, if all three are equal  |
| RGBA, grey with alpha         | alpha dropped, C = 3 or 1     | as RGB or grey, if opaque everywhere |
| palette                       | RGB; C = 1 if all are grey    | the greys if all are, else indices   |

Pillow decodes colour PNG of 16 bits per channel to 8 bits: that is accepted for images and refused for
labels. A JPEG mask is read as it is and marked as lossy: what its values mean is decided for all masks of a set
together (`knowsam.data.labels`).

The orientation tag (EXIF in JPEG and PNG, tag 274 in TIFF) is applied to images and masks alike: arrays are as viewers
show them. What is written is stored as the image was, tag included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from knowsam.io.checks import check_finite, check_not_empty, whole_numbers
from knowsam.io.mask_storage import mask_storage, single_channel
from knowsam.io.names import add_suffix
from knowsam.io.picture_file import is_tiff
from knowsam.io.pillow import ORIENTATION, TURNS, read_pillow
from knowsam.io.tiff import read_tiff
from knowsam.io.tiff_stack import slice_turn, stack_turn, write_stack
from knowsam.storage import whole_file
from knowsam.types import Geometry, MedicalImage, MedicalLabel, Turn


def read_image(path: Path) -> MedicalImage:
    """Read a picture.

    Args:
        path: A PNG, JPEG, TIFF, BMP or GIF file.

    Returns:
        `(H, W, 1)` or `(H, W, 3)` in the file's dtype and range, spacing unknown; of a TIFF stack `(Z, H, W, C)`
        (`slice_axis` 0), with the spacing that it states.

    Raises:
        InputError: Broken file, several pages that are no slices, a colour space other than grey or RGB, NaN or
            infinite values.
    """
    array, geometry = _read(path, as_label=False)
    check_not_empty(array, path)
    check_finite(array, path)
    return MedicalImage(array, geometry, path)


def read_label(path: Path) -> MedicalLabel:
    """Read a mask picture.

    Args:
        path: A PNG, JPEG, TIFF, BMP or GIF file.

    Returns:
        `(H, W)` or `(Z, H, W)` int32, the values as stored; of a palette picture its greys, or the indices where it has
        colours.

    Raises:
        InputError: Broken file, a colour picture, one that is transparent anywhere, values that are not whole numbers.
    """
    array, geometry = _read(path, as_label=True)
    storage, greys = mask_storage(path, is_tiff(path))
    if array.shape[-1] > 1:
        array = single_channel(array, path, storage.lossy)
    else:
        array = array[..., 0] if greys is None else greys[array[..., 0]]
    return MedicalLabel(whole_numbers(array, path), geometry, path, storage)


def write_label(path_without_suffix: Path, label: np.ndarray, like: MedicalImage) -> Path:
    """Write class indices as a grey PNG, 8 bit for uint8 and 16 bit for uint16; those of a stack as an ImageJ stack."""
    from PIL import Image

    if like.is_volume:
        return _write_stack(path_without_suffix, label, like)
    path = add_suffix(path_without_suffix, ".png")
    options: dict[str, Any] = {}
    if like.geometry.turn is not None:
        options["exif"] = exif = Image.Exif()
        exif[ORIENTATION] = _tag_of(like.geometry.turn)
    with whole_file(path) as temporary:
        Image.fromarray(np.ascontiguousarray(like.geometry.as_stored(label))).save(temporary, format="PNG", **options)
    return path


def write_probabilities(path_without_suffix: Path, probs: np.ndarray, like: MedicalImage) -> Path:
    """Write `(K, H, W)` float32 as a TIFF with one page per class, `(K, Z, H, W)` with one channel per class."""
    import tifffile

    if like.is_volume:
        return _write_stack(path_without_suffix, probs, like, first=1)
    path = add_suffix(path_without_suffix, ".tif")
    turn = like.geometry.turn
    tags = [] if turn is None else [(ORIENTATION, "H", 1, _tag_of(turn), True)]
    pages = np.ascontiguousarray(like.geometry.as_stored(probs, first=1))
    with whole_file(path) as temporary:
        tifffile.imwrite(temporary, pages, photometric="minisblack", compression="zlib", extratags=tags)
    return path


def write_map(path_without_suffix: Path, values: np.ndarray, like: MedicalImage) -> Path:
    """Write `(H, W)` float32 in [0, 1] as a grey PNG of 8 bit, 255 standing for 1; that of a stack as float32."""
    if like.is_volume:
        return _write_stack(path_without_suffix, values, like)
    return write_label(path_without_suffix, np.rint(values * 255).astype(np.uint8), like)


def _write_stack(path_without_suffix: Path, values: np.ndarray, like: MedicalImage, first: int = 0) -> Path:
    turn = like.geometry.turn
    tag = None if turn is None else _tag_of(slice_turn(turn))
    stored = like.geometry.as_stored(values, first)
    return write_stack(add_suffix(path_without_suffix, ".tif"), stored, like.geometry, tag)


def _read(path: Path, as_label: bool) -> tuple[np.ndarray, Geometry]:
    """Pixels as shown, `(H, W, C)` or `(Z, H, W, C)`, and how they were turned."""
    spacing: tuple[float, ...] | None = None
    if is_tiff(path):
        array, orientation, spacing = read_tiff(path, as_label)
    else:
        array, orientation = read_pillow(path, as_label)
        array = array if array.ndim == 3 else array[..., None]
    turn = TURNS.get(orientation)
    if turn is None:
        return array, Geometry(spacing)  # 1 is what many writers store unasked, and says as little as no tag
    if array.ndim == 4:
        turn = stack_turn(turn)
    spacing = None if spacing is None else turn.apply_to_lengths(spacing)
    return np.ascontiguousarray(turn.apply(array)), Geometry(spacing, turn=turn, oriented=True)


def _tag_of(turn: Turn) -> int:
    return next(tag for tag, one in TURNS.items() if one == turn)

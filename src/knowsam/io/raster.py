"""Pictures: PNG, JPEG, BMP, GIF through Pillow, TIFF through tifffile.

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

import struct
import zlib
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io.checks import check_finite, check_not_empty, unreadable, whole_numbers
from knowsam.io.limits import check_size, open_picture
from knowsam.io.mask_storage import (
    LOSSY_TIFF_COMPRESSIONS,
    check_opaque,
    mask_storage,
    palette_colours,
    single_channel,
)
from knowsam.io.names import add_suffix
from knowsam.storage import whole_file
from knowsam.types import Geometry, MedicalImage, MedicalLabel, Turn

if TYPE_CHECKING:
    from PIL.Image import Image

TIFF_SUFFIXES = (".tif", ".tiff")
GREY_WHITE_IS_ZERO, PALETTE = 0, 3  # TIFF tag 262, photometric interpretation
COLOUR_PHOTOMETRICS = (0, 1, 2, 3)  # the ones read here: grey both ways, RGB, palette; not CMYK, YCbCr, Lab
LAYOUT_TAGS = frozenset((256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339))
"""Tags that say how the bytes of a TIFF become pixels: size, depth, compression, strips, tiles, colours."""
SEPARATE_PLANES = 2  # TIFF tag 284
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


def read_image(path: Path) -> MedicalImage:
    """Read a picture.

    Args:
        path: A PNG, JPEG, TIFF, BMP or GIF file.

    Returns:
        `(H, W, 1)` or `(H, W, 3)` in the file's dtype and range, spacing unknown.

    Raises:
        InputError: Broken file, several pages, a colour space other than grey or RGB, NaN or infinite values.
    """
    array, geometry = _read(path, as_label=False)
    check_not_empty(array, path)
    check_finite(array, path)
    return MedicalImage(array if array.ndim == 3 else array[..., None], geometry, path)


def read_label(path: Path) -> MedicalLabel:
    """Read a mask picture.

    Args:
        path: A PNG, JPEG, TIFF, BMP or GIF file.

    Returns:
        `(H, W)` int32, the values as stored; of a palette picture its greys, or the indices where it has colours.

    Raises:
        InputError: Broken file, a colour picture, one that is transparent anywhere, values that are not whole numbers.
    """
    array, geometry = _read(path, as_label=True)
    storage, greys = mask_storage(path, _is_tiff(path))
    if array.ndim == 3:
        array = single_channel(array, path, storage.lossy)
    elif greys is not None:
        array = greys[array]
    return MedicalLabel(whole_numbers(array, path), geometry, path, storage)


def write_label(path_without_suffix: Path, label: np.ndarray, like: MedicalImage) -> Path:
    """Write class indices as a grey PNG, 8 bit for uint8 and 16 bit for uint16."""
    from PIL import Image

    path = add_suffix(path_without_suffix, ".png")
    options: dict[str, Any] = {}
    if like.geometry.turn is not None:
        options["exif"] = exif = Image.Exif()
        exif[ORIENTATION] = _tag_of(like.geometry.turn)
    with whole_file(path) as temporary:
        Image.fromarray(np.ascontiguousarray(like.geometry.as_stored(label))).save(temporary, format="PNG", **options)
    return path


def write_probabilities(path_without_suffix: Path, probs: np.ndarray, like: MedicalImage) -> Path:
    """Write `(K, H, W)` float32 as a TIFF with one page per class."""
    import tifffile

    path = add_suffix(path_without_suffix, ".tif")
    turn = like.geometry.turn
    tags = [] if turn is None else [(ORIENTATION, "H", 1, _tag_of(turn), True)]
    pages = np.ascontiguousarray(like.geometry.as_stored(probs, first=1))
    with whole_file(path) as temporary:
        tifffile.imwrite(temporary, pages, photometric="minisblack", compression="zlib", extratags=tags)
    return path


def write_map(path_without_suffix: Path, values: np.ndarray, like: MedicalImage) -> Path:
    """Write `(H, W)` float32 in [0, 1] as a grey PNG of 8 bit, 255 standing for 1."""
    return write_label(path_without_suffix, np.rint(values * 255).astype(np.uint8), like)


def _read(path: Path, as_label: bool) -> tuple[np.ndarray, Geometry]:
    """Pixels as shown, `(H, W)` or `(H, W, 3)`, and how they were turned."""
    array, orientation = _read_tiff(path, as_label) if _is_tiff(path) else _read_pillow(path, as_label)
    turn = TURNS.get(orientation)
    if turn is None:
        return array, Geometry()  # 1 is what many writers store unasked, and says as little as no tag
    return np.ascontiguousarray(turn.apply(array)), Geometry(turn=turn, oriented=True)


def _tag_of(turn: Turn) -> int:
    return next(tag for tag, one in TURNS.items() if one == turn)


def _exif_orientation(image: Image) -> int:
    """The orientation tag of a loaded Pillow picture; 0 where there is none, or none that can be read."""
    try:
        found = image.getexif().get(ORIENTATION, 0)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 0
    return found if isinstance(found, int) else 0


def _is_tiff(path: Path) -> bool:
    return path.name.lower().endswith(TIFF_SUFFIXES)


def _read_pillow(path: Path, as_label: bool) -> tuple[np.ndarray, int]:
    """Pixels as stored, and the orientation tag."""
    from PIL import UnidentifiedImageError

    kind = f"{path.suffix[1:].upper()} picture"
    try:
        with open_picture(path) as image:
            if image.format in ("GIF", "PNG") and getattr(image, "n_frames", 1) > 1:
                raise InputError(
                    f"{path}: a {image.format} of several pictures; expected one; save each as a PNG of its own."
                )
            depth = _png_depth(path) if image.format == "PNG" else 8
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


def _png_depth(path: Path) -> int:
    """Bits per sample: byte 24 of a PNG, in the header chunk that must come first."""
    with path.open("rb") as file:
        return file.read(25)[24]


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
    return _look_up(np.asarray(image), palette)


def _look_up(index: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colours of palette indices: `(H, W)` for an all-grey palette `(N, 3)`, else `(H, W, 3)`."""
    if (palette == palette[:, :1]).all():
        return np.ascontiguousarray(palette[:, 0])[index]
    return palette[index]


def _read_tiff(path: Path, as_label: bool) -> tuple[np.ndarray, int]:
    """Pixels as stored, and the orientation tag."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            _check_single(file, page, path)
            _check_tags(file, page, path)
            _check_tiff_page(page, path, as_label)
            try:
                array = page.asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                # LZW, JPEG and fax compression need a decoder that tifffile does not bring; Pillow has them.
                return _read_compressed_tiff(page, path, as_label)
            return _tiff_channels(array, page, path, as_label), _tiff_orientation(page)
    except InputError:
        raise
    except (OSError, ValueError, IndexError, KeyError, RuntimeError, struct.error, zlib.error) as error:
        raise unreadable(path, "TIFF picture", error) from error


def _check_single(file: Any, page: Any, path: Path) -> None:
    """Refuse a stack: several pages, or the planes that ImageJ and others store behind a single one."""
    planes = sum(series.size for series in file.series) // page.size if page.size else 1
    if len(file.pages) != 1 or planes > 1:
        found = f"{len(file.pages)} pages" if len(file.pages) != 1 else f"{planes} planes in one page"
        raise InputError(
            f"{path}: a TIFF of {found}, a stack; expected one picture; save each plane as a file of its own, named"
            f" such as {path.stem}_z001.tif, or the stack as NIfTI."
        )


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


def _check_tiff_page(page: Any, path: Path, as_label: bool) -> None:
    check_size((page.imagelength, page.imagewidth), path)
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


def _read_compressed_tiff(page: Any, path: Path, as_label: bool) -> tuple[np.ndarray, int]:
    if page.samplesperpixel > 1 and page.bitspersample > 8:
        name = getattr(page.compression, "name", page.compression)
        raise InputError(
            f"{path}: 16-bit colour with {name} compression cannot be read without loss; save it "
            "uncompressed or with zlib (deflate) compression."
        )
    array, left = _read_pillow(path, as_label)
    orientation = _tiff_orientation(page)
    if left != orientation and orientation in TURNS:  # Pillow has turned it, as it does with TIFF alone
        array = TURNS[orientation].inverse.apply(array)
    return array, orientation


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
        return _look_up(array, palette_colours(page.colormap))
    if photometric == GREY_WHITE_IS_ZERO and array.dtype.kind in "ui":
        return np.iinfo(array.dtype).max - array
    return np.ascontiguousarray(array)

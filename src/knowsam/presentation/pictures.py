"""Pictures: masks over images, contact sheets, colour maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from knowsam.storage import whole_file

CLASS_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""RGB of classes 1 to 7, and again from 8 on: the palette of Okabe and Ito, made for colour-blind readers."""
OPACITY = 0.45
GAP = 4
CAPTION_HEIGHT = 16
VOLUME_SHEET_SLICES = 12
LARGEST_PNG = 80_000
"""In bytes; a larger picture in a page (a noisy photograph) becomes a JPEG, at half to a fifth of it."""
JPEG_QUALITY = 88


def class_colour(index: int) -> tuple[int, int, int]:
    """RGB 0..255 of class `index` >= 1."""
    return CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]


def css_colour(colour: tuple[int, int, int]) -> str:
    """`"#e69f00"` for `(230, 159, 0)`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def overlay(picture: np.ndarray, label: np.ndarray, outline: bool = True) -> np.ndarray:
    """Draw a label map over an image.

    Args:
        picture: `(H, W, C)` float in [0, 1], C = 1 or 3.
        label: `(H, W)` int, 0 = background.
        outline: Draw the border of each region opaque, so that it stands out on any background.

    Returns:
        `(H, W, 3)` uint8.
    """
    rgb = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    drawn = rgb * 255.0
    for index in np.unique(label):
        if index <= 0:
            continue
        region = label == index
        colour = np.array(class_colour(int(index)), float)
        drawn[region] = (1 - OPACITY) * drawn[region] + OPACITY * colour
        if outline:
            drawn[region & ~_interior(region)] = colour
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _interior(region: np.ndarray) -> np.ndarray:
    padded = np.pad(region, 1, mode="edge")
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & region


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str] = (), scale: int = 1) -> np.ndarray:
    """Put pictures, which may differ in size, into a grid.

    Args:
        rows: Rows of `(h, w, 3)` uint8 pictures.
        captions: One text per column, written above the first row.
        scale: Enlarge each picture by this whole factor, pixels staying square.

    Returns:
        `(H, W, 3)` uint8 on a dark grey ground.
    """
    scaled = [[np.repeat(np.repeat(picture, scale, 0), scale, 1) for picture in row] for row in rows]
    columns = max(len(row) for row in scaled)
    widths = [max(row[i].shape[1] for row in scaled if i < len(row)) for i in range(columns)]
    heights = [max(picture.shape[0] for picture in row) for row in scaled]
    top = CAPTION_HEIGHT if captions else 0
    sheet = np.full((top + sum(heights) + GAP * (len(rows) + 1), sum(widths) + GAP * (columns + 1), 3), 40, np.uint8)
    y = top + GAP
    for row, height in zip(scaled, heights, strict=True):
        x = GAP
        for picture, width in zip(row, widths, strict=False):
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            x += width + GAP
        y += height + GAP
    if captions:
        image = Image.fromarray(sheet)
        draw = ImageDraw.Draw(image)
        x = GAP
        for caption, width in zip(captions, widths, strict=True):
            draw.text((x, 3), caption, fill=(230, 230, 230))
            x += width + GAP
        sheet = np.asarray(image)
    return sheet


def volume_sheet(slices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Up to 12 slices of a volume with their label maps, evenly spread over the slices that have foreground.

    Args:
        slices: `(N, H, W, C)` float in [0, 1].
        labels: `(N, H, W)` int.

    Returns:
        `(h, w, 3)` uint8.
    """
    with_foreground = np.flatnonzero((labels > 0).any(axis=(1, 2)))
    candidates = with_foreground if len(with_foreground) else np.arange(len(labels))
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, VOLUME_SHEET_SLICES).round().astype(int))]
    drawn = [overlay(slices[i], labels[i]) for i in chosen]
    per_row = 4
    scale = max(1, round(192 / max(slices.shape[1:3])))
    return contact_sheet([drawn[i : i + per_row] for i in range(0, len(drawn), per_row)], scale=scale)


def heat(values: np.ndarray) -> np.ndarray:
    """Colours for a map of numbers: black for 0 over red to yellowish white for 1 (matplotlib's inferno).

    Args:
        values: `(H, W)` float in [0, 1].

    Returns:
        `(H, W, 3)` uint8.
    """
    from matplotlib import colormaps

    return colormaps["inferno"](np.asarray(values), bytes=True)[..., :3]


def data_uri(picture: np.ndarray, largest_png: int = LARGEST_PNG) -> str:
    """A picture as text that a page can hold: PNG, or JPEG where that is much smaller.

    Args:
        picture: `(H, W, 3)` uint8.
        largest_png: In bytes; 0 makes every picture a JPEG.
    """
    image, buffer, kind = Image.fromarray(np.ascontiguousarray(picture)), io.BytesIO(), "png"
    if largest_png:
        image.save(buffer, "PNG", optimize=True)
    if buffer.tell() > largest_png or not largest_png:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_png(path: Path, picture: np.ndarray) -> Path:
    """Write `(H, W, 3)` uint8 atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        Image.fromarray(picture).save(temporary)
    return path

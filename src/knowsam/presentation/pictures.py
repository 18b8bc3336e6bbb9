"""Pictures: masks over images, contact sheets, colour maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

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
OPACITY = 0.3
"""Of the tint of a region: its colour is known from the contour, what lies under it must be seen."""
DARK, LIGHT = (0, 0, 0), (255, 255, 255)
"""RGB of the lines on either side of a contour: on any ground one of the two is seen."""
PX_PER_LINE = 220
"""A contour is 1 px wide per so many px of the picture's longer side."""
WIDE_LINES = 5
"""A region gets the inner line where it is at least twice so many lines wide."""
OVERLAY_SIDE, SLICE_SIDE = 768, 192
"""In px; small pictures, and slices of a sheet, are enlarged by a whole factor to about this side."""
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


def overlay(picture: np.ndarray, label: np.ndarray, scale: int = 1) -> np.ndarray:
    """Draw a label map over an image, so that it is seen on any ground.

    Each region is tinted and has a contour in its colour, with a dark line outside and, where the region is wide
    enough, a light line inside. Lines lie at the border of the pixels and do not hide more of a small picture than of a
    large one.

    Args:
        picture: `(H, W, C)` float in [0, 1], C = 1 or 3.
        label: `(H, W)` int, 0 = background; below 0 nothing is drawn.
        scale: Enlarge the picture by this whole factor, pixels staying square; lines may then be thinner than a pixel
            of the image.

    Returns:
        `(scale H, scale W, 3)` uint8.
    """
    rgb = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    drawn, label = enlarge(rgb * 255.0, scale), enlarge(np.maximum(label, 0), scale)
    region = label > 0
    colours = np.array([DARK, *(class_colour(index) for index in range(1, int(label.max()) + 1))], float)[label]
    drawn[region] = (1 - OPACITY) * drawn[region] + OPACITY * colours[region]
    border = _border(label)
    if border.any():
        line = _line_width(region, border)
        depth = 1 + distance_transform_edt(~border)
        drawn[region & (depth < 2 * line + 1) & _is_wide(depth, line)] = LIGHT
        contour = depth < line + 1
        drawn[contour] = colours[contour]
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _border(label: np.ndarray) -> np.ndarray:
    """Pixels beside one of another class, on both sides."""
    border = np.zeros(label.shape, bool)
    rows, columns = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    border[1:] |= rows
    border[:-1] |= rows
    border[:, 1:] |= columns
    border[:, :-1] |= columns
    return border


def _line_width(region: np.ndarray, border: np.ndarray) -> int:
    """In px: grows with the picture, but vessels are not to vanish under their own contours."""
    half_thickness = region.sum() / max(1, (border & region).sum()) / 2
    return max(1, min(round(max(region.shape) / PX_PER_LINE), int(half_thickness)))


def _is_wide(depth: np.ndarray, line: int) -> np.ndarray:
    """Where a region is so wide that two lines on each side leave most of it to be seen."""
    core = depth > WIDE_LINES * line
    return distance_transform_edt(~core) < WIDE_LINES * line + 1 if core.any() else core


def scale_to(shape: tuple[int, ...], side: int) -> int:
    """The whole factor that brings the longer side of a small picture `(h, w)` near to `side` px, at least 1."""
    return max(1, round(side / max(shape[:2])))


def enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    """A picture `(h, w, ...)` enlarged by a whole factor, its pixels staying square."""
    return np.repeat(np.repeat(picture, factor, 0), factor, 1)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str] = (), scale: int = 1) -> np.ndarray:
    """Put pictures, which may differ in size, into a grid.

    Args:
        rows: Rows of `(h, w, 3)` uint8 pictures.
        captions: One text per column, written above the first row.
        scale: Enlarge each picture by this whole factor, pixels staying square.

    Returns:
        `(H, W, 3)` uint8 on a dark grey ground.
    """
    scaled = [[enlarge(picture, scale) for picture in row] for row in rows]
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
    scale = scale_to(slices.shape[1:], SLICE_SIDE)
    drawn = [overlay(slices[i], labels[i], scale) for i in chosen]
    per_row = 4
    return contact_sheet([drawn[i : i + per_row] for i in range(0, len(drawn), per_row)])


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

"""The pictures of a case: image, truth, prediction, errors, entropy, each small enough to travel inside the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from knowsam.presentation.pictures import data_uri, enlarge, overlay
from knowsam.presentation.text import count_text
from knowsam.reporting.cases import SliceView
from knowsam.types import IGNORE

# No colour of a class (`CLASS_COLOURS`) comes near them, and no two of them to each other or to the dimmed image, for
# protan, deutan and tritan readers too: at least 40 units of CIELAB from whatever they are seen beside.
MISSED, EXTRA, CONFUSED = (255, 255, 255), (213, 0, 255), (0, 255, 0)
DIMMED = 0.55
"""Brightness of the image under the errors."""
ENTROPY_MAP = "cividis"
"""Made for colour-blind readers; grows in lightness, so that it prints."""

SHORTEST_SIDE, LONGEST_SIDE = 200, 360
"""Pictures are enlarged by whole factors or shrunk until their longer side lies between, in px."""
CROP_MARGIN = 0.35
"""Shown around the structures, as a share of their longer side."""
CROP_BELOW = 0.7
"""A picture is cropped only where that saves so much of a side."""


@dataclass(frozen=True)
class Panel:
    """One picture with its heading and its alternative text."""

    title: str
    uri: str
    alt: str
    width: int
    height: int


def panels(view: SliceView, name: str) -> list[Panel]:
    """The five pictures of one slice.

    Args:
        view: What to draw.
        name: What the alternative texts call it.
    """
    window = crop_window(view.truth, view.prediction)
    picture, truth, prediction, entropy = (
        array[window] for array in (view.picture, view.truth, view.prediction, view.entropy)
    )
    scale = enlargement(truth.shape)
    wrong = (view.prediction != view.truth) & (view.truth != IGNORE)
    pictures = {
        "image": (overlay(picture, np.zeros_like(truth), scale), f"{name}: the image alone"),
        "truth": (overlay(picture, truth, scale), f"{name}: true mask in colour over the image"),
        "prediction": (overlay(picture, prediction, scale), f"{name}: predicted mask in colour over the image"),
        "errors": (
            enlarge(error_picture(picture, prediction, truth), scale),
            f"{name}: {count_text(int(wrong.sum()), 'wrong pixel')} marked, most of them {_most_frequent_error(view)}",
        ),
        "entropy": (
            enlarge(entropy_picture(entropy), scale),
            f"{name}: entropy of the prediction, mean {view.entropy.mean():.2f} of 1; bright where it is uncertain",
        ),
    }
    drawn = []
    for title, (large, alt) in pictures.items():
        fitted = shrink(large)
        drawn.append(Panel(title, data_uri(fitted), alt, fitted.shape[1], fitted.shape[0]))
    return drawn


def error_kinds(prediction: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Where foreground was missed, where there is too much of it, where it has the wrong class; `(h, w)` bool each."""
    known = truth != IGNORE
    return {
        "missed": known & (truth > 0) & (prediction == 0),
        "too much": known & (truth == 0) & (prediction > 0),
        "wrong class": known & (truth > 0) & (prediction > 0) & (prediction != truth),
    }


def _most_frequent_error(view: SliceView) -> str:
    counts = {name: int(mask.sum()) for name, mask in error_kinds(view.prediction, view.truth).items()}
    return max(counts, key=lambda name: counts[name]) if any(counts.values()) else "none"


def error_picture(picture: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Errors in opaque colours over a dimmed grey image, `(h, w, 3)` uint8."""
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2) * 255 * DIMMED
    masks = error_kinds(prediction, truth).values()
    for mask, colour in zip(masks, (MISSED, EXTRA, CONFUSED), strict=True):
        grey[mask] = colour
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def entropy_picture(entropy: np.ndarray) -> np.ndarray:
    """Entropy in [0, 1] as colours, `(h, w, 3)` uint8."""
    from matplotlib import colormaps

    return np.rint(255 * colormaps[ENTROPY_MAP](np.clip(entropy, 0, 1))[..., :3]).astype(np.uint8)


def entropy_scale() -> list[str]:
    """The colours from certain to uncertain, for a legend: `"#00224e"`, ..."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[ENTROPY_MAP](value)) for value in np.linspace(0, 1, 9)]


def crop_window(truth: np.ndarray, prediction: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around all foreground, with a margin; everything where that is most of the picture anyway."""
    whole = (slice(None), slice(None))
    foreground = (truth > 0) | (prediction > 0)
    if not foreground.any():
        return whole
    spans = [np.flatnonzero(foreground.any(axis=1 - axis)) for axis in (0, 1)]
    lengths = [int(span[-1] - span[0] + 1) for span in spans]
    # A square, so that the pictures of all cases look alike.
    side = min(round(max(lengths) * (1 + 2 * CROP_MARGIN)), *foreground.shape) if max(lengths) else 0
    side = max(side, *lengths)
    if side >= CROP_BELOW * max(foreground.shape):
        return whole
    window = []
    for span, length in zip(spans, foreground.shape, strict=True):
        middle = (int(span[0]) + int(span[-1]) + 1) // 2
        first = max(0, min(middle - side // 2, length - side))
        window.append(slice(first, min(first + side, length)))
    return window[0], window[1]


def enlargement(shape: tuple[int, ...]) -> int:
    """The whole factor by which a picture `(h, w)` is enlarged to be looked at, its pixels staying square."""
    return max(1, -(-SHORTEST_SIDE // max(shape)))


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture `(h, w, 3)` uint8 whose longer side is at most `LONGEST_SIDE`."""
    side = max(picture.shape[:2])
    if side <= LONGEST_SIDE:
        return picture
    height, width = (max(1, round(length * LONGEST_SIDE / side)) for length in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))

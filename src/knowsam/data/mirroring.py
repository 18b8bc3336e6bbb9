"""Which mirroring the labels allow: classes that always lie in the same order must keep it (docs/decisions.md)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

import numpy as np

from knowsam.data.augment import Flip

FEWEST_PIXELS = 4
"""Of a class in a slice, for its centre to count."""

FEWEST_SLICES = 5
"""With both classes, to call their order fixed."""

SAME_ORDER, APART = 0.95, 0.2
"""An order is fixed where at least this share of the slices has it, and the centres lie on average this share of the
pair's extent apart. Measured along rows and columns: hippocampus 1.0 at .4 to .6 where the two parts follow each other,
.5 to .9 at .05 to .16 elsewhere; ACDC's right ventricle and the left one 1.0 at .38 to .44; white blood cells, whose
nucleus lies anywhere, .5 to .7 at .1."""


def allowed_flips(labels: Iterable[np.ndarray], classes: int) -> tuple[Flip, dict[Flip, tuple[int, int]]]:
    """Mirroring that leaves every fixed order of two classes as it is.

    A network that is shown mirrored labels, too, cannot learn that the front part lies before the back part, as it
    does in every real one; after mirroring some classes cannot be told apart at all.

    Args:
        labels: `(H, W)` integer label maps of the labelled slices, class index or `IGNORE`.
        classes: K, background (class 0) included, which has no place.

    Returns:
        The flips that are left, and for each one left out (`"vertical"`, `"horizontal"`) the first pair of classes
        whose order it would turn round.
    """
    pairs = list(combinations(range(1, classes), 2))
    distances: dict[tuple[int, int], list[np.ndarray]] = {pair: [] for pair in pairs}
    if pairs:
        for label in labels:
            places = {index: place for index in range(1, classes) if (place := _place(label, index)) is not None}
            for first, second in combinations(places, 2):
                distances[first, second].append(_distance(places[first], places[second]))
    left_out: dict[Flip, tuple[int, int]] = {}
    axes: tuple[Flip, Flip] = ("vertical", "horizontal")  # of the rows, of the columns
    for axis, flip in enumerate(axes):
        for pair, found in distances.items():
            if flip not in left_out and _is_fixed(np.array([distance[axis] for distance in found])):
                left_out[flip] = pair
    kept = [flip for flip in axes if flip not in left_out]
    return ("both" if len(kept) == 2 else kept[0] if kept else "none"), left_out


class _Place(NamedTuple):
    """Where a class lies in a slice: its centre, first and last pixel, each along rows and columns."""

    centre: np.ndarray
    first: np.ndarray
    last: np.ndarray


def _place(label: np.ndarray, index: int) -> _Place | None:
    """Where a class lies; None where it has too few pixels."""
    pixels = np.argwhere(label == index)
    if len(pixels) < FEWEST_PIXELS:
        return None
    return _Place(pixels.mean(axis=0), pixels.min(axis=0), pixels.max(axis=0))


def _distance(one: _Place, other: _Place) -> np.ndarray:
    """From the other's centre to the one's along rows and columns, as a share of the extent of both."""
    extent = np.maximum(one.last, other.last) - np.minimum(one.first, other.first) + 1
    return np.asarray((one.centre - other.centre) / extent)


def _is_fixed(distances: np.ndarray) -> bool:
    if len(distances) < FEWEST_SLICES:
        return False
    ahead = float((distances > 0).mean())
    return max(ahead, 1 - ahead) >= SAME_ORDER and abs(float(distances.mean())) >= APART

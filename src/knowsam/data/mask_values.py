"""The values of mask files as they are, before anybody says what they mean: counts, main values, groups, objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knowsam.io import read_label
from knowsam.types import MaskStorage, MedicalLabel

TABLE_SPAN = 1 << 16
"""Value ranges up to this are handled by lookup tables; wider ones, which are rare, by sorting."""

GREY_FROM = 64
"""A largest value from here on means grey levels (0/128/255), in which a few others are slips; below it: indices."""

RARE = 0.05
"""A grey level with less than this share of the largest class's area is a slip until somebody says it is a class."""

ANOTHER_CLASS = 0.01
"""From this share of the object's flat area on, what lies between two grey levels is a class, no blurred edge."""

STEADY = 0.5
"""Share of the masks in which even a small grey level with an area of its own is a class: an organ, no slip."""

MOST_CLASSES = 32
"""More different values than this mean numbered objects or damaged masks unless `classes` is set."""

MOST_FILTERED_PX = 1 << 25
"""Volumes of more voxels are not searched for flat areas: all their voxels count."""

NUMBERED_FROM = 5
"""Numbers of objects are suspected where masks have at least so many values."""

NUMBERED_SHARE = 0.9
OPENED_FOR_PIECES = 12


@dataclass(frozen=True)
class MaskFacts:
    """What is known of one mask file once it was read.

    Attributes:
        path: The file.
        counts: Pixels of each value, ascending by value.
        shape: `(H, W)` or `(X, Y, Z)`.
        storage: How the file stores them.
        flat: Pixels of each value whose neighbours have nearly the same: areas, no edges. Only of masks of grey levels.
    """

    path: Path
    counts: dict[int, int]
    shape: tuple[int, ...] = ()
    storage: MaskStorage = field(default_factory=MaskStorage)
    flat: dict[int, int] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return sum(self.counts.values())

    @property
    def areas(self) -> dict[int, int]:
        """`flat`, or all pixels of a mask of so few values that it has none that is blurred."""
        return self.flat or self.counts


class TwoGroups(NamedTuple):
    """Masks of two values, blurred: where the groups part, and how many pixels lie far from both."""

    threshold: int
    doubtful: int
    pixels: int


def value_counts(array: np.ndarray) -> dict[int, int]:
    """How often each value occurs in an integer array, ascending by value."""
    low, high = int(array.min()), int(array.max())
    if high - low < TABLE_SPAN:
        # int64, since the difference of two int32 may not fit int32.
        counts = np.bincount(array.ravel().astype(np.int64) - low)
        return {int(index) + low: int(counts[index]) for index in np.flatnonzero(counts)}
    values, numbers = np.unique(array, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers, strict=True)}


def examine_mask(label: MedicalLabel) -> MaskFacts:
    """Count the values of a mask."""
    counts = value_counts(label.array)
    grey_levels = label.storage.lossy or (len(counts) > 2 and max(counts) >= GREY_FROM)
    grey_levels = grey_levels and label.array.size <= MOST_FILTERED_PX
    flat = _flat_counts(label.array, max(counts) - min(counts)) if grey_levels else {}
    return MaskFacts(label.path, counts, label.array.shape, label.storage, flat)


def _flat_counts(array: np.ndarray, span: int) -> dict[int, int]:
    """Pixels of each value where nothing within one pixel differs by more than an eighth of the range."""
    from scipy import ndimage

    highest, lowest = ndimage.maximum_filter(array, 3), ndimage.minimum_filter(array, 3)
    flat = array[highest - lowest <= span // 8]
    return value_counts(flat) if flat.size else {}


def total(counts: Sequence[Mapping[int, int]]) -> Counter[int]:
    """The sum over several masks."""
    summed: Counter[int] = Counter()
    for one in counts:
        summed.update(one)
    return summed


def two_groups(masks: Sequence[MaskFacts]) -> TwoGroups | None:
    """Whether masks of many grey levels are background and one object, blurred by compression or resampling.

    The areas decide: an edge between two grey levels passes through those between, but only a class has area there.

    Args:
        masks: As `examine_mask` gives them.

    Returns:
        None where they have more than two groups, or two that lie nearer than `GREY_FROM`.
    """
    counts = total([mask.counts for mask in masks])
    low, high = min(counts), max(counts)
    span = high - low
    if span < GREY_FROM:
        return None
    flat = total([mask.areas for mask in masks])
    between = sum(number for value, number in flat.items() if low + span / 8 < value < high - span / 8)
    object_area = sum(number for value, number in flat.items() if value >= high - span / 8)
    if between > ANOTHER_CLASS * object_area:
        return None
    doubtful = sum(number for value, number in counts.items() if low + span / 4 <= value <= high - span / 4)
    return TwoGroups((low + high + 1) // 2, doubtful, counts.total())


def main_values(masks: Sequence[MaskFacts], seen: Sequence[int]) -> list[int]:
    """The values that are classes, where others are slips; all of them where they look like indices.

    Args:
        masks: The masks.
        seen: The values in question, ascending.
    """
    if max(seen) < GREY_FROM or len(seen) <= 2:
        return list(seen)
    counts, areas = total([mask.counts for mask in masks]), total([mask.areas for mask in masks])
    foreground = [value for value in seen if value]
    # Lines of one pixel have no area: then all pixels count.
    if sum(areas[value] for value in foreground) > ANOTHER_CLASS * sum(counts[value] for value in foreground):
        counts = areas
    largest = max(counts[value] for value in foreground)
    by_size = sorted(foreground, key=lambda value: -counts[value])
    steady = _steady_values(masks, seen)
    kept = [0]
    apart = max(seen) / 16
    for value in by_size:
        if (counts[value] >= RARE * largest or value in steady) and all(abs(value - other) >= apart for other in kept):
            kept.append(value)
    return sorted(kept)


def _steady_values(masks: Sequence[MaskFacts], seen: Sequence[int]) -> set[int]:
    """Small values that are classes all the same: with an area of their own in most masks."""
    showing = [mask for mask in masks if any(mask.counts.get(value) for value in seen if value)]
    if len(showing) < 3 or len(seen) > MOST_CLASSES:
        return set()
    having = Counter(
        value for mask in showing for value, number in mask.counts.items() if mask.areas.get(value, 0) >= number / 10
    )
    return {value for value, number in having.items() if number >= STEADY * len(showing)}


def numbers_objects(masks: Sequence[MaskFacts]) -> bool:
    """Whether mask values seem to number the objects of each image instead of naming classes.

    Many values, not the same ones everywhere, counted up from 1 in each mask or found in few masks each, and (this
    opens a few masks again) every value in one connected piece.

    Args:
        masks: The masks.
    """
    found = [[value for value in mask.counts if value > 0] for mask in masks]
    shown = [values for values in found if values]
    distinct = {value for values in shown for value in values}
    if len(shown) < 2 or len(distinct) < NUMBERED_FROM or len({tuple(values) for values in shown}) == 1:
        return False
    counted_up = sum(values == list(range(1, len(values) + 1)) for values in shown) >= NUMBERED_SHARE * len(shown)
    own_numbers = len(distinct) > 3 * NUMBERED_FROM and sum(map(len, shown)) <= len(distinct) * len(shown) / 4
    if not (counted_up or own_numbers):
        return False
    several = [mask for mask, values in zip(masks, found, strict=True) if len(values) > 1][:OPENED_FOR_PIECES]
    pieces = [whole for mask in several for whole in _in_one_piece(mask)]
    return bool(pieces) and sum(pieces) >= NUMBERED_SHARE * len(pieces)


def _in_one_piece(mask: MaskFacts) -> list[bool]:
    """For each value above 0 of a mask whether its pixels are connected, corners included."""
    from scipy import ndimage

    array = read_label(mask.path).array
    cube = np.ones((3,) * array.ndim, bool)
    values = np.array([value for value in mask.counts if value > 0])
    ranks = np.searchsorted(values, array) + 1
    ranks[array <= 0] = 0
    boxes = ndimage.find_objects(ranks)
    return [
        ndimage.label(ranks[box] == rank, cube)[1] == 1 for rank, box in enumerate(boxes, start=1) if box is not None
    ]

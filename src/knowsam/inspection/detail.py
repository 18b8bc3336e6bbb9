"""The detail of thumbnails, and how alike it is: what tells a copy from a picture of the same kind.

The detail is the thumbnail without the mean of its surroundings. What lies outside of the picture proper, a black or
white frame that reaches the border, has none: the edge of a round field of view is the same in all pictures of a
camera. Two pictures are compared where both have detail, since cropping and brightening change the frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SURROUNDINGS = {2: 9, 3: 7}
"""Side of the window whose mean is taken off, in thumbnail px, for pictures and volumes."""

FEWEST_FOR_COMMON = 10
"""Fewest images from which what half of them share is taken off: among fewer, a pair of copies would be that half."""

FRAME_VALUE = 0.08
"""A frame is at most so far from black or white."""

FRAME_STEP = 0.05
"""Largest difference between neighbouring cells of a frame."""

ONE_PIECE = 0.8
"""Share of what a frame leaves that must hang together; a logo or a scale may lie in the frame."""

SMALLEST_PICTURE = 0.25
"""Least share of the thumbnail that a frame leaves."""

FRAME_EDGE = 2
"""Cells at the edge of a frame that are part of it: they show a mixture, and the picture fades there."""

FARTHEST = 0.1
"""By how much of its side a picture may be moved, or stretched at each end, to lie on another."""

LAYING_STEPS = 6
"""Steps of the least squares that lay one picture on another."""

LAYING_GRID = 64
"""Cells a side on which a position is looked for, which is enough for finer thumbnails, too."""

PAIRS = 128
"""Pairs compared at a time, which bounds the memory."""


class Likeness(NamedTuple):
    """How alike pairs are.

    Attributes:
        correlation: Of the detail that both have, `(P,)` float32; -1 where they do not lie on each other.
        shared: Share of the thumbnail in which both have detail.
    """

    correlation: np.ndarray
    shared: np.ndarray


class Details:
    """The detail of a set of thumbnails.

    Args:
        thumbnails: `(N, *grid)` in [0, 1].
    """

    def __init__(self, thumbnails: np.ndarray) -> None:
        thumbnails = thumbnails.astype(np.float32)
        self.grid = thumbnails.shape[1:]
        self._shown = ~frame(thumbnails)
        values = _unit(_without_surroundings(thumbnails, self._shown).reshape(len(thumbnails), -1))
        self._whole = values.reshape(thumbnails.shape)
        self._common = np.zeros(self.grid, np.float32)
        if len(values) >= FEWEST_FOR_COMMON:
            self._common = np.median(values, axis=0).reshape(self.grid)

    def as_they_lie(self, first: np.ndarray, second: np.ndarray) -> Likeness:
        """How alike pairs are, cell by cell.

        Args:
            first: Indices `(P,)`.
            second: The same.
        """
        parts = [
            self._compared(one, self._whole[other], self._shown[other])
            for one, other in zip(_pieces(first), _pieces(second), strict=True)
        ]
        return _joined(parts)

    def when_laid(self, first: np.ndarray, second: np.ndarray) -> Likeness:
        """How alike pairs are after one picture was laid on the other, whichever way round is better.

        Args:
            first: Indices `(P,)`.
            second: The same.
        """
        parts = [
            better(self._laid(one, other), self._laid(other, one))
            for one, other in zip(_pieces(first), _pieces(second), strict=True)
        ]
        return _joined(parts)

    def _laid(self, still: np.ndarray, moved: np.ndarray) -> Likeness:
        target, laid, shown = self._whole[still], self._whole[moved], self._shown[moved].astype(np.float32)
        finer = max(1, max(self.grid) // LAYING_GRID)
        shift, scale = find_position(_pooled(target, finer), _pooled(laid, finer))
        shift = shift * finer
        axes = range(len(self.grid))
        for axis in axes:
            places = _places(self.grid[axis], shift[:, axis], scale[:, axis])
            laid, shown = _sampled(laid, places, axis), _sampled(shown, places, axis)
            within = (places >= 0) & (places <= self.grid[axis] - 1)
            shown *= within.reshape(len(within), *[-1 if axis == one else 1 for one in axes])
        found = self._compared(still, laid, shown > 0.99)
        near = (np.abs(shift) <= FARTHEST * np.array(self.grid)).all(axis=1)
        near &= (np.abs(scale - 1) <= 2 * FARTHEST).all(axis=1)
        return Likeness(np.where(near, found.correlation, np.float32(-1)), found.shared)

    def _compared(self, first: np.ndarray, others: np.ndarray, shown: np.ndarray) -> Likeness:
        """Pictures of the set and details `(P, *grid)`, where both are shown, without what is common."""
        both = (self._shown[first] & shown).reshape(len(first), -1)
        number = both.sum(axis=1)
        rows = []
        for values in (self._whole[first], others):
            row = (values - self._common).reshape(len(first), -1)
            mean = (row * both).sum(axis=1) / np.maximum(number, 1)
            row = (row - mean[:, None]) * both
            rows.append(row / np.maximum(np.linalg.norm(row, axis=1, keepdims=True), 1e-6))
        return Likeness(np.einsum("pc,pc->p", *rows).astype(np.float32), number / both.shape[1])


def better(one: Likeness, other: Likeness) -> Likeness:
    """Of each pair, the likeness of larger correlation."""
    first = one.correlation >= other.correlation
    return Likeness(*(np.where(first, *both) for both in zip(one, other, strict=True)))


def _pooled(values: np.ndarray, factor: int) -> np.ndarray:
    """`(P, *grid)`, each axis reduced to means of as many cells."""
    for axis in range(1, values.ndim if factor > 1 else 1):
        shape = (*values.shape[:axis], values.shape[axis] // factor, factor, *values.shape[axis + 1 :])
        values = values.reshape(shape).mean(axis=axis + 1)
    return values


def _pieces(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + PAIRS] for start in range(0, len(indices), PAIRS)]


def _joined(parts: list[Likeness]) -> Likeness:
    if not parts:
        return Likeness(np.zeros(0, np.float32), np.zeros(0))
    return Likeness(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def find_position(target: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where to look in each source for what the target shows: Gauss-Newton over a shift and a scale for each axis.

    Args:
        target: `(P, *grid)`.
        source: The same.

    Returns:
        Shift `(P, axes)` in cells and scale `(P, axes)` about the middle, such that `source[middle + shift + scale * (x
        - middle)]` is like `target[x]`.
    """
    from scipy.ndimage import gaussian_filter

    axes = target.ndim - 1
    smooth = (0, *[1] * axes)
    target, source = gaussian_filter(target, smooth), gaussian_filter(source, smooth)
    shift, scale = np.zeros((len(target), axes), np.float32), np.ones((len(target), axes), np.float32)
    for _ in range(LAYING_STEPS):
        laid = source
        for axis in range(axes):
            laid = _sampled(laid, _places(laid.shape[1 + axis], shift[:, axis], scale[:, axis]), axis)
        columns = []
        for axis in range(axes):
            length = laid.shape[1 + axis]
            slope = np.gradient(laid, axis=1 + axis)
            along = np.arange(length, dtype=np.float32) - (length - 1) / 2
            along = along.reshape(-1, *[1] * (axes - 1 - axis))
            columns += [slope, slope * along]
        # The last one lets the contrast differ.
        design = np.stack([column.reshape(len(laid), -1) for column in (*columns, laid)], axis=2)
        rest = (target - laid).reshape(len(laid), -1, 1)
        product = design.transpose(0, 2, 1)
        normal = product @ design + 1e-6 * np.eye(design.shape[2], dtype=np.float32)
        step = np.linalg.solve(normal, product @ rest)[..., 0]
        shift += step[:, 0 : 2 * axes : 2]
        scale += step[:, 1 : 2 * axes : 2]
    return shift, scale


def _places(length: int, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`(P, length)`: where along an axis each cell looks."""
    middle = (length - 1) / 2
    return middle + shift[:, None] + scale[:, None] * (np.arange(length, dtype=np.float32) - middle)


def _sampled(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """`(P, *grid)` interpolated linearly along one axis; beyond the border the last value goes on."""
    length = values.shape[1 + axis]
    inside = np.clip(places, 0, length - 1)[..., None]
    weights = np.maximum(0, 1 - np.abs(inside - np.arange(length, dtype=np.float32)))
    lines = np.moveaxis(values, 1 + axis, 1)
    sampled = (weights @ lines.reshape(len(lines), length, -1)).reshape(lines.shape)
    return np.moveaxis(sampled, 1, 1 + axis)


def _without_surroundings(values: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Thumbnails minus the mean of what surrounds each cell; what is not shown is 0 and counts for nothing."""
    from scipy.ndimage import uniform_filter

    axes = values.ndim - 1
    window = (0, *[SURROUNDINGS[axes]] * axes)
    counted = shown.astype(np.float32)
    weight = uniform_filter(counted, size=window, mode="nearest")
    mean = uniform_filter(values * counted, size=window, mode="nearest") / np.maximum(weight, 1e-3)
    return (values - mean) * counted


def frame(thumbnails: np.ndarray) -> np.ndarray:
    """Whether a cell lies outside of the picture: in an even, black or white region that reaches the border.

    Args:
        thumbnails: `(N, *grid)` in [0, 1].

    Returns:
        The same shape, bool.
    """
    from scipy import ndimage

    axes = thumbnails.ndim - 1
    around = (1, *[3] * axes)
    steps = ndimage.maximum_filter(thumbnails, around) - ndimage.minimum_filter(thumbnails, around)
    even = (steps < FRAME_STEP) & ((thumbnails < FRAME_VALUE) | (thumbnails > 1 - FRAME_VALUE))
    inner = np.zeros(thumbnails.shape[1:], bool)
    inner[(slice(1, -1),) * axes] = True
    neighbours = np.zeros((3,) * (1 + axes), bool)
    neighbours[1] = ndimage.generate_binary_structure(axes, 1)
    outside = np.asarray(ndimage.binary_propagation(even & ~inner, structure=neighbours, mask=even))
    for one in outside:
        if not _is_one_piece(~one):
            one[:] = False
    return np.asarray(ndimage.binary_dilation(outside, structure=neighbours, iterations=FRAME_EDGE))


def _is_one_piece(shown: np.ndarray) -> bool:
    """False for what consists of pieces, or is small: things on a dark ground, which is no frame."""
    from scipy import ndimage

    if shown.all():
        return True
    largest = int(np.bincount(ndimage.label(shown)[0].ravel())[1:].max(initial=0))
    return largest >= ONE_PIECE * int(shown.sum()) and largest >= SMALLEST_PICTURE * shown.size


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1; 0 where there is nothing."""
    values = values - values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)

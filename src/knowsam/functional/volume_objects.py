"""The object of a class in a volume of rough masks (SSS, Zhu et al., 2025).

PCSW, a physical constraint with a sliding window: anatomy goes on from slice to slice. A window of slices in which
nearly all of a class is one connected piece shows the object; what does not hang together with it is a mistake of
whoever made the masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from knowsam.functional.boxes import SlicePrompt, slice_prompt
from knowsam.types import IGNORE

Window = Literal["best", "first"]
CONTINUITY = 0.8
"""tau: smallest share of a window's pixels that its largest piece has."""


class VolumeObject(NamedTuple):
    """A class in a volume.

    Attributes:
        mask: `(S, h, w)` bool, what is accepted: within the window its largest piece V, outside of it what V goes on
            into; the whole class where no window is continuous enough.
        key: The slice in which V, or the whole class, is largest; the first of equals.
        window: First slice and length; None where no window is continuous enough.
    """

    mask: np.ndarray
    key: int
    window: tuple[int, int] | None

    def prompt(self, position: int, size: tuple[int, int] | None = None) -> SlicePrompt | None:
        """Box and point in a slice, None where the object is not; `size` is that of the image, see `slice_prompt`."""
        return slice_prompt(self.mask[position], size)


def window_lengths(slices: int) -> range:
    """Numbers of slices N of the windows of a volume of S slices.

    From `(N_lo + N_hi) // 2` to `N_hi`, with `N_lo = max(2, S // 3)` and `N_hi = max(3, S // 2)`, none above S.
    """
    lowest, highest = max(2, slices // 3), max(3, slices // 2)
    return range(min((lowest + highest) // 2, slices), min(highest, slices) + 1)


def find_object(
    mask: np.ndarray, continuity: float = CONTINUITY, window: Window = "best", connectivity: Literal[6, 26] = 26
) -> VolumeObject | None:
    """Find the object in a volume of masks of one class.

    For each window V is its largest connected piece and C = |V| / (pixels of the class in the window).

    Args:
        mask: `(S, h, w)` bool, S >= 1; a single image is a volume of one slice.
        continuity: tau, in [0, 1]: only windows with C >= tau count.
        window: `"best"`: the one whose V is largest, of equals the shortest, then the first; `"first"`: the shortest,
            then the first, as the paper's release has it.
        connectivity: Neighbours of a voxel: 26 along faces, edges and corners, or 6 along faces alone.

    Returns:
        None where the class is nowhere.
    """
    if not mask.any():
        return None
    _, rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    small = mask[:, rows, columns]
    structure = ndimage.generate_binary_structure(3, 3 if connectivity == 26 else 1)
    chosen = _choose_window(small, continuity, window, structure)
    whole = np.zeros_like(mask)
    if chosen is None:
        whole[:, rows, columns] = small
        return VolumeObject(whole, int(small.sum(axis=(1, 2)).argmax()), None)
    start, piece = chosen
    inside = slice(start, start + len(piece))
    pieces, _ = ndimage.label(small, structure=structure)
    accepted = pieces == pieces[inside][piece][0]
    accepted[inside] = piece
    whole[:, rows, columns] = accepted
    return VolumeObject(whole, start + int(piece.sum(axis=(1, 2)).argmax()), (start, len(piece)))


def accepted_label(
    label: np.ndarray, classes: int, continuity: float = CONTINUITY, window: Window = "best"
) -> np.ndarray:
    """Clean a volume of rough masks class by class.

    Args:
        label: `(S, h, w)`, class index; other values stay.
        classes: K, background included.
        continuity: See `find_object`.
        window: See `find_object`.

    Returns:
        `(S, h, w)` of the same type, `IGNORE` where a class does not belong to its object.
    """
    cleaned = label.copy()
    for number in range(1, classes):
        mask = label == number
        found = find_object(mask, continuity, window)
        if found is not None:
            cleaned[mask & ~found.mask] = IGNORE
    return cleaned


def _choose_window(
    mask: np.ndarray, continuity: float, window: Window, structure: np.ndarray
) -> tuple[int, np.ndarray] | None:
    """First slice of the chosen window and its largest piece `(N, h, w)`; None where none is continuous enough."""
    best: tuple[int, int, int, np.ndarray] | None = None  # -|V|, N, start, V: the smallest is chosen
    best_total = 0
    for total, length, start in _windows(mask, window):
        if best is not None and (total < -best[0] or total == -best[0] == best_total):
            break  # |V| is at most the total, and of equal totals the first come first
        pieces, _ = ndimage.label(mask[start : start + length], structure=structure)
        sizes = np.bincount(pieces.ravel())[1:]
        voxels = int(sizes.max())
        if voxels < continuity * total:
            continue
        if window == "first" or best is None or (-voxels, length, start) < best[:3]:
            best, best_total = (-voxels, length, start, pieces == 1 + int(sizes.argmax())), total
        if window == "first":
            break
    return None if best is None else (best[2], best[3])


def _windows(mask: np.ndarray, window: Window) -> Iterator[tuple[int, int, int]]:
    """Pixels, length and first slice of the windows in which there is anything, the most promising first."""
    before = np.concatenate([[0], np.cumsum(mask.sum(axis=(1, 2)))])
    windows = [
        (int(before[start + length] - before[start]), length, start)
        for length in window_lengths(len(mask))
        for start in range(len(mask) - length + 1)
    ]
    windows = [one for one in windows if one[0] > 0]
    if window == "best":
        windows.sort(key=lambda one: (-one[0], one[1], one[2]))
    yield from windows

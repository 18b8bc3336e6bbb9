"""Images that are the same picture, or nearly the same.

Exact: equal decoded pixels (`CaseFacts.digest`), whatever the file format. Near: in two steps, on small grey
thumbnails.

1. A difference hash finds candidates: whether a reduced picture gets brighter or darker from each cell to the next. It
   is one matrix product for all pairs.
2. The correlation of the *detail* confirms them: what is left of the thumbnail without its surroundings (so that two
   images of the same anatomy, bright and dark in the same places, are not reported), without a frame (`detail.py`) and
   without what half of all images share (a logo, a ruler). Where it falls short, one picture is first laid on the
   other, moved and stretched by up to a tenth: a copy may have lost its border.
3. Pictures that are not nearly equal by then are compared in the same way by finer thumbnails, which decide: thin
   vessels vanish in small ones, where round cells and the retinas of one camera are alike.

Images of one group are not compared: neighbouring slices of a patient are alike by nature, and a split keeps them
together. Where an image is a slice of a volume, half of the slices of the smaller volume must have a duplicate.
What the two thresholds were measured on, and what is not found: docs/check.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowsam.inspection.detail import FEWEST_FOR_COMMON, SURROUNDINGS, Details, Likeness, better
from knowsam.inspection.examine import CaseFacts

HASH_CELL = 4
"""Thumbnail px per cell of the reduced picture, half of it for a volume: 16 cells a side, or 12."""

STILL = 0.004
"""Steps below it are none: 8 bits hold no smaller ones, and on an even ground JPEG turns them round."""

ALIKE = 0.5
"""Least correlation of the hashes of a candidate pair; copies have .55 and more, of other pairs few reach it."""

NEAR = 0.7
"""Least correlation of the detail. Different images of twelve real sets reach 0.63 (docs/check.md)."""

NEAR_OF_FEW = 0.8
"""The same where what is common cannot be taken off, for lack of images."""

SURE, LITTLE = 0.85, 0.25
"""The same of small thumbnails of pictures, and where less than this share of a thumbnail has detail in both."""

DOUBTFUL = 0.4
"""Least correlation from which finer thumbnails decide, where different images reach 0.6 and copies 0.8."""

MOST_DOUBTFUL = 1000
"""Most pairs so compared, the most alike; more are frames of a video, of which enough are found."""

COMPANY = 64
"""Images among which what is common is looked for in finer thumbnails, beside those of the pairs."""

WORTH_LAYING, SURELY_ALIKE = 0.2, 0.7
"""Least correlation of the detail, or of the hashes, from which the pictures are laid on each other."""

BLOCK = 2048
"""Images compared at a time, which bounds the memory."""


@dataclass(frozen=True)
class Duplicates:
    """Two groups that share images.

    Attributes:
        groups: The two groups.
        pairs: Stems (of the first group, of the second) that show the same.
        similarity: Of the most similar pair: 1 for equal pixels, else the correlation of the detail.
    """

    groups: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]
    similarity: float

    @property
    def stems(self) -> set[str]:
        """All images concerned."""
        return {stem for pair in self.pairs for stem in pair}


def exact_sets(examined: Sequence[CaseFacts]) -> list[list[CaseFacts]]:
    """Images with equal pixels, two or more in each set; constant images are left out.

    Args:
        examined: All cases.
    """
    by_digest: dict[str, list[CaseFacts]] = defaultdict(list)
    for one in examined:
        if one.digest and not one.constant:
            by_digest[one.digest].append(one)
    return [same for same in by_digest.values() if len(same) > 1]


def exact_duplicates(examined: Sequence[CaseFacts]) -> list[Duplicates]:
    """Groups that share equal images.

    Args:
        examined: All cases.
    """
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for same in exact_sets(examined):
        first = same[0].case
        for other in (one.case for one in same[1:]):
            if other.group != first.group:
                pairs[first.group, other.group].append((first.stem, other.stem))
    return [Duplicates(groups, tuple(listed), 1.0) for groups, listed in pairs.items()]


def near_duplicates(examined: Sequence[CaseFacts]) -> list[Duplicates]:
    """Groups that share nearly equal images, those with an equal one left out.

    Args:
        examined: All cases.

    Returns:
        Most similar first.
    """
    known = {_unordered(one, other) for same in exact_sets(examined) for one in same for other in same}
    found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    best: dict[tuple[str, str], float] = defaultdict(float)
    for axes in SURROUNDINGS:
        shown = [one for one in examined if one.thumbnail is not None and one.thumbnail.ndim == axes]
        for first, second, similarity in _of_whole_volumes(shown):
            key = _unordered(first, second)
            if key not in known:
                in_order = (first, second) if first.case.group == key[0] else (second, first)
                found[key].append((in_order[0].case.stem, in_order[1].case.stem))
                best[key] = max(best[key], similarity)
    return [Duplicates(key, tuple(found[key]), best[key]) for key in sorted(found, key=lambda key: -best[key])]


def near_pairs(
    thumbnails: np.ndarray, groups: Sequence[str], fine: Sequence[np.ndarray] | None = None
) -> list[tuple[int, int, float]]:
    """Pairs of different groups that look the same.

    Args:
        thumbnails: `(N, *grid)` in [0, 1].
        groups: Of each image.
        fine: The same, each finer, in 0..255; None where there are none.

    Returns:
        (index, larger index, correlation of the detail) of each, in order.
    """
    if len(thumbnails) < 2:
        return []
    pairs: list[tuple[int, int, float]] = []
    doubtful: list[tuple[int, int, float]] = []
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    hashes, details = difference_hash(thumbnails), Details(thumbnails)
    near = NEAR if len(thumbnails) >= FEWEST_FOR_COMMON else NEAR_OF_FEW
    first = near if fine is None else SURE
    for start in range(0, len(hashes), BLOCK):
        for beside in range(start, len(hashes), BLOCK):
            agreement = hashes[start : start + BLOCK] @ hashes[beside : beside + BLOCK].T
            rows, columns = np.nonzero(agreement >= ALIKE)
            agreed = agreement[rows, columns]
            rows, columns = rows + start, columns + beside
            wanted = (rows < columns) & (numbers[rows] != numbers[columns])
            rows, columns, agreed = rows[wanted], columns[wanted], agreed[wanted]
            found = details.as_they_lie(rows, columns)
            enough = found.correlation >= _needed(found, first)
            short = np.flatnonzero(~enough & ((found.correlation >= WORTH_LAYING) | (agreed >= SURELY_ALIKE)))
            laid = better(details.when_laid(rows[short], columns[short]), _of(found, short))
            enough[short] = laid.correlation >= _needed(laid, first)
            found.correlation[short] = laid.correlation
            for listed, these in ((pairs, enough), (doubtful, ~enough & (found.correlation >= DOUBTFUL))):
                places = zip(rows[these], columns[these], found.correlation[these], strict=True)
                listed += [(int(row), int(column), float(one)) for row, column, one in places]
    if fine is not None and doubtful:
        doubtful = sorted(doubtful, key=lambda pair: -pair[2])[:MOST_DOUBTFUL]
        pairs += _by_finer(fine, np.array([pair[:2] for pair in doubtful]).T, near)
    return sorted(pairs)


def _by_finer(fine: Sequence[np.ndarray], pairs: np.ndarray, near: float) -> list[tuple[int, int, float]]:
    """Those of the pairs `(2, P)` that are copies by finer thumbnails."""
    wanted = np.unique(pairs)
    others = np.setdiff1d(np.arange(len(fine)), wanted)
    used = np.union1d(wanted, others[:: max(1, -(-len(others) // COMPANY))])
    details = Details(np.stack([fine[index] for index in used]).astype(np.float32) / 255)
    rows, columns = np.searchsorted(used, pairs)
    found = better(details.as_they_lie(rows, columns), details.when_laid(rows, columns))
    enough = np.flatnonzero(found.correlation >= _needed(found, near))
    return [(int(pairs[0, one]), int(pairs[1, one]), float(found.correlation[one])) for one in enough]


def _of(found: Likeness, which: np.ndarray) -> Likeness:
    return Likeness(*(values[which] for values in found))


def _needed(found: Likeness, near: float) -> np.ndarray:
    """The correlation from which pairs are copies."""
    return np.where(found.shared < LITTLE, max(near, SURE), near)


def difference_hash(thumbnails: np.ndarray) -> np.ndarray:
    """Whether the picture gets brighter, darker or neither from each cell to the next.

    Args:
        thumbnails: `(N, *grid)`, each grid length a multiple of the cell.

    Returns:
        `(N, steps)` float32, rows of 1, -1 and 0, divided by their length.
    """
    small = thumbnails.astype(np.float32)
    cell = HASH_CELL if small.ndim == 3 else HASH_CELL // 2
    for axis in range(1, small.ndim):
        shape = (*small.shape[:axis], small.shape[axis] // cell, cell, *small.shape[axis + 1 :])
        small = small.reshape(shape).mean(axis=axis + 1)
    steps = [np.diff(small, axis=axis).reshape(len(small), -1) for axis in range(1, small.ndim)]
    joined = np.concatenate(steps, axis=1)
    signs = np.sign(joined) * (np.abs(joined) > STILL)
    return (signs / np.maximum(np.linalg.norm(signs, axis=1, keepdims=True), 1)).astype(np.float32)


def _of_whole_volumes(shown: list[CaseFacts]) -> list[tuple[CaseFacts, CaseFacts, float]]:
    """Near pairs, without those of volumes of which less than half agrees."""
    if not shown:
        return []
    thumbnails = np.stack([one.thumbnail for one in shown if one.thumbnail is not None])
    fine = [one.fine for one in shown if one.fine is not None]
    groups = [one.case.group for one in shown]
    pairs = near_pairs(thumbnails, groups, fine if len(fine) == len(shown) else None)
    depth: dict[str, int] = defaultdict(int)
    for one in shown:
        depth[one.case.volume] += 1
    matched: dict[tuple[str, str], tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
    for first, second, _ in pairs:
        sides = matched[shown[first].case.volume, shown[second].case.volume]
        sides[0].add(first)
        sides[1].add(second)
    agreeing = {
        key
        for key, sides in matched.items()
        if 2 * min(len(sides[0]), len(sides[1])) >= min(depth[key[0]], depth[key[1]])
    }
    return [
        (shown[first], shown[second], similarity)
        for first, second, similarity in pairs
        if (shown[first].case.volume, shown[second].case.volume) in agreeing
    ]


def _unordered(first: CaseFacts, second: CaseFacts) -> tuple[str, str]:
    one, other = sorted((first.case.group, second.case.group))
    return one, other

"""Images that are negatives of the others of their set: bright where those are dark.

What a negative is recognised by depends on what the images of the set have in common:

- *colours*, where the colour images have one hue (skin, mucosa, stained tissue): a negative has the opposite hue in
  nearly all of its places, and its brightness does not clearly say otherwise;
- *places*, in a set whose images are bright and dark in the same places (a chest, a head, an ultrasound sector): a
  negative is bright where the others are dark, and its histogram is more like the set's read backwards;
- the *histogram* alone, in a set whose histograms are all but equal (cells on a dark ground). That tells a negative
  from the others, but not from another kind of image.

A set with none of these gives no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST_IMAGES = 10
"""With fewer there is no set to compare with."""

BINS = 16

TYPICAL_HISTOGRAM = 0.5
"""Median correlation with the set's histogram from which there is a typical one."""

TYPICAL_PLACES = 0.3
"""Median correlation with the others' mean thumbnail from which the images show the same things in the same places."""

OPPOSITE_PLACES = 0.15
"""Share of the median correlation with the mean thumbnail that a negative's must lie below 0."""

BRIGHTNESS = 0.5
"""By how much histogram and places together must speak for a negative."""

CLEARLY = 0.5
"""By how much the histogram alone must speak for a negative."""

EQUAL_HISTOGRAMS = 0.2
"""Largest spread (1.48 times the median deviation) of what the histograms say, from which they speak alone."""

TYPICAL_COLOUR = 0.9
"""Median share of an image's chroma that lies on the side of the set's hue, from which there is a typical hue."""

OPPOSITE_COLOUR = 0.2
"""Largest such share of a negative."""

FAINTEST = 0.2
"""Least mean chroma of an image that is judged by its colour, as a share of the set's."""

CONTRADICTION = 1.0
"""By how much histogram and places must speak against a negative to overrule its colours."""


@dataclass(frozen=True)
class Negatives:
    """The images that look like negatives.

    Attributes:
        marks: `(N,)` bool.
        by_histogram: `(N,)` bool: others that may be negatives, or as well another kind of image.
    """

    marks: np.ndarray
    by_histogram: np.ndarray


def find_negatives(thumbnails: np.ndarray, chroma: np.ndarray | None = None) -> Negatives:
    """Mark the images that look like negatives of the others.

    Args:
        thumbnails: `(N, *grid)` grey, each stretched to [0, 1].
        chroma: `(N, cells, 3)`: each colour channel without the mean of the three, 0 for a grey image; None: all grey.

    Returns:
        The marks; all False below `FEWEST_IMAGES` images.
    """
    number = len(thumbnails)
    none = np.zeros(number, bool)
    if number < FEWEST_IMAGES:
        return Negatives(none, none)
    values = _stretched(thumbnails)
    histogram, has_typical = _reversed_histogram(values)
    # Of a small set, each image would be like a mean that it is part of.
    places = _correlation(values, (number * np.mean(values, axis=0) - values) / (number - 1))
    usual = float(np.median(places))
    in_places = usual >= TYPICAL_PLACES
    brightness = histogram - places if in_places else np.zeros(number, np.float32)
    judged, marks = none, none
    hue = None if chroma is None else _opposite_hue(chroma)
    if hue is not None:
        judged, opposite = hue
        marks = judged & opposite & (brightness > -CONTRADICTION)
    if in_places:
        if has_typical:
            by_places = (histogram > 0) & (places < -OPPOSITE_PLACES * usual) & (brightness > BRIGHTNESS)
            marks = marks | (by_places & ~judged)
        return Negatives(marks, none)
    spread = 1.4826 * float(np.median(np.abs(histogram - np.median(histogram))))
    # Where most images have a hue, it has said all.
    if has_typical and spread <= EQUAL_HISTOGRAMS and 2 * int(judged.sum()) < number:
        return Negatives(marks, (histogram > CLEARLY) & ~marks)
    return Negatives(marks, none)


def _stretched(thumbnails: np.ndarray) -> np.ndarray:
    """`(N, cells)` in [0, 1]: a label burnt into the picture, or one bright spot, must not decide the scale."""
    values = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    low, high = np.percentile(values, (1, 99), axis=1)[:, :, None].astype(np.float32)
    return np.clip((values - low) / np.maximum(high - low, 1e-6), 0, 1)


def _reversed_histogram(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """How much more each histogram is like the set's read backwards, in [-2, 2]; whether the set has a typical one."""
    histograms = np.stack([np.histogram(one, BINS, (0, 1))[0] for one in values]).astype(np.float32)
    typical = np.median(histograms, axis=0)
    same = _correlation(histograms, typical)
    return _correlation(histograms[:, ::-1], typical) - same, bool(np.median(same) >= TYPICAL_HISTOGRAM)


def _opposite_hue(chroma: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Which images have colour enough to be judged, and which are of the opposite hue; None: they have no one hue.

    Grey images have no say, unless there are too few others.
    """
    chroma = chroma.astype(np.float32)
    coloured = np.asarray(chroma.any(axis=(1, 2)))
    if coloured.sum() < FEWEST_IMAGES:
        coloured = np.ones(len(chroma), bool)
    hue = np.median(chroma[coloured].mean(axis=1), axis=0)
    strength = float(np.linalg.norm(hue))
    if strength == 0:
        return None
    along = chroma @ (hue / strength)
    total = np.abs(along).sum(axis=1)
    share = np.maximum(along, 0).sum(axis=1) / np.maximum(total, 1e-6)
    if np.median(share[coloured]) < TYPICAL_COLOUR:
        return None
    return coloured & (total / chroma.shape[1] >= FAINTEST * strength), share <= OPPOSITE_COLOUR


def _correlation(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`(N,)` Pearson correlation of each row with the same row of the others, or with one vector."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    others = others - others.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=-1)
    return (rows * others).sum(axis=1) / np.maximum(lengths, 1e-9)

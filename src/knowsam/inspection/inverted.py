"""Images that have the grey values of a negative, compared with the rest of their set.

An image looks inverted if, stretched to its own range, its histogram is more like the set's read backwards than like
the set's itself, clearly so; and, in a set whose images have bright and dark in the same places (a chest, a head), if
its bright places are the others' dark ones. Sets without a typical histogram give no verdict.
"""

from __future__ import annotations

import numpy as np

FEWEST_IMAGES = 10
"""With fewer there is no set to compare with."""

BINS = 16
CLEARLY = 0.5
"""By how much the correlation with the reversed histogram must exceed the other."""

TYPICAL_HISTOGRAM = 0.5
"""Median correlation with the set's histogram from which there is a typical one."""

TYPICAL_PLACES = 0.3
"""Median correlation with the set's mean thumbnail from which the images show the same things in the same places."""


def inverted(thumbnails: np.ndarray) -> np.ndarray:
    """Mark the images that look inverted against the others.

    Args:
        thumbnails: `(N, *grid)` grey, each stretched to [0, 1].

    Returns:
        `(N,)` bool; all False below `FEWEST_IMAGES` images.
    """
    number = len(thumbnails)
    if number < FEWEST_IMAGES:
        return np.zeros(number, bool)
    values = thumbnails.reshape(number, -1).astype(np.float32)
    # A label burnt into the picture, or one bright spot, must not decide the scale.
    low, high = np.percentile(values, (1, 99), axis=1)[:, :, None].astype(np.float32)
    values = np.clip((values - low) / np.maximum(high - low, 1e-6), 0, 1)
    histograms = np.stack([np.histogram(one, BINS, (0, 1))[0] for one in values]).astype(np.float32)
    typical = np.median(histograms, axis=0)
    same = _correlation(histograms, typical)
    reversed_ = _correlation(histograms[:, ::-1], typical)
    if np.median(same) < TYPICAL_HISTOGRAM:
        return np.zeros(number, bool)
    suspicious = reversed_ - same > CLEARLY
    places = _correlation(values, np.mean(values, axis=0))
    if np.median(places) >= TYPICAL_PLACES:
        suspicious &= places < 0
    return suspicious


def _correlation(rows: np.ndarray, one: np.ndarray) -> np.ndarray:
    """`(N,)` Pearson correlation of each row with one vector."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    one = one - one.mean()
    return rows @ one / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(one), 1e-9)

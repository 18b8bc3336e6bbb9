"""The axis along which the volumes of a set are cut into slices."""

from __future__ import annotations

from collections.abc import Sequence

SLICE_NAMES = ("sagittal", "coronal", "axial")
"""Slices across each axis of a canonical volume: 0 runs to the right, 1 to anterior, 2 to superior."""


def majority_axis(votes: Sequence[int]) -> int | None:
    """The axis with most votes, the last of equals; None without any vote."""
    return max(range(len(votes)), key=lambda one: (votes[one], one)) if any(votes) else None


def axes_sentence(votes: Sequence[int], axis: int | None) -> str | None:
    """The sentence about volumes that would be cut along different axes; None where all agree.

    Args:
        votes: Number of volumes that would be cut along axis 0, 1 and 2.
        axis: The one that all are cut along.
    """
    others = [(number, one) for one, number in enumerate(votes) if number and one != axis]
    if not others or axis is None:
        return None
    said = ", ".join(f"{number} along axis {one}" for number, one in others)
    return (
        f"By their spacing {said} of {sum(votes)} volumes would be cut; all are cut along axis {axis}"
        f" ({SLICE_NAMES[axis]})."
    )

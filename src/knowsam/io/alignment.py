"""Which voxel of a mask lies on which voxel of an image, whatever order the two are stored in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from knowsam.errors import InputError
from knowsam.types import MedicalImage, MedicalLabel

NEAR_VOXELS = 0.51
"""Up to half a voxel two files are in the same place: their makers take a voxel's centre or corner."""


def align(label: MedicalLabel, like: MedicalImage | MedicalLabel) -> MedicalLabel:
    """Bring a label map into the axes of the image, or other label map, that it belongs to.

    Both have been turned as they say they lie. One that does not say it is taken to be stored like the other, voxel by
    voxel; a picture's mask without orientation tag that has the size of the turned picture was drawn on that.

    Args:
        label: As read.
        like: As read.

    Returns:
        The label map, of the same shape as `like` where the two fit.

    Raises:
        InputError: The two are stored in different orders, and their affines put them in different places.
    """
    ours, theirs = label.geometry, like.geometry
    if ours.turn == theirs.turn:
        return label
    if ours.oriented and theirs.oriented:
        shift = distance_voxels(label, like)
        if shift is None or shift <= NEAR_VOXELS:
            return label
        if not (_says_nothing(label) or _says_nothing(like)):
            raise InputError(
                f"{label.path}: it is stored in another order of axes than {like.path}, and by their affines the two"
                f" lie up to {shift:.3g} voxels apart; expected the same place, since it cannot be known which voxels"
                " belong together; resample it onto the image, or give it the image's header if only that is wrong."
            )
    stored = ours.as_stored(label.array)
    expected = like.array if isinstance(like, MedicalLabel) else like.array[..., 0]
    if stored.shape != theirs.as_stored(expected).shape:
        return label
    turned = stored if theirs.turn is None else theirs.turn.apply(stored)
    return replace(label, array=np.ascontiguousarray(turned), geometry=theirs)


def distance_voxels(label: MedicalLabel, like: MedicalImage | MedicalLabel) -> float | None:
    """How far voxels of one index lie apart at most, along any axis, in voxels of `like`; None without two affines."""
    first, second = label.geometry.affine, like.geometry.affine
    if first is None or second is None or not (label.geometry.oriented and like.geometry.oriented):
        return None
    lengths = np.array((*label.array.shape, 1)[:3]) - 1
    corners = np.c_[np.array(list(np.ndindex(2, 2, 2))) * lengths, np.ones(8)].T
    try:
        apart = np.linalg.inv(second) @ first @ corners - corners
    except np.linalg.LinAlgError:
        return None
    return float(np.abs(apart).max())


def _says_nothing(one: MedicalLabel | MedicalImage) -> bool:
    """Whether the affine is what a program writes that knows none: 1 mm along the axes, the first voxel at 0."""
    affine, turn = one.geometry.affine, one.geometry.turn
    if affine is None:
        return True
    if turn is not None:
        affine = turn.inverse.apply_to_affine(affine, one.array.shape[: len(turn.axes)])
    return bool(np.allclose(np.abs(affine), np.eye(4), rtol=0, atol=1e-6))

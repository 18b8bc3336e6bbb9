"""Image and mask as a pair: the check that they fit each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from knowsam.errors import InputError
from knowsam.io import read_image, read_label
from knowsam.presentation.text import size_text
from knowsam.types import MedicalImage, MedicalLabel

SAME_VOXEL = 0.01
"""How far two voxels may lie apart to be the same, in voxels."""


def lay_on(label: MedicalLabel, image: MedicalImage | MedicalLabel) -> MedicalLabel:
    """Turn a mask so that its voxels lie on those of its image, where both say that they are the same voxels.

    A program that converts DICOM to NIfTI may turn the axes: then the same voxels are stored in another order.

    Args:
        label: The mask.
        image: Its image, or the mask it is compared with.

    Returns:
        The mask in the axes of the image; the mask as it is where one of them has no affine, or the voxels are not the
        same.
    """
    ours, theirs = label.geometry.affine, image.geometry.affine
    shape = image.array.shape[:3] if isinstance(image, MedicalImage) else image.array.shape
    if ours is None or theirs is None or label.array.ndim != 3 or len(shape) != 3 or not np.linalg.det(ours):
        return label
    to_ours = np.linalg.inv(ours) @ theirs
    turn = np.rint(to_ours[:3, :3])
    if (np.abs(turn).sum(axis=0) != 1).any() or (np.abs(turn).sum(axis=1) != 1).any():
        return label
    axes = np.abs(turn).argmax(axis=0)
    signs = turn[axes, range(3)]
    if tuple(label.array.shape[axis] for axis in axes) != tuple(shape):
        return label
    origin = np.where(turn.sum(axis=1) < 0, np.array(label.array.shape) - 1, 0)
    last = np.array(shape) - 1
    off = np.abs((to_ours[:3, :3] - turn) @ np.diag(last)).sum(axis=1) + np.abs(to_ours[:3, 3] - origin)
    if (off > SAME_VOXEL).any() or ((signs > 0).all() and (axes == range(3)).all()):
        return label
    flips = tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs)
    turned = np.ascontiguousarray(label.array.transpose(axes)[flips])
    return replace(label, array=turned, geometry=image.geometry)


def read_pair(image: Path, label: Path) -> tuple[MedicalImage, MedicalLabel]:
    """Read an image and its mask.

    Raises:
        InputError: A file is broken, or the sizes differ.
    """
    read = read_image(image)
    laid = lay_on(read_label(label), read)
    check_pair(read, laid)
    return read, laid


def check_pair(image: MedicalImage, label: MedicalLabel) -> None:
    """Make sure that a mask lies on its image.

    Args:
        image: `(H, W, C)` or `(X, Y, Z, C)`.
        label: Expected to be `(H, W)` or `(X, Y, Z)`.

    Raises:
        InputError: The sizes differ.
    """
    expected, found = image.spatial_shape, label.array.shape
    if found == expected:
        return
    advice = "resample it to the image's size with nearest neighbour, or pair the right files."
    if found == expected[::-1]:
        advice = "its axes are swapped: was the image turned by its EXIF orientation, or the mask transposed?"
    raise InputError(
        f"{label.path}: the mask has size {size_text(found)}, its image {image.path.name} "
        f"{size_text(expected)}; expected equal sizes; {advice}"
    )

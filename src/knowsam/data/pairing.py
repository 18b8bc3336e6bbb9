"""Image and mask as a pair: the check that they fit each other."""

from __future__ import annotations

from pathlib import Path

from knowsam.errors import InputError
from knowsam.io import read_image, read_label
from knowsam.io.alignment import align
from knowsam.presentation.text import size_text
from knowsam.types import MedicalImage, MedicalLabel


def read_pair(image: Path, label: Path) -> tuple[MedicalImage, MedicalLabel]:
    """Read an image and its mask, in the same axes.

    Raises:
        InputError: A file is broken, or the two do not fit.
    """
    found = read_image(image)
    return found, fit_label(found, read_label(label))


def fit_label(image: MedicalImage, label: MedicalLabel) -> MedicalLabel:
    """A mask in the axes of its image.

    Args:
        image: `(H, W, C)` or `(X, Y, Z, C)`.
        label: Expected to be `(H, W)` or `(X, Y, Z)`.

    Raises:
        InputError: The sizes differ, or it cannot be known which voxels belong together.
    """
    label = align(label, image)
    expected, found = image.spatial_shape, label.array.shape
    if found == expected:
        return label
    advice = "resample it to the image's size with nearest neighbour, or pair the right files."
    if found == expected[::-1]:
        advice = "its axes are swapped: was the mask transposed, or drawn on the image turned by hand?"
    raise InputError(
        f"{label.path}: the mask has size {size_text(found)}, its image {image.path.name} "
        f"{size_text(expected)}; expected equal sizes; {advice}"
    )

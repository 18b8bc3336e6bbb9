"""Image and mask as a pair: the check that they fit each other."""

from __future__ import annotations

from knowsam.errors import InputError
from knowsam.presentation.text import size_text
from knowsam.types import MedicalImage, MedicalLabel


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

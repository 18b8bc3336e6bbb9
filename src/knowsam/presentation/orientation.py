"""How a slice is turned to be drawn; files and network inputs are never turned.

Pictures follow the radiological convention: the patient's right on the left, anterior (of an axial slice) or superior
(of a coronal or sagittal one) at the top, and of a sagittal slice anterior on the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knowsam.types import MedicalImage

_SUPERIOR, _ANTERIOR = 2, 1
"""Axes of the world of NIfTI, growing in the direction they are named after; axis 0 grows to the right."""


@dataclass(frozen=True)
class View:
    """What happens to the rows and columns of a slice before it is drawn.

    Attributes:
        known: Whether the file says how its axes lie in the patient; otherwise nothing is turned.
        transpose: Rows become columns; this comes first.
        flip_rows: The last row becomes the first.
        flip_columns: The last column becomes the first.
    """

    known: bool = False
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def turn(self, array: np.ndarray, rows: int = 0) -> np.ndarray:
        """Turn one slice or many.

        Args:
            array: Any dtype.
            rows: Index of the axis of rows; that of columns is the next one.

        Returns:
            The same values as a view.
        """
        if self.transpose:
            array = np.swapaxes(array, rows, rows + 1)
        if self.flip_rows:
            array = np.flip(array, rows)
        return np.flip(array, rows + 1) if self.flip_columns else array


def view_of(image: MedicalImage, slice_axis: int | None = None) -> View:
    """How slices of an image are turned.

    Args:
        image: A volume or a picture. A NIfTI file of two axes is a picture with an orientation.
        slice_axis: Axis along which a volume is cut; None for the one of the file.

    Returns:
        A view that turns nothing where the format has no orientation (PNG, HDF5) or the header leaves it open
        (`qform_code` and `sform_code` 0).
    """
    geometry = image.geometry
    if geometry.affine is None or not geometry.oriented:
        return View()
    from nibabel.orientations import io_orientation

    cut = 2 if not image.is_volume else geometry.slice_axis if slice_axis is None else slice_axis
    # Of each array axis the axis of the world nearest to it, and whether it runs along (1) or against it (-1).
    orientation = io_orientation(geometry.affine)
    if not np.isfinite(orientation).all():
        return View()
    first, second = (axis for axis in range(3) if axis != cut)
    worlds = {int(orientation[axis, 0]): int(orientation[axis, 1]) for axis in (first, second)}
    down = _SUPERIOR if _SUPERIOR in worlds else _ANTERIOR
    across = next(axis for axis in worlds if axis != down)
    # Rows run downwards from superior or anterior, columns rightwards from right or anterior: against the world's axes.
    return View(True, int(orientation[first, 0]) != down, worlds[down] > 0, worlds[across] > 0)

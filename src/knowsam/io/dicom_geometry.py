"""Where the slices of a DICOM series lie: put in order, checked, and turned into one affine.

DICOM's world is LPS (to the left, to the back, to the head), that of NIfTI is RAS: the first two axes change their
sign. An array is `(X, Y, Z)`: column, row, slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knowsam.errors import InputError

ORIENTATION_TOLERANCE = 0.01
"""Largest difference of direction cosines within one orientation (0.6 degrees): scanners round them."""
UNEVEN_SHARE, UNEVEN_MM = 0.05, 0.02
"""How far a slice may lie off its place on an even grid: a share of the distance of slices, and rounding in mm."""
SHEAR_SHARE = 0.01
"""Shift of neighbouring slices in their plane, as a share of their distance, from which a gantry was tilted."""


class SlicePlace(NamedTuple):
    """Where one slice lies, as its file says it.

    Attributes:
        name: The file, and the frame in it, for messages.
        size: `(rows, columns)`.
        position: Centre of the first pixel in mm, LPS; None where the file does not say.
        orientation: Direction of a row, then of a column: six cosines; None where the file does not say.
        spacing: Distance of rows, then of columns, in mm; None where the file does not say.
        thickness: Distance of slices, or their thickness, in mm; None where the file does not say.
    """

    name: str
    size: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None


@dataclass(frozen=True)
class Placement:
    """Slices as one volume.

    Attributes:
        order: Index of the slice at each z.
        affine: `(4, 4)` voxel `(column, row, slice)` to the world of NIfTI, in mm.
        sheared: The slices are shifted against each other in their plane: the gantry was tilted.
    """

    order: tuple[int, ...]
    affine: np.ndarray
    sheared: bool


class Doubled(NamedTuple):
    """Two slices at one position: indices into the slices that were placed."""

    first: int
    second: int


def has_one_orientation(slices: Sequence[SlicePlace]) -> bool:
    """Tell whether all slices that have an orientation have the same."""
    given = np.array([one.orientation for one in slices if one.orientation is not None])
    return len(given) == 0 or bool((np.abs(given - given[0]) <= ORIENTATION_TOLERANCE).all())


def place_slices(slices: Sequence[SlicePlace], path: Path) -> Placement | Doubled:
    """Put the slices of one orientation in order and find their affine.

    Args:
        slices: In any order.
        path: The series, for messages.

    Returns:
        The volume, or the first two slices that lie at one position.

    Raises:
        InputError: A size, position, orientation or spacing is missing or differs; a slice is missing or out of line.
    """
    first = slices[0]
    for one in slices:
        _check_same_plane(one, first, path)
    assert first.orientation is not None
    assert first.spacing is not None
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    if abs(np.linalg.norm(normal) - 1) > ORIENTATION_TOLERANCE:
        raise InputError(f"{path}: its rows and columns are not at right angles; export the series again.")
    positions = np.array([one.position for one in slices], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    step = normal * (first.thickness or 1.0)
    sheared = False
    if len(slices) > 1:
        distances = np.diff(along[order])
        usual = float(np.median(distances))
        for lower, distance in enumerate(distances):
            if distance <= max(UNEVEN_MM, UNEVEN_SHARE * usual):
                return Doubled(int(order[lower]), int(order[lower + 1]))
        _check_even(distances, usual, [slices[index].name for index in order], path)
        placed = positions[order]
        step = (placed[-1] - placed[0]) / (len(placed) - 1)
        off = np.linalg.norm(placed - (placed[0] + np.arange(len(placed))[:, None] * step), axis=1)
        if off.max() > 2 * max(UNEVEN_MM, UNEVEN_SHARE * usual):
            raise InputError(
                f"{path}: slice {slices[order[int(off.argmax())]].name} lies {off.max():.2g} mm off the line of the"
                " others, but expected slices on one straight line; resample the series to a volume (NIfTI)."
            )
        sheared = float(np.linalg.norm(step - normal * (step @ normal))) > SHEAR_SHARE * usual
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * first.spacing[1], column * first.spacing[0]
    lps[:3, 2], lps[:3, 3] = step, positions[order[0]]
    return Placement(tuple(int(index) for index in order), np.diag((-1.0, -1.0, 1.0, 1.0)) @ lps, sheared)


def make_header(placement: Placement, shape: tuple[int, ...]) -> Any:
    """Make the NIfTI header that says the same of a volume: what is written as NIfTI takes its place from it.

    Args:
        placement: Its affine may be sheared, which only the sform can hold.
        shape: `(X, Y, Z)`.
    """
    import nibabel as nib

    header: Any = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_zooms(tuple(float(length) for length in np.linalg.norm(placement.affine[:3, :3], axis=0)))
    if not placement.sheared:
        header.set_qform(placement.affine, code="scanner")
    header.set_sform(placement.affine, code="scanner")
    header.set_xyzt_units("mm")
    return header


def _check_same_plane(one: SlicePlace, first: SlicePlace, path: Path) -> None:
    absent = [
        name
        for name, value in (
            ("ImagePositionPatient", one.position),
            ("ImageOrientationPatient", one.orientation),
            ("PixelSpacing", one.spacing),
        )
        if value is None
    ]
    if absent:
        raise InputError(
            f"{path}: slice {one.name} has no {absent[0]}, but expected position, orientation and spacing in every"
            " slice; export the series again."
        )
    if one.size != first.size:
        raise InputError(
            f"{path}: slices of {first.size[0]}x{first.size[1]} and {one.size[0]}x{one.size[1]} pixels ({one.name}) in"
            " one series, but expected one size; put each size into a folder of its own as a series of its own."
        )
    if not np.allclose(one.spacing or (), first.spacing or (), rtol=1e-3):
        raise InputError(
            f"{path}: pixels of different spacing in one series ({one.name}), but expected one spacing; resample it."
        )


def _check_even(distances: np.ndarray, usual: float, names: list[str], path: Path) -> None:
    """Refuse a gap, or distances that differ.

    Args:
        distances: Of neighbouring slices in mm, all above zero.
        usual: Their median.
        names: Of the slices in order, one more than distances.
        path: The series.
    """
    uneven = np.flatnonzero(np.abs(distances - usual) > max(UNEVEN_MM, UNEVEN_SHARE * usual))
    if not len(uneven):
        return
    place = int(uneven[0])
    between = f"between {names[place]} and {names[place + 1]}"
    multiple = distances / usual
    if len(uneven) <= len(distances) / 2 and (np.abs(multiple - np.rint(multiple)) <= UNEVEN_SHARE).all():
        missing = int((np.rint(multiple) - 1).sum())
        raise InputError(
            f"{path}: {missing} slice{'s are' if missing > 1 else ' is'} missing {between} ({distances[place]:.4g} mm"
            f" instead of {usual:.4g} mm); expected every slice, because a gap would move what lies behind it; export"
            " the series again."
        )
    raise InputError(
        f"{path}: its slices are {distances.min():.4g} to {distances.max():.4g} mm apart ({distances[place]:.4g} mm"
        f" {between}), but expected one distance; resample the series to an even grid (NIfTI)."
    )

"""One case of a data folder: what the check of the whole folder needs of it, without keeping its arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from knowsam.data.folder import Case
from knowsam.data.mask_values import MaskFacts, examine_mask
from knowsam.data.pairing import fit_label
from knowsam.errors import InputError
from knowsam.io import read_image, read_label
from knowsam.presentation.console import ProgressStart, start_progress
from knowsam.types import LUMINANCE, Geometry, MedicalImage, MedicalLabel

PICTURE_GRID = (64, 64)
VOLUME_GRID = (24, 24, 24)
"""Sizes of thumbnails, in px; fine enough for texture, which tells copies from look-alikes."""

FINER = 2
"""How many times finer the second thumbnail of a picture is, for pairs that the first leaves in doubt."""

CLASS_GRID, FINEST_SIDE = (24, 24), 256
"""Grid on which the places of classes are compared; masks are thinned to about this many px a side before."""

MOST_MAPPED = 16
"""Masks of more values than this are not compared."""

CHROMA_GRID = (16, 16)
"""Size of the picture of its colours, in px."""


@dataclass
class CaseFacts:
    """What one case is: its image, its mask, or why they cannot be read.

    Attributes:
        case: Its files.
        image_error: Why the image cannot be read, one sentence.
        label_error: Why the mask cannot be read, or does not fit its image.
        size: Spatial shape of the image; None where it cannot be read.
        channels: 1 or 3.
        dtype: NumPy name of the image's type.
        spacing_mm: Voxel distances, None where the file has none.
        constant: Whether all pixels have the same value.
        slice_axis: The axis along which a volume would be cut by itself; None for pictures and formats that store it.
        doubt: What contradicts itself in the header, see `Geometry`.
        oriented: Whether the image says how its axes lie.
        either_way: Whether a mask without orientation tag fits the stored and the turned pixels of a picture with one.
        digest: Hash of the decoded pixels; equal for equal pixels, whatever the file format or compression.
        label_digest: The same for the mask.
        mask: What the mask holds.
        displaced: Whether image and mask lie in different places by their affines.
        class_maps: Where each mask value lies, see `class_maps`; empty without mask, or of many values.
        thumbnail: Grey, `(64, 64)` or `(24, 24, 24)` float16 in [0, 1]; None for a constant image.
        fine: Of a picture with thumbnail, the same at `FINER` times its size, `(128, 128)` uint8.
        chroma: Of a colour picture, as `chroma` gives it; None for a grey or constant image.
    """

    case: Case
    image_error: str | None = None
    label_error: str | None = None
    size: tuple[int, ...] | None = None
    channels: int = 0
    dtype: str = ""
    spacing_mm: tuple[float, ...] | None = None
    constant: bool = False
    slice_axis: int | None = None
    doubt: str = ""
    oriented: bool = False
    either_way: bool = False
    digest: str = ""
    label_digest: str = ""
    mask: MaskFacts | None = None
    displaced: bool = False
    class_maps: dict[int, np.ndarray] = field(default_factory=dict)
    thumbnail: np.ndarray | None = None
    fine: np.ndarray | None = None
    chroma: np.ndarray | None = None


def examine_all(cases: Sequence[Case], progress: ProgressStart | None = None) -> list[CaseFacts]:
    """Open every image and mask, in threads.

    Args:
        cases: What to open.
        progress: Called with the number of cases; returns what to call after each.
    """
    advance = start_progress(progress, len(cases))
    examined = []
    # Decoding releases the interpreter lock; more threads than this only compete for memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for one in pool.map(examine, cases):
            examined.append(one)
            advance()
    return examined


def examine(case: Case) -> CaseFacts:
    """Open one image and its mask, if it has one; an error is recorded, not raised."""
    found = CaseFacts(case)
    image: MedicalImage | None = None
    try:
        image = read_image(case.image)
        array = image.array
        found.size, found.channels, found.dtype = array.shape[:-1], array.shape[-1], str(array.dtype)
        found.spacing_mm = image.geometry.spacing_mm
        found.constant = bool((array == array.flat[0]).all())
        shown = _without_equal_channels(array)
        found.digest = _digest(shown)
        if not found.constant:
            found.thumbnail, found.fine = thumbnails(array)
            found.chroma = chroma(shown)
        found.doubt, found.oriented = image.geometry.doubt, image.geometry.oriented
        if image.is_volume and image.geometry.affine is not None:
            found.slice_axis = image.geometry.slice_axis
    except InputError as error:
        found.image_error = str(error)
    if case.label is None:
        return found
    try:
        label = read_label(case.label)
        found.mask = examine_mask(label)
        found.label_digest = _digest(label.array)
        if image is not None:
            found.displaced = _displaced(image, label)
            found.either_way = _fits_either_way(image, label)
            found.class_maps = class_maps(fit_label(image, label).array, list(found.mask.counts), image.geometry)
    except InputError as error:
        found.label_error = str(error)
    return found


def thumbnails(array: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Small grey pictures of an image, their values stretched to [0, 1] and 0..255.

    Each grid cell is the mean of what it covers, so that noise and interpolation matter little.

    Args:
        array: `(H, W, C)` or `(X, Y, Z, C)`, any type.

    Returns:
        `PICTURE_GRID` or `VOLUME_GRID` float16, and of a picture `FINER` times that, uint8; None if all cells have the
        same value.
    """
    values = array.astype(np.float32, copy=False)
    grey = values @ np.array(LUMINANCE, np.float32) if array.shape[-1] == 3 else values[..., 0]
    if grey.ndim == 3:
        stretched = _stretched(cell_means(grey, VOLUME_GRID))
        return None if stretched is None else stretched.astype(np.float16), None
    rows, columns = PICTURE_GRID
    fine = cell_means(grey, (rows * FINER, columns * FINER))
    coarse = _stretched(fine.reshape(rows, FINER, columns, FINER).mean(axis=(1, 3)))
    finer = _stretched(fine)
    if coarse is None or finer is None:
        return None, None
    return coarse.astype(np.float16), np.rint(finer * 255).astype(np.uint8)


def _stretched(grey: np.ndarray) -> np.ndarray | None:
    """Values in [0, 1]; None if all are the same."""
    low, high = float(grey.min()), float(grey.max())
    # Means of equal values differ by rounding, which must not be stretched into a picture.
    if high - low <= 1e-5 * max(abs(low), abs(high)):
        return None
    return (grey - low) / (high - low)


def class_maps(label: np.ndarray, values: Sequence[int], geometry: Geometry) -> dict[int, np.ndarray]:
    """Where each value of a mask lies: its share of each cell of a coarse grid.

    Args:
        label: `(H, W)` or `(X, Y, Z)`, in the axes of the image. A volume is seen from the front, left and right along
            the rows of the grid, where it says how it lies, else along its slice axis.
        values: Those that occur; more than `MOST_MAPPED` are no classes, and give nothing.
        geometry: Of the image.

    Returns:
        Value -> `CLASS_GRID` float32 in [0, 1].
    """
    if len(values) > MOST_MAPPED:
        return {}
    steps = tuple(slice(None, None, max(1, length // FINEST_SIDE)) for length in label.shape)
    label, maps = label[steps], {}
    away = 1 if geometry.oriented else geometry.slice_axis
    for value in values:
        where = (label == value).astype(np.float32)
        seen = where.mean(axis=away) if where.ndim == 3 else where
        rows, columns = (_cell_weights(cells, length) for cells, length in zip(CLASS_GRID, seen.shape, strict=True))
        maps[value] = rows @ seen @ columns.T
    return maps


def chroma(array: np.ndarray) -> np.ndarray | None:
    """The colours of a picture without its brightness: each channel without the mean of the three.

    A negative has the same values with the opposite sign.

    Args:
        array: `(H, W, C)`, any type.

    Returns:
        `(cells, 3)` float16 in [-1, 1], on `CHROMA_GRID`; None for a grey picture or a volume.
    """
    if array.ndim != 3 or array.shape[-1] != 3:
        return None
    largest = np.iinfo(array.dtype).max if np.issubdtype(array.dtype, np.integer) else np.abs(array).max()
    means = cell_means(array.astype(np.float32, copy=False), CHROMA_GRID).reshape(-1, 3) / max(float(largest), 1e-6)
    return (means - means.mean(axis=1, keepdims=True)).astype(np.float16)


def cell_means(values: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The first axes reduced to a grid.

    Args:
        values: `(*axes, ...)` float32, with as many axes as the grid has, or more.
        grid: Numbers of cells.

    Returns:
        `(*grid, ...)`: each cell the mean of what it covers.
    """
    for axis, cells in enumerate(grid):
        means = np.tensordot(_cell_weights(cells, values.shape[axis]), values, axes=(1, axis))
        values = np.moveaxis(means, 0, axis)
    return values


def _cell_weights(cells: int, length: int) -> np.ndarray:
    """`(cells, length)` float32: the share of each pixel in each of `cells` equal parts of a line; rows sum to 1."""
    edges = np.linspace(0, length, cells + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.clip(overlap, 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def _without_equal_channels(array: np.ndarray) -> np.ndarray:
    """One channel of a colour picture that is grey, so that it equals the same picture saved as grey."""
    equal = array.shape[-1] == 3 and (array == array[..., :1]).all()
    return array[..., :1] if equal else array


def _digest(array: np.ndarray) -> str:
    hashed = hashlib.blake2b(f"{array.shape}{array.dtype}".encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def _fits_either_way(image: MedicalImage, label: MedicalLabel) -> bool:
    """Whether a picture has an orientation tag and its mask none, and turning it does not change its size."""
    shape, turn = image.spatial_shape, image.geometry.turn
    untagged = not label.geometry.oriented and image.geometry.affine is None
    return untagged and turn is not None and image.geometry.as_stored(image.array).shape[:2] == shape


def _displaced(image: MedicalImage, label: MedicalLabel) -> bool:
    """True where both files say how they lie, and a mask voxel lies off its image voxel by 0.1 mm or more."""
    first, second = image.geometry.affine, label.geometry.affine
    if first is None or second is None or not (image.geometry.oriented and label.geometry.oriented):
        return False
    corners = np.array(list(np.ndindex(*(2,) * 3))) * (np.array((*image.spatial_shape, 1)[:3]) - 1)
    apart = (first - second)[:3] @ np.c_[corners, np.ones(len(corners))].T
    return bool((np.linalg.norm(apart, axis=0) >= 0.1).any())

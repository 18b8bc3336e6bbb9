"""Where predicted objects lie: bounding boxes and points within, as pure functions of masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from knowsam.functional.pseudo_labels import largest_piece


class SlicePrompt(NamedTuple):
    """Where an object lies in an image, in pixels of the image from its upper left corner.

    Attributes:
        box: x0, y0, x1, y1, from the outer edges of the outermost pixels.
        point: x, y: the centre of the pixel of the object that is farthest from its edge.
    """

    box: tuple[float, float, float, float]
    point: tuple[float, float]


class ClassPlaces(NamedTuple):
    """Where each class lies in each image, as shares of the image.

    Attributes:
        box: `(B, K, 4)` float32 x0, y0, x1, y1; the whole image where there is none.
        point: `(B, K, 2)` float32 x, y; the image's centre where there is none.
        found: `(B, K)` bool, which are places at all; never the background's.
    """

    box: Tensor
    point: Tensor
    found: Tensor


def slice_prompt(mask: np.ndarray, size: tuple[int, int] | None = None) -> SlicePrompt | None:
    """Box around a mask and point within it.

    Args:
        mask: `(h, w)` bool; the object may be in several pieces, the point lies in the thickest.
        size: `(H, W)` of the image in pixels, if it is not the mask's.

    Returns:
        In pixels of the image; None for an empty mask. Of equally far pixels the first, row by row.
    """
    if not mask.any():
        return None
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    # What lies outside of the image is no object.
    depth = ndimage.distance_transform_edt(np.pad(mask[rows, columns], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    height, width = size or mask.shape
    down, across = height / mask.shape[0], width / mask.shape[1]
    box = (columns.start * across, rows.start * down, columns.stop * across, rows.stop * down)
    point = ((columns.start + int(column) + 0.5) * across, (rows.start + int(row) + 0.5) * down)
    return SlicePrompt(box, point)


def class_places(label: Tensor, classes: int) -> ClassPlaces:
    """Box around all pixels of every foreground class in every image, and a point within.

    Args:
        label: `(B, H, W)` int64, class index; others are nowhere.
        classes: K, background included.

    Returns:
        On the same device; passes through the CPU.
    """
    return _places(_masks(label, classes), label, classes)


def class_boxes(label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Bounding boxes of the largest connected piece of every foreground class in every image.

    Args:
        label: `(B, H, W)` int64, class index.
        classes: K, background included.

    Returns:
        `(B, K, 4)` float32 x0, y0, x1, y1 as shares of the image, from the outer edges of the outermost pixels; and
        which are boxes at all, `(B, K)` bool: none is for the background, nor for a class that is not in the image,
        whose numbers are those of the whole image. On the same device; passes through the CPU.
    """
    pieces = ((image, number, largest_piece(mask)) for image, number, mask in _masks(label, classes))
    places = _places(pieces, label, classes)
    return places.box, places.found


def _masks(label: Tensor, classes: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Image, class and mask `(H, W)` of whatever is in a label."""
    labels = label.cpu().numpy()
    for image, values in enumerate(labels):
        for number in range(1, classes):
            mask = values == number
            if mask.any():
                yield image, number, mask


def _places(masks: Iterator[tuple[int, int, np.ndarray]], label: Tensor, classes: int) -> ClassPlaces:
    box = np.tile(np.array([0, 0, 1, 1], np.float32), (len(label), classes, 1))
    point = np.full((len(label), classes, 2), 0.5, np.float32)
    found = np.zeros((len(label), classes), dtype=bool)
    for image, number, mask in masks:
        prompt = slice_prompt(mask, (1, 1))
        if prompt is not None:
            box[image, number], point[image, number], found[image, number] = *prompt, True
    return ClassPlaces(*(torch.from_numpy(values).to(label.device) for values in (box, point, found)))

"""Where predicted objects lie: bounding boxes and points within, as pure functions of masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


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
        label: `(B, H, W)` int64, class index; pixels of other values are nowhere.
        classes: K, background included.

    Returns:
        On the same device; passes through the CPU.
    """
    labels = label.cpu().numpy()
    box = np.tile(np.array([0, 0, 1, 1], np.float32), (len(labels), classes, 1))
    point = np.full((len(labels), classes, 2), 0.5, np.float32)
    found = np.zeros((len(labels), classes), dtype=bool)
    for index, image in enumerate(labels):
        for number in range(1, classes):
            prompt = slice_prompt(image == number, (1, 1))
            if prompt is not None:
                box[index, number], point[index, number], found[index, number] = *prompt, True
    return ClassPlaces(*(torch.from_numpy(values).to(label.device) for values in (box, point, found)))

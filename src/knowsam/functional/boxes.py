"""Bounding boxes of predicted objects, as pure functions of tensors."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from knowsam.functional.pseudo_labels import largest_piece


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
    labels = label.cpu().numpy()
    height, width = labels.shape[1:]
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(labels), classes, 1))
    found = np.zeros((len(labels), classes), dtype=bool)
    for index, image in enumerate(labels):
        for number in range(1, classes):
            piece = image == number
            if not piece.any():
                continue
            rows, columns = ndimage.find_objects(largest_piece(piece).astype(np.uint8))[0]
            boxes[index, number] = columns.start / width, rows.start / height, columns.stop / width, rows.stop / height
            found[index, number] = True
    return torch.from_numpy(boxes).to(label.device), torch.from_numpy(found).to(label.device)

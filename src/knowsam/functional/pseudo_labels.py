"""From the prediction of an unlabelled image to a pseudo-label, as pure functions of tensors."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from knowsam.types import IGNORE


def confident_label(probs: Tensor, threshold: float) -> Tensor:
    """The most probable class of `(B, K, H, W)`, `IGNORE` where its probability is below the threshold: `(B, H, W)`."""
    confidence, label = probs.max(dim=1)
    return label.masked_fill(confidence < threshold, IGNORE)


def largest_components(label: Tensor, classes: int) -> Tensor:
    """Keep the largest connected piece of every foreground class in every image (BCP).

    Each slice by itself: pixels of one class are connected along edges and corners, and whatever is not in the largest
    piece becomes background. Of two equally large pieces the first, row by row, is kept.
    Right where a class is one organ; wrong where it is many things, such as nuclei.

    Args:
        label: `(B, H, W)` int64, class index; other values (`IGNORE`) stay.
        classes: K, background included.

    Returns:
        `(B, H, W)` int64 on the same device; passes through the CPU.
    """
    kept = label.cpu().numpy().copy()
    for image in kept:
        for index in range(1, classes):
            pixels = image == index
            image[pixels & ~largest_piece(pixels)] = 0
    return torch.from_numpy(kept).to(label.device)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of a mask `(H, W)` bool, connected along edges and corners: the same shape and type.

    Of two equally large pieces the first, row by row, is kept.
    """
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    if count <= 1:
        return mask
    return pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())

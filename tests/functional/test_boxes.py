"""Bounding boxes of the largest piece of each class."""

from __future__ import annotations

import torch

from knowsam.functional.boxes import class_boxes


def test_boxes_by_hand() -> None:
    label = torch.zeros(2, 8, 16, dtype=torch.long)
    label[0, 2:5, 4:8] = 1  # the larger piece
    label[0, 5, 8] = 1  # joined to it at a corner
    label[0, 0, 12:16] = 1
    label[0, 7, 0] = 2
    boxes, found = class_boxes(label, 4)
    assert found.tolist() == [[False, True, True, False], [False] * 4]
    assert boxes[0, 1].tolist() == [4 / 16, 2 / 8, 9 / 16, 6 / 8]
    assert boxes[0, 2].tolist() == [0, 7 / 8, 1 / 16, 1]
    assert boxes[~found].tolist() == [[0, 0, 1, 1]] * 6

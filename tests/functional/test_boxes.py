"""Box and inner point of each class in each image."""

from __future__ import annotations

import torch

from knowsam.functional.boxes import class_places
from knowsam.functional.pseudo_labels import largest_components
from knowsam.types import IGNORE


def test_places_by_hand() -> None:
    label = torch.zeros(2, 8, 16, dtype=torch.long)
    label[0, 2:5, 4:8] = 1  # the larger piece
    label[0, 5, 8] = 1  # joined to it at a corner
    label[0, 0, 12:16] = 1
    label[0, 7, 0] = 2
    label[1, 3, 3] = IGNORE
    places = class_places(largest_components(label, 4), 4)
    assert places.found.tolist() == [[False, True, True, False], [False] * 4]
    assert places.box[0, 1].tolist() == [4 / 16, 2 / 8, 9 / 16, 6 / 8]
    assert places.box[0, 2].tolist() == [0, 7 / 8, 1 / 16, 1]
    assert places.box[~places.found].tolist() == [[0, 0, 1, 1]] * 6
    # Of the two middle pixels of the piece's second row, the first.
    assert places.point[0, 1].tolist() == [5.5 / 16, 3.5 / 8]
    assert places.point[0, 2].tolist() == [0.5 / 16, 7.5 / 8]


def test_a_box_is_drawn_around_all_pieces_of_a_class() -> None:
    label = torch.zeros(1, 8, 16, dtype=torch.long)
    label[0, 2:5, 4:8] = 1
    label[0, 0, 15] = 1
    assert class_places(label, 2).box[0, 1].tolist() == [4 / 16, 0, 1, 5 / 8]

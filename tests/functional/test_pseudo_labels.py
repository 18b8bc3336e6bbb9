from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import Tensor

from knowsam.functional.pseudo_labels import confident_label, largest_components
from knowsam.types import IGNORE


def test_confident_label_ignores_what_is_less_probable_than_the_threshold() -> None:
    probs = torch.tensor([[0.5, 0.9, 0.1], [0.5, 0.1, 0.9]]).view(1, 2, 1, 3)
    assert confident_label(probs, 0.8).tolist() == [[[IGNORE, 0, 1]]]
    assert confident_label(probs, 0.0).tolist() == [[[0, 0, 1]]]


def naive_components(image: list[list[int]], index: int) -> list[set[tuple[int, int]]]:
    """Pieces of one class by flooding over all eight neighbours, in the order of their first pixel."""
    left = {(y, x) for y, row in enumerate(image) for x, value in enumerate(row) if value == index}
    pieces = []
    for start in sorted(left):
        if start not in left:
            continue
        left.discard(start)
        piece, queue = {start}, deque([start])
        while queue:
            y, x = queue.popleft()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            piece |= around
            queue.extend(around)
        pieces.append(piece)
    return pieces


def naive_largest(label: Tensor, classes: int) -> Tensor:
    kept = label.clone()
    for number, image in enumerate(label.tolist()):
        for index in range(1, classes):
            pieces = naive_components(image, index)
            largest = max(pieces, key=len, default=set())
            for y, x in set().union(*pieces) - largest:
                kept[number, y, x] = 0
    return kept


@pytest.mark.parametrize("classes", [2, 4])
def test_largest_components_naive(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    label = torch.randint(-2, classes, (4, 9, 13), generator=generator).clamp(min=-1)
    found = largest_components(label, classes)
    assert torch.equal(found, naive_largest(label, classes))
    assert not torch.equal(found, label)
    assert found.dtype == torch.int64


def test_largest_components_hand_value() -> None:
    label = torch.tensor([[[1, 0, 2, 2], [0, 1, 0, 0], [0, 0, 0, 1], [2, 0, IGNORE, 0]]])
    # The two at the top left touch at a corner; the 2 at the bottom left is the smaller piece of its class.
    assert largest_components(label, 3).tolist() == [[[1, 0, 2, 2], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, IGNORE, 0]]]


def test_largest_components_looks_at_every_image_by_itself_and_leaves_its_input_alone() -> None:
    label = torch.zeros(2, 3, 3, dtype=torch.int64)
    label[0, 0, 0] = label[1, 2, 2] = 1
    before = label.clone()
    assert torch.equal(largest_components(label, 2), before)
    assert torch.equal(label, before)

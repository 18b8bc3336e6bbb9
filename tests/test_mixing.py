from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowsam.mixing import exchange, uncertain_cells

# (H, W): divisible by the grid, H != W, odd, and as small as the grid.
SIZES = [(8, 8), (8, 12), (7, 13), (9, 6), (4, 5)]


def naive_mask(entropy: Tensor, cells: int, grid: int, highest: bool) -> Tensor:
    images, height, width = entropy.shape
    mask = torch.zeros(images, height, width)
    for b in range(images):
        members: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for h in range(height):
            for w in range(width):
                members.setdefault((h * grid // height, w * grid // width), []).append((h, w))
        assert len(members) == grid * grid
        means = {cell: sum(entropy[b, h, w].item() for h, w in at) / len(at) for cell, at in members.items()}
        for cell in sorted(means, key=means.__getitem__, reverse=highest)[:cells]:
            for h, w in members[cell]:
                mask[b, h, w] = 1
    return mask


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("select", ["uncertain", "confident"])
def test_uncertain_cells_naive(size: tuple[int, int], select: str) -> None:
    entropy = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    found = uncertain_cells(entropy, select=select)
    assert torch.equal(found, naive_mask(entropy, 5, 4, highest=select == "uncertain"))


def test_uncertain_cells_hand_value() -> None:
    entropy = torch.zeros(2, 4, 4)
    entropy[0, 0, 3] = 1.0
    entropy[1, 2:, :2] = 0.5
    found = uncertain_cells(entropy, cells=1, grid=2)
    assert found[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found[1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("size", SIZES)
def test_uncertain_cells_most_and_least_are_complements(size: tuple[int, int]) -> None:
    entropy = torch.rand(2, *size, generator=torch.Generator().manual_seed(1))
    most = uncertain_cells(entropy, cells=6, select="uncertain")
    least = uncertain_cells(entropy, cells=10, select="confident")
    assert torch.equal(most + least, torch.ones_like(entropy))


def test_uncertain_cells_marks_the_same_number_of_cells_where_all_are_equal() -> None:
    assert uncertain_cells(torch.ones(2, 8, 8)).sum((1, 2)).tolist() == [20, 20]  # 5 cells of 2x2 pixels


def test_uncertain_cells_none_and_all() -> None:
    entropy = torch.rand(1, 5, 9)
    assert uncertain_cells(entropy, cells=0).sum() == 0
    assert uncertain_cells(entropy, cells=16).min() == 1


def test_uncertain_cells_passes_no_gradient() -> None:
    assert not uncertain_cells(torch.rand(1, 8, 8, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("arguments", "found"),
    [({"cells": 17}, "cells is 17"), ({"grid": 9}, "grid is 9"), ({"select": "certain"}, "'certain'")],
)
def test_uncertain_cells_names_what_does_not_fit(arguments: dict, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        uncertain_cells(torch.rand(1, 8, 8), **arguments)


@pytest.mark.parametrize(("own_size", "other_size"), [(3, 3), (2, 3), (5, 2)])
def test_exchange_takes_every_pixel_from_exactly_one_of_the_two(own_size: int, other_size: int) -> None:
    own = torch.arange(own_size * 2 * 3 * 5, dtype=torch.float32).view(own_size, 2, 3, 5)
    other = -1 - torch.arange(other_size * 2 * 3 * 5, dtype=torch.float32).view(other_size, 2, 3, 5)
    mask = (torch.rand(own_size, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    mixed = exchange(own, other, mask)
    for b in range(own_size):
        for h in range(3):
            for w in range(5):
                source = other[b % other_size] if mask[b, h, w] else own[b]
                assert torch.equal(mixed[b, :, h, w], source[:, h, w])


def test_exchange_mixes_labels_as_it_mixes_images() -> None:
    # The image is its own label: whatever the mask, the mixed pair must stay the same.
    label, other = torch.randint(-1, 4, (2, 3, 6, 7), generator=torch.Generator().manual_seed(0))
    mask = uncertain_cells(torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(1)))
    mixed = exchange(label, other[:2], mask)
    assert mixed.dtype == torch.int64
    image = exchange(label.float().unsqueeze(1), other[:2].float().unsqueeze(1), mask)
    assert torch.equal(image.squeeze(1), mixed.float())


def test_exchange_leaves_its_inputs_alone() -> None:
    own, other = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert exchange(own, other, torch.ones(1, 2, 2)).sum() == 4
    assert own.sum() == 0


@pytest.mark.parametrize(
    ("other", "mask"),
    [
        (torch.ones(2, 1, 4, 5), torch.ones(2, 4, 4)),
        (torch.ones(2, 1, 4, 4, dtype=torch.int64), torch.ones(2, 4, 4)),
        (torch.ones(0, 1, 4, 4), torch.ones(2, 4, 4)),
        (torch.ones(2, 1, 4, 4), torch.ones(1, 4, 4)),
    ],
)
def test_exchange_rejects_what_does_not_fit(other: Tensor, mask: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        exchange(torch.zeros(2, 1, 4, 4), other, mask)

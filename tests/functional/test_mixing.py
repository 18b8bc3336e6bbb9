from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowsam.functional.mixing import copy_paste_box, cutmix_boxes, cycled, exchange, halves, uncertain_cells

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


@pytest.mark.parametrize(("count", "first", "second"), [(1, [0], [0]), (4, [0, 1], [2, 3]), (5, [0, 1, 2], [2, 3, 4])])
def test_halves_use_every_item(count: int, first: list[int], second: list[int]) -> None:
    assert [half.tolist() for half in halves(torch.arange(count))] == [first, second]


def test_cycled_starts_again() -> None:
    assert cycled(torch.tensor([[5, 6], [7, 8]]), 5).tolist() == [[5, 6], [7, 8], [5, 6], [7, 8], [5, 6]]


def box_of(mask: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of a mask that must be one filled box."""
    rows, columns = mask.any(dim=1).nonzero().flatten().tolist(), mask.any(dim=0).nonzero().flatten().tolist()
    top, left, height, width = rows[0], columns[0], len(rows), len(columns)
    filled = torch.zeros_like(mask)
    filled[top : top + height, left : left + width] = True
    assert torch.equal(filled, mask)
    return top, left, height, width


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((6, 9), 2 / 3, (4, 6)), ((32, 48), 2 / 3, (21, 32)), ((6, 9), 1.0, (6, 9)), ((6, 9), 0.01, (1, 1))],
)
def test_copy_paste_box_has_its_size_wherever_it_lies(
    size: tuple[int, int], side: float, expected: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    boxes = [box_of(copy_paste_box(size, side)) for _ in range(300)]
    assert {box[2:] for box in boxes} == {expected}
    # Every place at which it fits occurs where there are few of them: 3 x 4 for two thirds of 6 x 9.
    if expected == (4, 6):
        assert {box[:2] for box in boxes} == {(top, left) for top in range(3) for left in range(4)}


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_cutmix_boxes_have_the_stated_area_and_aspect_and_reach_every_border(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    height, width = size
    masks = cutmix_boxes(2000, size, p=1.0)
    shares = []
    edges = set()
    for mask in masks:
        top, left, box_height, box_width = box_of(mask)
        shares.append(box_height * box_width / (height * width))
        # Rounded down, a side is at most one pixel short of what was drawn.
        assert (box_height + 1) * (box_width + 1) >= 0.02 * height * width
        assert shares[-1] <= 0.4
        assert (box_height / height) / ((box_width + 1) / width) <= 1 / 0.3
        assert ((box_height + 1) / height) / (box_width / width) >= 0.3
        ends = {"top": top, "left": left, "bottom": height - top - box_height, "right": width - left - box_width}
        edges |= {name for name, distance in ends.items() if distance == 0}
    assert edges == {"top", "left", "bottom", "right"}
    assert sum(shares) / len(shares) == pytest.approx(0.21, abs=0.02)  # uniform over .02 to .4, less the rounding


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_cutmix_boxes_come_with_their_probability(p: float, share: float) -> None:
    torch.manual_seed(0)
    used = cutmix_boxes(1000, (16, 32), p).flatten(1).any(dim=1).float().mean().item()
    assert used == pytest.approx(share, abs=0.06 * (0 < p < 1))


def test_cutmix_boxes_differ_between_images_and_follow_the_seed() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(cutmix_boxes(4, (32, 32), p=1.0))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from knowsam.mixing import cutmix_boxes, exchange, paste_boxes, uncertain_cells

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


def sides_and_place(mask: Tensor) -> tuple[int, int, int, int]:
    """Height, width, top and left of the only box in `(H, W)`; fails where the marked pixels are no full box."""
    marked = [(h, w) for h in range(mask.shape[0]) for w in range(mask.shape[1]) if mask[h, w]]
    top, left = min(h for h, _ in marked), min(w for _, w in marked)
    height, width = max(h for h, _ in marked) - top + 1, max(w for _, w in marked) - left + 1
    assert marked == [(h, w) for h in range(top, top + height) for w in range(left, left + width)]
    return height, width, top, left


@pytest.mark.parametrize("size", [(9, 9), (12, 6), (7, 10), (2, 3)])
def test_paste_boxes_have_two_thirds_of_each_side_and_reach_every_place(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    boxes = paste_boxes(600, size)
    assert boxes.dtype == torch.bool
    assert boxes.shape == (600, *size)
    found = [sides_and_place(box) for box in boxes]
    height, width = max(1, 2 * size[0] // 3), max(1, 2 * size[1] // 3)
    assert {(h, w) for h, w, _, _ in found} == {(height, width)}
    places = {(top, left) for top in range(size[0] - height + 1) for left in range(size[1] - width + 1)}
    counts = {place: [f[2:] for f in found].count(place) for place in places}
    assert sum(counts.values()) == 600
    assert min(counts.values()) > 0.5 * 600 / len(places)


def test_paste_boxes_take_the_whole_image_or_a_single_pixel() -> None:
    assert paste_boxes(2, (4, 6), side=1.0).all()
    assert paste_boxes(5, (4, 6), side=0.01).sum((1, 2)).tolist() == [1] * 5


@pytest.mark.parametrize("size", [(60, 60), (100, 40)])
def test_cutmix_boxes_keep_to_area_shape_and_image(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    height, width = size
    boxes = cutmix_boxes(400, size, p=1.0)
    assert boxes.shape == (400, *size)
    shares = []
    for box in boxes:
        h, w, _, _ = sides_and_place(box)
        # Both sides are rounded down, by less than a pixel: the drawn box lies between these two.
        assert h * w / (height * width) <= 0.4
        assert (h + 1) * (w + 1) / (height * width) > 0.02
        assert ((h + 1) / height) / (w / width) > 0.3
        assert (h / height) / ((w + 1) / width) < 1 / 0.3
        shares.append(h * w / (height * width))
    assert sum(shares) / len(shares) == pytest.approx(0.21, abs=0.03)
    places = boxes.float().mean(dim=0)
    assert places.min() > 0.01  # every pixel is in some box
    assert places[height // 2, width // 2] > 2 * places[0, 0]


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_cutmix_boxes_come_with_their_probability(p: float, share: float) -> None:
    torch.manual_seed(0)
    found = cutmix_boxes(500, (32, 48), p).flatten(1).any(dim=1).float().mean().item()
    assert found == pytest.approx(share, abs=0.08 * (0 < p < 1))


def test_cutmix_boxes_of_one_shape_have_it() -> None:
    boxes = cutmix_boxes(20, (20, 40), p=1.0, area=(0.25, 0.25), aspect=(1.0, 1.0))
    assert {sides_and_place(box)[:2] for box in boxes} == {(10, 20)}


def test_cutmix_boxes_narrow_the_aspect_where_the_area_leaves_no_room() -> None:
    # Half of the image in a box of ratio at most 2: full height at half width, or less high and wider.
    boxes = cutmix_boxes(200, (64, 64), p=1.0, area=(0.5, 0.5), aspect=(0.1, 10.0))
    sides = [sides_and_place(box)[:2] for box in boxes]
    assert min(h for h, _ in sides) >= 31
    assert max(h for h, _ in sides) > 60
    assert max(w for _, w in sides) <= 64


@pytest.mark.parametrize("make", [paste_boxes, cutmix_boxes])
def test_boxes_are_decided_by_the_global_seed(make: Callable[..., Tensor]) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(make(8, (24, 30)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])

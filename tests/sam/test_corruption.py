from __future__ import annotations

import math

import pytest
import torch

from knowsam.sam.corruption import across_line, corrupt, corrupt_prompts, extent_of
from knowsam.types import IGNORE


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first & second).sum(dim=(1, 2)) / (first | second).sum(dim=(1, 2)).clamp(min=1)


def discs(count: int = 64, side: int = 48) -> torch.Tensor:
    """Discs of radius side / 4 in the middle, `(count, side, side)` float."""
    place = torch.arange(side) - (side - 1) / 2
    return ((place[:, None] ** 2 + place[None] ** 2) < (side / 4) ** 2).float().expand(count, -1, -1).contiguous()


def test_across_line_by_hand() -> None:
    mask = torch.zeros(2, 6, 8)
    mask[:, 1:5, 2:6] = 1  # a square of 4 px around (2.5, 3.5)
    assert extent_of(mask).flatten().tolist() == pytest.approx([4, 4])
    distance = across_line(mask, torch.tensor([0.0, math.pi / 2]).view(2, 1, 1))
    torch.testing.assert_close(distance[0], ((torch.arange(8) - 3.5) / 4).expand(6, 8))
    torch.testing.assert_close(distance[1], ((torch.arange(6) - 2.5) / 4)[:, None].expand(6, 8))


@pytest.mark.parametrize(("severity", "low", "high"), [((0.0, 0.0), 0.95, 1.0), ((0.3, 0.3), 0.6, 0.95)])
def test_corrupted_masks_lose_what_the_severity_says(severity: tuple[float, float], low: float, high: float) -> None:
    truth = discs()
    logits = corrupt(truth, torch.zeros_like(truth), generator(), severity)
    assert logits.isfinite().all()
    assert low < iou(logits > 0, truth > 0.5).mean() <= high


def test_corrupted_masks_get_worse_with_severity_and_are_of_all_kinds() -> None:
    truth = discs(256)
    means = [
        float(iou(corrupt(truth, torch.zeros_like(truth), generator(), (s, s)) > 0, truth > 0.5).mean())
        for s in (0.1, 0.4, 0.7, 1.0)
    ]
    assert means == sorted(means, reverse=True)
    area = (corrupt(truth, torch.zeros_like(truth), generator(), (0.8, 0.8)) > 0).sum(dim=(1, 2)) / truth[0].sum()
    assert area.min() < 0.3  # nearly empty
    assert area.max() > 1.5  # swollen
    strength = corrupt(truth, torch.zeros_like(truth), generator()).abs().amax(dim=(1, 2))
    assert strength.max() / strength.min() > 5  # over- and under-confident


def test_a_corrupted_mask_may_swallow_its_neighbour() -> None:
    truth = discs(256) * (torch.arange(48) < 24)
    neighbour = discs(256) * (torch.arange(48) >= 24)
    taken = ((corrupt(truth, neighbour, generator(), (0.5, 0.5)) > 0) & (neighbour > 0)).sum(dim=(1, 2)) / neighbour[
        0
    ].sum()
    assert 0.03 < (taken > 0.7).float().mean() < 0.3


@pytest.fixture
def label() -> torch.Tensor:
    """Four images, the last two unlabelled; three classes: ground, a disc, its half."""
    disc = discs(1, 48)[0].long()
    label = (disc + disc * (torch.arange(48) < 24)).expand(4, -1, -1).clone()
    label[2:] = IGNORE
    return label


def test_prompts_of_labelled_images_alone_are_corrupted(label: torch.Tensor) -> None:
    prompt = torch.zeros(4, 3, 48, 48)
    torch.manual_seed(0)
    corrupted, replaced = corrupt_prompts(prompt, label, 1.0)
    assert replaced.tolist() == [True, True, False, False]
    assert prompt.count_nonzero() == 0
    assert corrupted[2:].count_nonzero() == 0
    assert all(image.count_nonzero() > 0 for image in corrupted[:2])


def test_a_corrupted_prompt_still_means_its_class(label: torch.Tensor) -> None:
    many = label[:1].expand(64, -1, -1)
    torch.manual_seed(0)
    answer = corrupt_prompts(torch.zeros(64, 3, 48, 48), many, 1.0)[0].argmax(dim=1)
    right = (answer == many).float().mean(dim=(1, 2))
    assert 0.7 < right.mean() < 0.98
    assert right.min() < 0.9


def test_the_share_says_how_many(label: torch.Tensor) -> None:
    many = label[:1].expand(400, -1, -1)
    torch.manual_seed(0)
    prompts, replaced = corrupt_prompts(torch.zeros(400, 3, 48, 48), many, 0.25)
    changed = prompts.flatten(1).any(dim=1)
    assert torch.equal(changed, replaced)
    assert 0.18 < changed.float().mean() < 0.32


def test_nothing_is_drawn_where_nothing_is_corrupted(label: torch.Tensor) -> None:
    prompt = torch.randn(4, 3, 48, 48)
    torch.manual_seed(0)
    first = torch.rand(3)
    torch.manual_seed(0)
    assert corrupt_prompts(prompt, label, 0.0)[0] is prompt
    assert torch.equal(torch.rand(3), first)
    assert corrupt_prompts(prompt, torch.full_like(label, IGNORE), 1.0)[0] is prompt

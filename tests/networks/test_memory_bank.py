"""The memory bank: who is drawn, who gives way, on embeddings in the plane."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from knowsam.networks.memory import MemoryAttention, MemoryBank


def direction(degrees: float) -> Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def full(*degrees: float, quality: float = 0.5) -> MemoryBank:
    bank = MemoryBank(len(degrees), 2)
    for one in degrees:
        assert bank.offer(3 * direction(one), torch.tensor(quality))
    return bank


def kept(bank: MemoryBank) -> list[int]:
    return [round(math.degrees(math.atan2(float(y), float(x)))) for x, y in bank.entries]


def test_it_takes_whatever_comes_until_it_is_full() -> None:
    bank = MemoryBank(16, 2)
    for number in range(16):
        assert len(bank) == number
        bank.offer(direction(number), torch.tensor(0.0))
    assert len(bank) == 16
    assert kept(bank) == list(range(16))


def test_the_neighbour_of_the_least_similar_entry_gives_way() -> None:
    bank = full(0, 10, 90, 95)
    # Least similar to -20 is 95; its neighbour is 90, 5 apart, while the newcomer is 115 from 95.
    assert bank.offer(direction(-20), torch.tensor(0.5))
    assert kept(bank) == [0, 10, -20, 95]


def test_a_newcomer_nearer_to_the_least_similar_entry_than_that_ones_neighbour_is_refused() -> None:
    bank = full(0, 120)
    assert not bank.offer(direction(30), torch.tensor(1.0))  # 90 from 120, which is 120 from 0
    assert kept(bank) == [0, 120]


@pytest.mark.parametrize(("quality", "taken"), [(0.41, True), (0.39, False)])
def test_a_newcomer_may_be_a_tenth_worse(quality: float, taken: bool) -> None:
    assert full(0, 10, 90, 95).offer(direction(-20), torch.tensor(quality)) == taken


def test_entries_are_drawn_as_often_as_they_are_similar() -> None:
    torch.manual_seed(0)
    bank = MemoryBank(4, 2)
    for one in (0, 180):
        bank.offer(direction(one), torch.tensor(0.5))
    drawn = bank.draw(torch.stack([5 * direction(0), direction(90)]), 4000)
    assert drawn.shape == (2, 4000, 2)
    shares = (drawn[..., 0] > 0).float().mean(dim=1)
    expected = [math.e / (math.e + 1 / math.e), 0.5]  # softmax of cosines 1, -1 and 0, 0
    torch.testing.assert_close(shares, torch.tensor(expected), atol=0.03, rtol=0)


def test_the_bank_is_part_of_a_state() -> None:
    bank, copy = full(0, 10, 90), MemoryBank(3, 2)
    copy.load_state_dict(bank.state_dict())
    assert len(copy) == 3
    assert kept(copy) == kept(bank)


def test_attention_begins_as_nothing_and_learns_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    module = MemoryAttention(8)
    features, memory, target = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 8), torch.randn(2, 8, 3, 5)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    for step in range(2):
        found = module(features, memory)
        assert torch.equal(found, features) == (step == 0)
        optimiser.zero_grad()
        (found - target).square().mean().backward()
        optimiser.step()
    assert all(bool(parameter.grad.abs().max() > 0) for parameter in module.parameters())

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from knowsam.networks import UNet, ema_decay, update_ema


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = UNet(1, 2, widths=(2, 4), dropout=(0, 0))
    ema = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model(torch.rand(2, 1, 8, 8))  # moves the running statistics and their counter
    return ema, model


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.99, 1.0])
def test_update_ema_is_exact_and_averages_buffers(decay: float) -> None:
    ema, model = pair()
    before = copy.deepcopy(ema.state_dict())
    update_ema(ema, model, decay)
    moved = 0
    for name, new in ema.state_dict().items():
        current = model.state_dict()[name]
        if new.is_floating_point():
            moved += int(not torch.equal(before[name], current))
            torch.testing.assert_close(new, decay * before[name] + (1 - decay) * current)
        else:
            assert torch.equal(new, current)
    assert moved == len([t for t in before.values() if t.is_floating_point()])


def test_update_ema_is_in_place_and_leaves_the_model_alone() -> None:
    ema, model = pair()
    addresses = [t.data_ptr() for t in ema.state_dict().values()]
    before = copy.deepcopy(model.state_dict())
    update_ema(ema, model, 0.5)
    assert [t.data_ptr() for t in ema.state_dict().values()] == addresses
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad_fn is None for p in ema.parameters())


def test_update_ema_of_equal_networks_changes_nothing() -> None:
    _, model = pair()
    ema = copy.deepcopy(model)
    for _ in range(100):  # an average that loses a factor per step decays to 0
        update_ema(ema, model, 0.9)
    assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("other", [UNet(1, 2, widths=(2,), dropout=(0,)), UNet(1, 3, widths=(2, 4), dropout=(0, 0))])
def test_update_ema_rejects_another_architecture(other: nn.Module) -> None:
    ema, _ = pair()
    with pytest.raises(ValueError, match=r"head|differ"):
        update_ema(ema, other, 0.5)


def test_update_ema_rejects_a_decay_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"decay is 1\.5"):
        update_ema(*pair(), decay=1.5)


def test_ema_decay() -> None:
    assert ema_decay(0, 0.99) == pytest.approx(0.1)
    assert ema_decay(8, 0.99) == pytest.approx(0.5)
    assert ema_decay(10**6, 0.99) == 0.99

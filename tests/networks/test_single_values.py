"""Batch normalisation over one value per channel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from knowsam.networks.single_values import normalise_single_values


def test_one_value_is_normalised_by_the_running_statistics() -> None:
    layer = nn.BatchNorm2d(2)
    layer.running_mean[:] = torch.tensor([1.0, -1.0])
    layer.running_var[:] = torch.tensor([4.0, 0.25])
    with pytest.raises(ValueError, match="more than 1 value"):
        layer(torch.zeros(1, 2, 1, 1))
    normalise_single_values(layer)
    layer.num_batches_tracked.zero_()  # the refused call had counted
    out = layer(torch.tensor([3.0, 0.0]).view(1, 2, 1, 1))
    torch.testing.assert_close(out.flatten(), torch.tensor([1.0, 2.0]), atol=1e-4, rtol=1e-4)
    assert layer.training
    assert layer.running_mean.tolist() == [1.0, -1.0]
    assert layer.num_batches_tracked == 0


def test_several_values_are_normalised_as_ever() -> None:
    image = torch.rand(2, 3, 4, 4)
    plain, hooked = nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))
    normalise_single_values(hooked)
    assert torch.equal(plain(image), hooked(image))
    assert torch.equal(plain.running_var, hooked[0].running_var)
    assert list(hooked.state_dict()) == [f"0.{name}" for name in plain.state_dict()]
    hooked.eval()
    hooked(torch.rand(1, 3, 1, 1))
    assert not hooked[0].training


def test_a_layer_learns_again_after_an_error() -> None:
    layer = nn.BatchNorm2d(2)
    normalise_single_values(layer)
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 2, dtype=torch.int64).view(1, 2, 1, 1))
    assert layer.training

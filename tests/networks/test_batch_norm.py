"""Batch normalisation without a count of its batches."""

from __future__ import annotations

import torch
from torch import nn

from knowsam.networks import build_network
from knowsam.networks.batch_norm import BatchNorm2d


def test_it_normalises_and_learns_statistics_as_torchs_does() -> None:
    own, torchs = BatchNorm2d(3), nn.BatchNorm2d(3)
    for _ in range(2):
        image = torch.randn(4, 3, 5, 5) + 2
        assert torch.equal(own(image), torchs(image))
    assert torch.equal(own.running_mean, torchs.running_mean)
    assert torch.equal(own.running_var, torchs.running_var)
    assert own.num_batches_tracked == 0
    assert torch.equal(own.eval()(image), torchs.eval()(image))


def test_statistics_may_weigh_all_batches_alike() -> None:
    own, torchs = BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    for _ in range(3):
        image = torch.randn(4, 3, 5, 5) + 2
        assert torch.equal(own(image), torchs(image))
    assert torch.equal(own.running_mean, torchs.running_mean)


def test_weights_of_a_network_with_torchs_are_read() -> None:
    layer = BatchNorm2d(3)
    layer.load_state_dict(nn.BatchNorm2d(3).state_dict())
    network = build_network("unet", in_channels=1, classes=2)
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())

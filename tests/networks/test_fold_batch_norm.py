from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from knowsam.networks.fold_batch_norm import fold_batch_norm
from knowsam.networks.registry import build_network


def lived_in(network: nn.Module) -> nn.Module:
    """Running statistics and weights that a forgotten or doubled normalisation would show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


@pytest.mark.parametrize(("name", "left"), [("unet", 0), ("vnet", 4), ("cotrained", 4)])
@torch.no_grad()
def test_a_folded_network_predicts_the_same(name: str, left: int) -> None:
    network = lived_in(build_network(name, in_channels=1, classes=3, **NORMALISED[name]))
    folded = fold_batch_norm(copy.deepcopy(network))
    remaining = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(remaining) == left  # those after the V-Net's transposed convolutions
    image = torch.rand(2, 1, 32, 48)
    expected = network(image)
    torch.testing.assert_close(folded(image), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


NORMALISED = {"unet": {}, "vnet": {"normalisation": "batch"}, "cotrained": {"vnet_normalisation": "batch"}}


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        fold_batch_norm(build_network("unet", in_channels=1, classes=2))

"""V-Nets that begin at the share of each class."""

from __future__ import annotations

import pytest
import torch

from knowsam.functional.losses import segmentation_loss
from knowsam.networks import CoTrainedStudents, UNet, VNet
from knowsam.networks.class_prior import SMALLEST_SHARE, start_at_class_prior


def changed(network: torch.nn.Module, shares: torch.Tensor) -> dict[str, torch.Tensor]:
    """By how much each parameter and buffer moves, those that do."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_at_class_prior(network, shares)
    after = network.state_dict()
    return {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}


def test_only_the_logits_of_the_v_net_move_and_by_the_prior() -> None:
    shares = torch.tensor([0.95, 0.04, 0.01])
    moved = changed(CoTrainedStudents(1, 3), shares)
    assert set(moved) == {"vnet.head.bias"}
    torch.testing.assert_close(moved["vnet.head.bias"], shares.log())
    assert set(changed(VNet(1, 3), shares)) == {"head.bias"}
    assert changed(UNet(1, 3), shares) == {}


def test_a_class_without_pixels_begins_at_the_floor() -> None:
    moved = changed(VNet(1, 3), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(moved["head.bias"], torch.tensor([1.0, SMALLEST_SHARE, SMALLEST_SHARE]).log())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_v_net_begins_where_the_labels_are(seed: int) -> None:
    """Nothing is learned yet, but the loss of "nearly all is background" is already reached."""
    torch.manual_seed(seed)
    network = VNet(1, 3, normalisation="batch")
    image, label = torch.rand(4, 1, 48, 48), torch.zeros(4, 48, 48, dtype=torch.long)
    label[:, 20:28, 20:30] = 1
    label[:, 30:34, 20:26] = 2
    random = segmentation_loss(network(image), label).item()
    start_at_class_prior(network, torch.bincount(label.flatten(), minlength=3) / label.numel())
    assert segmentation_loss(network(image), label).item() < random - 0.2

"""Networks that begin at the share of each class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from knowsam.functional.losses import segmentation_loss
from knowsam.networks import CoTrainedStudents, SegmentationNetwork, SideHeads, UNet, VNet
from knowsam.networks.class_prior import SMALLEST_SHARE, start_at_class_prior

SHARES = torch.tensor([0.95, 0.04, 0.01])


@pytest.mark.parametrize("build", [UNet, VNet, CoTrainedStudents])
def test_only_the_logits_move_and_by_the_prior(build: type[SegmentationNetwork]) -> None:
    torch.manual_seed(0)
    network = build(1, 3).eval()
    heads = [part.head for part in network.modules() if isinstance(part, UNet | VNet)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    biases = [head.bias.detach().clone() for head in heads]
    start_at_class_prior(network, SHARES)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert len(changed) == len(heads) > 0
    assert all(name.endswith("head.bias") for name in changed)
    for head, bias in zip(heads, biases, strict=True):
        torch.testing.assert_close(head.bias - bias, SHARES.log())


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


def test_a_class_without_pixels_begins_at_the_floor_and_side_heads_too() -> None:
    heads = SideHeads([8, 4], 3, [0.5, 0.3])
    biases = [head[-1].bias.detach().clone() for head in heads.heads]
    start_at_class_prior(heads, torch.tensor([1.0, 0.0, 0.0]))
    expected = torch.tensor([1.0, SMALLEST_SHARE, SMALLEST_SHARE]).log()
    for head, bias in zip(heads.heads, biases, strict=True):
        torch.testing.assert_close(head[-1].bias - bias, expected)


def test_networks_of_other_libraries_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3))
    before = network[0].bias.clone()
    start_at_class_prior(network, SHARES)
    assert torch.equal(network[0].bias, before)

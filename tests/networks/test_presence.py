"""The classifier 'in this image or not' and where its answer comes from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowsam.networks.presence import PresenceClassifier
from knowsam.types import IGNORE


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise, with a bright square in half of the images; `(N, 1, 48, 64)` and the square as a label."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.6 * torch.rand(count, 1, 48, 64, generator=generator)
    label = torch.zeros(count, 48, 64, dtype=torch.int64)
    for index in range(0, count, 2):
        y, x = (int(torch.randint(4, side - 20, (1,), generator=generator)) for side in (48, 64))
        image[index, 0, y : y + 16, x : x + 16] += 0.6
        label[index, y : y + 16, x : x + 16] = 1
    return image, label


def test_loss_is_the_cross_entropy_of_presence_and_leaves_unknown_images_out() -> None:
    torch.manual_seed(0)
    network = PresenceClassifier(1, 3)
    image = torch.rand(3, 1, 32, 32)
    label = torch.zeros(3, 32, 32, dtype=torch.int64)
    label[0, :4], label[1, 0, 0], label[2] = 1, 2, IGNORE
    p = network.head(network.features(image).mean(dim=(2, 3))).sigmoid()
    expected = -(p[0, 0].log() + (1 - p[0, 1]).log() + (1 - p[1, 0]).log() + p[1, 1].log()) / 4
    assert network.loss(image, label).item() == pytest.approx(expected.item(), rel=1e-5)
    assert network.loss(image[2:], label[2:]).item() == 0


def test_classes_of_which_nothing_can_be_learnt_are_named() -> None:
    network = PresenceClassifier(1, 4)
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[0, 0], label[:, 1] = 1, 2  # 1 in one of two, 2 in both, 3 in none
    network.loss(torch.rand(2, 1, 32, 32), label)
    assert network.unlearnable() == [2, 3]


@pytest.mark.slow
def test_it_finds_a_square_from_labels_of_whole_images() -> None:
    torch.manual_seed(0)
    network = PresenceClassifier(1, 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    image, label = scenes(16, seed=1)
    for _ in range(100):
        optimiser.zero_grad()
        network.loss(image, label).backward()
        optimiser.step()
    image, label = scenes(16, seed=2)
    found, truth = network(image).argmax(dim=1) > 0, label > 0
    assert found[1::2].float().mean() < 0.05
    # Coarse: a place sees 31 px, so that the square comes out larger, but around where it is.
    found, truth = found[::2], truth[::2]
    assert ((found & truth).sum((1, 2)) / truth.sum((1, 2))).mean() > 0.6
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    centres = [
        torch.stack([(place * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1) for place in (y, x)])
        for mask in (found, truth)
    ]
    assert (centres[0] - centres[1]).norm(dim=0).median() < 6

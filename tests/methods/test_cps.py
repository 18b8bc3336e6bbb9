"""What is particular to cross pseudo supervision, against a naive restatement."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from knowsam.types import Progress
from support.training import small_batch, small_method


def naive_cross_entropy(logits: Tensor, label: Tensor) -> float:
    """Pixel by pixel."""
    log_probs = logits.log_softmax(dim=1)
    return -log_probs.gather(1, label.unsqueeze(1)).mean().item()


@pytest.mark.parametrize("ramp", [False, True])
def test_each_network_learns_from_the_others_labels(ramp: bool) -> None:
    method, batch = small_method("cps", ramp=ramp), small_batch()
    torch.manual_seed(5)
    output = method.step(batch, Progress(40, 100))
    torch.manual_seed(5)
    image = torch.cat([batch.labelled_image, batch.unlabelled_image])
    first, second = method.network(image), method.second(image)
    terms = {name: value.item() for name, value in output.terms.items()}
    assert terms["first_pseudo"] == pytest.approx(naive_cross_entropy(first, second.max(dim=1).indices), rel=1e-5)
    assert terms["second_pseudo"] == pytest.approx(naive_cross_entropy(second, first.max(dim=1).indices), rel=1e-5)
    weight = 1.5 * (math.exp(-5 * 0.6**2) if ramp else 1)
    expected = terms["first_sup"] + terms["second_sup"] + weight * (terms["first_pseudo"] + terms["second_pseudo"])
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_two_networks_start_apart_and_the_first_is_kept() -> None:
    method = small_method("cps")
    pairs = zip(method.network.parameters(), method.second.parameters(), strict=True)
    assert any(not torch.equal(first, second) for first, second in pairs)
    assert method.student() is method.network

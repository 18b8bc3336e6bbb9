"""What is particular to URPC, against a naive restatement."""

from __future__ import annotations

import math

import pytest
import torch

from knowsam.errors import InputError
from knowsam.functional.losses import pyramid_consistency
from knowsam.types import Progress
from support.training import small_batch, small_method


def test_pyramid_terms_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    pyramid = [torch.randn(1, 3, 2, 2) for _ in range(4)]
    probs = [logits.softmax(dim=1)[0] for logits in pyramid]
    consistency = divergence = 0.0
    for p_s in probs:
        weights, weighted, all_d = 0.0, 0.0, 0.0
        for y in range(2):
            for x in range(2):
                mean = [sum(p[c, y, x].item() for p in probs) / 4 for c in range(3)]
                own = [p_s[c, y, x].item() for c in range(3)]
                d = sum(m * math.log(m / o) for m, o in zip(mean, own, strict=True))
                distance = sum((m - o) ** 2 for m, o in zip(mean, own, strict=True)) / 3
                weights, weighted, all_d = weights + math.exp(-d), weighted + math.exp(-d) * distance, all_d + d
        consistency, divergence = consistency + weighted / weights / 4, divergence + all_d / 4 / 4
    found = pyramid_consistency(pyramid)
    assert found[0].item() == pytest.approx(consistency, rel=1e-4)
    assert found[1].item() == pytest.approx(divergence, rel=1e-4)


def test_scales_that_agree_owe_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4)
    assert [term.item() for term in pyramid_consistency([logits] * 4)] == pytest.approx([0, 0], abs=1e-6)


def test_scales_certain_of_the_opposite_give_a_finite_gradient() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0] = 1e4
    pyramid = [logits.requires_grad_(), (-logits).detach()]
    sum(pyramid_consistency(pyramid)).backward()
    assert logits.grad.isfinite().all()


def test_loss_is_supervision_at_all_scales_plus_both_ramped_terms() -> None:
    output = small_method("urpc").step(small_batch(), Progress(40, 100))
    terms = {name: value.item() for name, value in output.terms.items()}
    weight = 0.1 * math.exp(-5 * 0.6**2)
    expected = terms["student_sup"] + weight * (terms["student_scales"] + terms["student_divergence"])
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_kept_network_has_no_side_heads() -> None:
    method = small_method("urpc")
    assert method.student() is method.network
    assert not any("side" in key for key in method.network.state_dict())


def test_a_network_without_a_pyramid_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="expected a network with 4 decoder stages"):
        small_method("urpc", network="cotrained")

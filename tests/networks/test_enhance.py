"""DFE: its equation on features worked out by hand, its zero start, any list of maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowsam.networks.enhance import FeatureEnhancement, discriminative_features

MAPS = ((16, 24, 32), (32, 12, 16), (8, 3, 5))  # C, h, w


def maps(batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=generator) for shape in MAPS]


def awake(combine: str = "add", width: int | None = None) -> FeatureEnhancement:
    """With no weight at 0."""
    torch.manual_seed(0)
    module = FeatureEnhancement([shape[0] for shape in MAPS], combine, width)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def as_it_is(features: Tensor) -> Tensor:
    return features


def test_two_equal_views_give_what_both_are() -> None:
    features = torch.randn(2, 4, 3, 5) + 0.5
    torch.testing.assert_close(discriminative_features(features, features, as_it_is), features)


def test_orthogonal_views_by_hand() -> None:
    first, second = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    first[:, 0], second[:, 1] = 2.0, 3.0
    torch.testing.assert_close(discriminative_features(first, second, as_it_is), 1.5 * second - 0.5 * first)


def test_opposite_views_by_hand() -> None:
    first = torch.ones(1, 3, 2, 2)
    # s = -1, w = sigmoid(-1) = .2689: .2689 - .7311 - 2 * 2 = -4.4621
    torch.testing.assert_close(discriminative_features(first, -first, as_it_is), -4.462117 * first)


@pytest.mark.parametrize("combine", ["add", "replace"])
@pytest.mark.parametrize("width", [None, 6])
def test_it_begins_as_nothing_and_learns_everywhere_from_the_second_step_on(combine: str, width: int | None) -> None:
    torch.manual_seed(0)
    module = FeatureEnhancement([shape[0] for shape in MAPS], combine, width)
    other, own, target = maps(2), maps(2, seed=1), maps(2, seed=2)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(2):
        enhanced = module(other, own)
        assert [a.shape for a in enhanced] == [a.shape for a in own]
        assert all(torch.equal(a, b) for a, b in zip(enhanced, own, strict=True)) == (step == 0)
        optimiser.zero_grad()
        sum((a - b).square().mean() for a, b in zip(enhanced, target, strict=True)).backward()
        optimiser.step()
    assert all(bool(parameter.grad.abs().max() > 0) for parameter in module.parameters())


@torch.no_grad()
def test_replacing_by_a_share_of_one_leaves_nothing_of_a_views_own() -> None:
    module = awake("replace")
    for scale in module.scales:
        scale.share.fill_(1.0)
    own = maps(1)
    replaced = [scale.back(scale.perceptron(scale.align(view))) for scale, view in zip(module.scales, own, strict=True)]
    for found, expected in zip(module(own, own), replaced, strict=True):  # equal views: s = 1, no difference
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("combine", ["add", "replace"])
@torch.no_grad()
def test_every_image_is_enhanced_by_itself(combine: str) -> None:
    module, order = awake(combine), torch.tensor([2, 0, 1])
    other, own = maps(3), maps(3, seed=1)
    whole = module(other, own)
    turned = module([view[order] for view in other], [view[order] for view in own])
    for a, b in zip(whole, turned, strict=True):
        torch.testing.assert_close(a[order], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("combine", ["add", "replace"])
def test_features_without_a_signal_give_numbers(combine: str) -> None:
    module = awake(combine)
    nothing = [torch.zeros_like(view, requires_grad=True) for view in maps(2)]
    enhanced = module(nothing, maps(2))
    sum(view.sum() for view in enhanced).backward()
    assert all(view.isfinite().all() for view in enhanced)
    assert all(view.grad.isfinite().all() for view in nothing)
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())

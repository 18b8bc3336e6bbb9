"""The preference loss and what goes into it: the identities and the toy of its design, by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.functional.losses import preference_loss
from knowsam.functional.preference import (
    candidate_dice,
    candidate_masks,
    class_margins,
    disputed,
    rank_weights,
    rating_weights,
    swap_neighbours,
)

THRESHOLDS, PAIRS = (0.3, 0.4, 0.5, 0.6), (1.0, 0.5)


def drawn(B: int = 2, C: int = 2, side: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A policy, its reference and the reference's candidates."""
    generator = torch.Generator().manual_seed(B + C)
    reference = torch.randn(B, C, side, side, generator=generator, dtype=dtype)
    policy = reference + torch.randn(B, C, side, side, generator=generator, dtype=dtype)
    return policy, reference, candidate_masks(reference, THRESHOLDS)


def ranked(scores: list[float]) -> Tensor:
    return rank_weights(torch.tensor([[scores]]), PAIRS)


@pytest.mark.parametrize("K", [2, 4])
def test_margins_are_the_logits_of_the_class_probabilities(K: int) -> None:
    logits = 5 * torch.randn(2, K, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(class_margins(logits).sigmoid(), logits.softmax(dim=1), rtol=1e-5, atol=1e-7)
    if K == 2:
        torch.testing.assert_close(class_margins(logits)[:, 1], logits[:, 1] - logits[:, 0])


def test_candidates_are_cut_at_probabilities_and_nested() -> None:
    p = torch.tensor([0.25, 0.35, 0.45, 0.55, 0.65]).view(1, 1, 1, 5)
    found = candidate_masks(p.logit(), THRESHOLDS)[0, 0, :, 0]
    assert found.sum(dim=1).tolist() == [4, 3, 2, 1]
    assert disputed(candidate_masks(p.logit(), THRESHOLDS)).view(-1).tolist() == [False, True, True, True, False]


def test_at_the_reference_the_loss_is_log_2_and_the_gradient_c_over_twice_the_region() -> None:
    _, reference, candidates = drawn(1, 1)
    weights = ranked([0.9, 0.8, 0.7, 0.6]).double()
    policy = reference.clone().requires_grad_()
    loss = preference_loss(policy, reference, candidates, weights)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    c = (weights[..., None, None] * candidates).sum(dim=2)
    torch.testing.assert_close(policy.grad, -c / (2 * disputed(candidates).sum()))


@pytest.mark.parametrize("weights", [(1, 0.5, -0.5, -1), (0.2, -1, 0.9, -0.1), (-1, 1, 0, 0)])
@pytest.mark.parametrize("normalise", ["region", "sum", "mean"])
def test_it_is_the_difference_of_four_log_likelihoods(weights: tuple[float, ...], normalise: str) -> None:
    policy, reference, candidates = drawn(1, 1)
    likelihoods = [F.logsigmoid(torch.where(candidates, z[:, :, None], -z[:, :, None])) for z in (policy, reference)]
    w = torch.tensor(weights, dtype=torch.float64)
    ratio = ((likelihoods[0] - likelihoods[1]).sum(dim=(3, 4)) * w).sum()
    divisor = {"region": int(disputed(candidates).sum()), "sum": 1, "mean": 64}[normalise]
    expected = -F.logsigmoid(0.7 * ratio / divisor)
    found = preference_loss(policy, reference, candidates, w.view(1, 1, 4), normalise, beta=0.7)
    assert found.item() == pytest.approx(expected.item(), abs=1e-10)


def test_weights_that_do_not_sum_to_0_are_refused() -> None:
    policy, reference, candidates = drawn(1, 1)
    with pytest.raises(ValueError, match="sum to 0"):
        preference_loss(policy, reference, candidates, torch.tensor([[[1.0, 0.5, -0.5, -0.9]]]))
    with pytest.raises(ValueError, match="shape"):
        preference_loss(policy, reference, candidates, torch.zeros(1, 1, 3))


def test_the_gradient_is_0_outside_the_region_and_reversing_the_order_negates_c() -> None:
    policy, reference, candidates = drawn()
    weights = rank_weights(torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(1)), PAIRS)
    gradients = []
    for w in (weights, -weights):
        at = reference.clone().requires_grad_()
        preference_loss(at, reference, candidates, w).backward()
        gradients.append(at.grad)
    assert gradients[0].abs().max() > 0
    assert not gradients[0][~disputed(candidates)].any()
    assert torch.equal(gradients[0], -gradients[1])
    torch.testing.assert_close(
        preference_loss(policy, reference, candidates, -weights),
        preference_loss(2 * reference - policy, reference, candidates, weights),
    )


def test_swapping_two_equal_candidates_changes_nothing() -> None:
    policy, reference, candidates = drawn(1, 1)
    candidates[:, :, 2] = candidates[:, :, 1]
    weights = torch.tensor([[[1.0, 0.5, -0.5, -1.0]]])
    swapped = weights[..., [0, 2, 1, 3]]
    found = [preference_loss(policy, reference, candidates, w).item() for w in (weights, swapped)]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_without_a_region_or_a_preference_there_is_neither_loss_nor_gradient() -> None:
    policy, reference, candidates = drawn(3, 1)
    weights = ranked([4, 3, 2, 1]).repeat(3, 1, 1).double()
    alone = preference_loss(policy[:1], reference[:1], candidates[:1], weights[:1])
    candidates[1] = candidates[1, :, :1]
    weights[2] = 0
    policy.requires_grad_()
    loss = preference_loss(policy, reference, candidates, weights)
    loss.backward()
    assert loss.item() == pytest.approx(alone.item())  # the others are no part of the mean either
    assert not policy.grad[1:].any()
    policy.grad = None
    nothing = preference_loss(policy, reference, candidates[1:2].expand(3, -1, -1, -1, -1), weights)
    nothing.backward()
    assert nothing.item() == 0
    assert policy.grad.isfinite().all()
    assert not policy.grad.any()


def test_the_order_of_the_batch_does_not_matter() -> None:
    policy, reference, candidates = drawn(3, 2)
    weights = rank_weights(torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(1)), PAIRS)
    order = [2, 0, 1]
    found = preference_loss(policy[order], reference[order], candidates[order], weights[order])
    assert found.item() == pytest.approx(preference_loss(policy, reference, candidates, weights).item(), abs=1e-12)


def test_rank_weights_by_hand() -> None:
    assert ranked([0.1, 0.9, 0.5, 0.3]).view(-1).tolist() == [-1.0, 1.0, 0.5, -0.5]
    assert ranked([0.9, 0.9, 0.5, 0.3]).view(-1).tolist() == [0.75, 0.75, -0.5, -1.0]
    assert ranked([0.9, 0.5, 0.5, 0.3]).view(-1).tolist() == [1.0, 0.0, 0.0, -1.0]
    assert ranked([0.5] * 4).view(-1).tolist() == [0.0] * 4
    assert rank_weights(torch.tensor([[[3.0, 1.0, 2.0]]]), (1.0,)).view(-1).tolist() == [1.0, -1.0, 0.0]
    with pytest.raises(ValueError, match="expected 2"):
        rank_weights(torch.zeros(1, 1, 4), (1.0,))


def test_rating_weights_by_hand() -> None:
    # Rated 4, 3, 2, 1 (the edges belong to the higher rating); 4, 4, 4, 3: mean 3.75, largest distance .75.
    first = rating_weights(torch.tensor([[[0.7, 0.55, 0.4, 0.39]]])).view(-1)
    torch.testing.assert_close(first, torch.tensor([1, 1 / 3, -1 / 3, -1]))
    second = rating_weights(torch.tensor([[[0.9, 0.8, 0.75, 0.6]]])).view(-1)
    torch.testing.assert_close(second, torch.tensor([1 / 3, 1 / 3, 1 / 3, -1]))
    assert not rating_weights(torch.tensor([[[0.8, 0.9, 0.75, 0.71]]])).any()


def test_dice_of_candidates_by_hand() -> None:
    candidates = torch.tensor([[True, True, False, False], [True, False, False, False]]).view(1, 1, 2, 1, 4)
    truth = torch.tensor([True, False, True, False]).view(1, 1, 1, 4)
    assert candidate_dice(candidates, truth).view(-1).tolist() == pytest.approx([2 / 4, 2 / 3])
    expected = candidate_dice(candidates, torch.tensor([0.8, 0.4, 0.2, 0.0]).view(1, 1, 1, 4)).view(-1)
    assert expected.tolist() == pytest.approx([2 * 1.2 / 3.4, 2 * 0.8 / 2.4])
    valid = torch.tensor([True, True, False, False]).view(1, 1, 4)
    assert candidate_dice(candidates, truth, valid).view(-1).tolist() == pytest.approx([2 / 3, 1.0])
    assert candidate_dice(candidates, truth, valid & False).view(-1).tolist() == [1.0, 1.0]


def test_swapped_neighbours_are_neighbours_in_rank() -> None:
    torch.manual_seed(0)
    scores = torch.rand(500, 1, 4)
    assert torch.equal(swap_neighbours(scores, 0.0), scores)
    swapped = swap_neighbours(scores, 1.0)
    torch.testing.assert_close(swapped.sort(dim=-1).values, scores.sort(dim=-1).values)
    places, before = (values.argsort(dim=-1).argsort(dim=-1) for values in (swapped, scores))
    moved = (places - before).abs()
    assert moved.max() == 1
    assert (moved.sum(dim=-1) == 2).all()
    share = (swap_neighbours(scores, 0.3) != scores).any(dim=-1).float().mean()
    assert share.item() == pytest.approx(0.3, abs=0.06)


@pytest.fixture(scope="module")
def toy() -> tuple[Tensor, Tensor, Tensor]:
    """A disc of 42 px drawn 2 px too small, with logits that fall by 1 per pixel at its edge."""
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    r = ((y - 128) ** 2 + (x - 128) ** 2).sqrt()
    reference = (40 - r).view(1, 1, 256, 256)
    return reference, (r < 42).view(1, 1, 256, 256), candidate_masks(reference, THRESHOLDS)


def iou(mask: Tensor, truth: Tensor) -> float:
    return ((mask & truth).sum() / (mask | truth).sum()).item()


def follow(toy: tuple[Tensor, Tensor, Tensor], normalise: str, steps: int = 50, rate: float = 10.0) -> float:
    """IoU after gradient steps on the logits themselves, candidates ranked by the truth."""
    reference, truth, candidates = toy
    weights = rank_weights(candidate_dice(candidates, truth), PAIRS)
    z = reference.clone().requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(preference_loss(z, reference, candidates, weights, normalise), z)
        z = (z - rate * gradient).detach().requires_grad_()
    return iou(z > 0, truth)


def test_the_toys_region_and_candidates(toy: tuple[Tensor, Tensor, Tensor]) -> None:
    _, truth, candidates = toy
    assert int(disputed(candidates).sum()) == 320
    assert [round(iou(candidates[:, :, m], truth), 3) for m in range(4)] == [0.949, 0.930, 0.908, 0.891]


def test_on_the_toy_the_region_learns_and_the_mean_starves(toy: tuple[Tensor, Tensor, Tensor]) -> None:
    assert iou(toy[0] > 0, toy[1]) == pytest.approx(0.908, abs=5e-4)
    assert follow(toy, "region") == pytest.approx(0.938, abs=2e-3)
    assert follow(toy, "mean") < 0.912


def test_on_the_toy_the_best_candidate_is_the_ceiling(toy: tuple[Tensor, Tensor, Tensor]) -> None:
    assert follow(toy, "sum") < 0.9493
    assert follow(toy, "region", steps=1000) < 0.9493

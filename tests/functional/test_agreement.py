"""The rule by which two networks' answers become one label, against hand values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowsam.functional.agreement import agreement_loss, agreement_target, pack_answer, unpack_answer
from knowsam.types import IGNORE


def pixels(*values: float) -> Tensor:
    """Probabilities `(1, 2, 1, N)` of two classes from those of the second."""
    foreground = torch.tensor(values)
    return torch.stack([1 - foreground, foreground])[None, :, None]


def test_where_all_agree_the_target_is_the_mean_and_every_pixel_counts() -> None:
    target, weight = agreement_target(pixels(0.9, 0.2), pixels(0.7, 0.4), "adaptive")
    torch.testing.assert_close(target, pixels(0.8, 0.3))
    assert weight.tolist() == [[[1.0, 1.0]]]


def test_where_they_differ_the_more_confident_one_wins_by_its_lead() -> None:
    target, weight = agreement_target(pixels(0.9, 0.4), pixels(0.4, 0.8), "adaptive")
    torch.testing.assert_close(target, pixels(0.9, 0.8))
    torch.testing.assert_close(weight, torch.tensor([[[0.3, 0.2]]]))


def test_contradiction_with_equal_confidence_counts_for_nothing() -> None:
    target, weight = agreement_target(pixels(0.75, 0.25), pixels(0.25, 0.75), "adaptive")
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    loss = agreement_loss(logits, target, weight)
    loss.backward()
    assert weight.abs().max() == 0
    assert loss.item() == 0
    assert logits.grad.tolist() == torch.zeros(1, 2, 1, 2).tolist()


def test_ablations() -> None:
    teacher, local = pixels(0.9, 0.6), pixels(0.3, 0.8)
    ones = torch.ones(1, 1, 2)
    for rule, expected, weight in (
        ("teacher", teacher, ones),
        ("local", local, ones),
        ("intersection", (teacher + local) / 2, torch.tensor([[[0.0, 1.0]]])),
    ):
        target, found = agreement_target(teacher, local, rule)
        torch.testing.assert_close(target, expected)
        assert torch.equal(found, weight), rule


@pytest.mark.parametrize("rule", ["adaptive", "teacher", "local", "intersection"])
def test_gradient_reaches_the_strong_view_only_and_classes_are_alike(rule: str) -> None:
    torch.manual_seed(0)
    teacher, local, strong = (torch.randn(2, 4, 5, 5, requires_grad=True) for _ in range(3))
    target, weight = agreement_target(teacher.softmax(1), local.softmax(1), rule)
    loss = agreement_loss(strong, target, weight)
    loss.backward()
    assert teacher.grad is None
    assert local.grad is None
    assert strong.grad.abs().max() > 0
    order = [2, 0, 3, 1]
    again = agreement_target(teacher[:, order].softmax(1), local[:, order].softmax(1), rule)
    torch.testing.assert_close(agreement_loss(strong[:, order], *again), loss)


def test_kept_answers_are_those_given_to_eight_bits() -> None:
    torch.manual_seed(0)
    probs = torch.randn(2, 3, 4, 4).softmax(1)
    packed = pack_answer(probs)
    again, known = unpack_answer(packed, 3)
    assert packed.dtype == torch.int16
    assert known.all()
    assert torch.equal(again.argmax(1), probs.argmax(1))
    torch.testing.assert_close(again.amax(1), probs.amax(1), atol=1 / 510 + 1e-6, rtol=0)
    torch.testing.assert_close(again.sum(1), torch.ones(2, 4, 4))
    assert not unpack_answer(torch.full((1, 2, 2), IGNORE), 3)[1].any()
    with pytest.raises(ValueError, match="127"):
        pack_answer(torch.rand(1, 200, 2, 2))

"""Hand values and naive restatements; what every loss must keep is in contract/test_loss_contract.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from knowsam.functional import losses
from knowsam.types import IGNORE


def logits_of(probs: list) -> Tensor:
    """Logits whose softmax is this `(B, K, H, W)`."""
    return torch.tensor(probs).log()


# Class 1 has probability .8, .6 / .3, .1; the label's last pixel carries no ground truth.
PROBS = [[[[0.2, 0.4], [0.7, 0.9]], [[0.8, 0.6], [0.3, 0.1]]]]
LABEL = [[[1, 0], [0, IGNORE]]]


def random_case(K: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, other = 3 * torch.randn(2, 2, K, 3, 5, generator=generator)
    return student, other, torch.randint(-1, K, (2, 3, 5), generator=generator)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def pixels(logits: Tensor) -> list[list[float]]:
    return logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).tolist()


def test_cross_entropy_hand_value() -> None:
    expected = -(math.log(0.8) + math.log(0.4) + math.log(0.7)) / 3
    found = losses.cross_entropy(logits_of(PROBS), torch.tensor(LABEL))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_dice_loss_hand_value_counts_the_background_and_squares_the_denominator() -> None:
    background = 1 - 2 * (0.4 + 0.7) / (0.2**2 + 0.4**2 + 0.7**2 + 2)
    foreground = 1 - 2 * 0.8 / (0.8**2 + 0.6**2 + 0.3**2 + 1)
    found = losses.dice_loss(logits_of(PROBS), torch.tensor(LABEL))
    assert found.item() == pytest.approx((background + foreground) / 2, rel=1e-6)


def test_dice_loss_sums_over_the_batch_before_the_ratio() -> None:
    logits, _, label = random_case(3)
    apart = torch.stack([losses.dice_loss(logits[b : b + 1], label[b : b + 1]) for b in range(2)]).mean()
    assert abs(losses.dice_loss(logits, label) - apart) > 1e-3


def test_dice_loss_of_an_absent_class_is_one_minus_almost_nothing() -> None:
    probs = torch.full((1, 3, 2, 2), 1 / 3)
    label = torch.tensor([[[0, 0], [1, 1]]])
    present = 1 - 2 * (2 / 3) / (4 / 9 + 2)
    assert losses.dice_loss(probs.log(), label).item() == pytest.approx((2 * present + 1) / 3, rel=1e-6)


@pytest.mark.parametrize("K", [2, 4])
def test_dice_loss_naive(K: int) -> None:
    logits, _, label = random_case(K)
    total = 0.0
    for c in range(K):
        intersection = squares = 0.0
        for z, y in zip(pixels(logits), label.flatten().tolist(), strict=True):
            if y != IGNORE:
                p, g = softmax(z)[c], float(y == c)
                intersection, squares = intersection + p * g, squares + p * p + g * g
        total += 1 - (2 * intersection + 1e-10) / (squares + 1e-10)
    assert losses.dice_loss(logits, label).item() == pytest.approx(total / K, rel=1e-5)


@pytest.mark.parametrize("K", [2, 4])
def test_segmentation_loss_is_cross_entropy_plus_dice(K: int) -> None:
    logits, _, label = random_case(K)
    expected = losses.cross_entropy(logits, label) + losses.dice_loss(logits, label)
    torch.testing.assert_close(losses.segmentation_loss(logits, label), expected)


def test_ignored_pixels_count_for_nothing() -> None:
    logits, other, label = random_case(3)
    assert (label == IGNORE).any()
    changed = torch.where((label == IGNORE).unsqueeze(1), other, logits)
    for loss in (losses.cross_entropy, losses.dice_loss, losses.segmentation_loss):
        torch.testing.assert_close(loss(changed, label), loss(logits, label))


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.dice_loss, losses.segmentation_loss])
def test_all_ignored_is_zero_with_zero_gradient(loss) -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 5), IGNORE))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_entropy_map_hand_values() -> None:
    logits = logits_of([[[[0.5, 0.9]], [[0.5, 0.1]]]])
    found = losses.entropy_map(logits)
    assert found.shape == (1, 1, 2)
    nine = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert found.flatten().tolist() == pytest.approx([math.log(2), nine], abs=3e-6)


def test_entropy_map_epsilon() -> None:
    probs = torch.tensor([1 - 1e-6, 1e-6]).view(1, 2, 1, 1)
    # Without the epsilon the rare class would contribute 1e-6 * 13.8; with it, 1e-6 * 13.1.
    expected = -((1 - 1e-6) * math.log(1.0) + 1e-6 * math.log(2e-6))
    assert losses.entropy_map(probs.log()).item() == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize("K", [2, 3, 7])
def test_entropy_loss_is_one_for_the_uniform_distribution_of_any_number_of_classes(K: int) -> None:
    assert losses.entropy_loss(torch.zeros(2, K, 3, 4)).item() == pytest.approx(1, abs=1e-5)


def test_cross_consistency_loss_hand_value() -> None:
    p, q = 0.8, 0.3
    student, other = logits_of([[[[p]], [[1 - p]]]]), logits_of([[[[q]], [[1 - q]]]])
    expected = -(q * math.log(p) + (1 - q) * math.log(1 - p))  # the same for both classes of two
    assert losses.cross_consistency_loss(student, other).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("K", [2, 4])
def test_cross_consistency_loss_naive_is_a_mean_over_all_classes(K: int) -> None:
    student, other, _ = random_case(K)
    terms = []
    for z, y in zip(pixels(student), pixels(other), strict=True):
        for p, q in zip(softmax(z), softmax(y), strict=True):
            terms.append(-(q * math.log(p) + (1 - q) * math.log(1 - p)))
    found = losses.cross_consistency_loss(student, other).item()
    assert found == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_cross_consistency_loss_still_teaches_a_student_that_is_certainly_wrong() -> None:
    student = torch.tensor([60.0, -60.0]).view(1, 2, 1, 1).requires_grad_()
    losses.cross_consistency_loss(student, -student.detach()).backward()
    assert student.grad.isfinite().all()
    assert student.grad[0, 0] > 0 > student.grad[0, 1]


def naive_distillation(student: Tensor, sam: Tensor, T: float, weight: list[float]) -> float:
    total = 0.0
    for z, s, w in zip(pixels(student), pixels(sam), weight, strict=True):
        p, q = softmax([v / T for v in z]), softmax([v / T for v in s])
        total += w * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return T * T * total / sum(weight)


@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("T", [1.0, 10.0])
def test_distillation_loss_naive(K: int, T: float) -> None:
    student, sam, _ = random_case(K)
    found = losses.distillation_loss(student, sam, temperature=T).item()
    assert found == pytest.approx(naive_distillation(student, sam, T, [1.0] * 30), rel=1e-3)


def test_distillation_loss_weighted() -> None:
    student, sam, _ = random_case(3)
    weight = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1))
    found = losses.distillation_loss(student, sam, 2.0, weight).item()
    assert found == pytest.approx(naive_distillation(student, sam, 2.0, weight.flatten().tolist()), rel=1e-4)
    plain = losses.distillation_loss(student, sam, 2.0)
    torch.testing.assert_close(losses.distillation_loss(student, sam, 2.0, torch.full((2, 3, 5), 0.3)), plain)


def test_distillation_loss_with_zero_weights_is_zero() -> None:
    student, sam, _ = random_case(3)
    student.requires_grad_()
    value = losses.distillation_loss(student, sam, weight=torch.zeros(2, 3, 5))
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_distillation_loss_of_equal_logits_is_zero() -> None:
    student, _, _ = random_case(4)
    assert losses.distillation_loss(student, student + 5).item() == pytest.approx(0, abs=1e-5)


def test_distillation_loss_rejects_a_weight_that_would_broadcast() -> None:
    student, sam, _ = random_case(2)
    with pytest.raises(ValueError, match="expected"):
        losses.distillation_loss(student, sam, weight=torch.ones(2, 1, 3, 5))


@pytest.mark.parametrize("loss", [losses.cross_consistency_loss, losses.distillation_loss])
def test_only_the_student_gets_a_gradient(loss) -> None:
    student, other, _ = random_case(3)
    student.requires_grad_()
    other.requires_grad_()
    loss(student, other).backward()
    assert other.grad is None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("loss", [losses.cross_consistency_loss, losses.distillation_loss])
def test_a_pair_of_different_shapes_is_rejected(loss) -> None:
    student, other, _ = random_case(2)
    with pytest.raises(ValueError, match="expected the same"):
        loss(student, other[:1])

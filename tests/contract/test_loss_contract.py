"""What every loss must keep, whatever its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.functional import losses
from knowsam.functional.preference import candidate_masks, class_margins
from knowsam.types import IGNORE

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# Every loss as a function of (student logits, other logits, label, pixel weight).
LOSSES: dict[str, Loss] = {
    "cross_entropy": lambda z, o, y, w: losses.cross_entropy(z, y),
    "dice_loss": lambda z, o, y, w: losses.dice_loss(z, y),
    "dice_loss_plain": lambda z, o, y, w: losses.dice_loss(z, y, squared=False),
    "soft_dice_loss": lambda z, o, y, w: losses.soft_dice_loss(z, o),
    "segmentation_loss": lambda z, o, y, w: losses.segmentation_loss(z, y),
    "region_loss": lambda z, o, y, w: losses.region_loss(z, y, w > 0.5, 0.5, 1.0),
    "entropy_loss": lambda z, o, y, w: losses.entropy_loss(z),
    "cross_consistency_loss": lambda z, o, y, w: losses.cross_consistency_loss(z, o),
    "softmax_mse_loss": lambda z, o, y, w: losses.softmax_mse_loss(z, o),
    "softmax_mse_loss_masked": lambda z, o, y, w: losses.softmax_mse_loss(z, o, w > 0.5),
    "pyramid_consistency": lambda z, o, y, w: losses.pyramid_consistency([z, o])[0],
    "pyramid_divergence": lambda z, o, y, w: losses.pyramid_consistency([z, o])[1],
    "preference_loss": lambda z, o, y, w: preference(z, o),
    "distillation_loss": lambda z, o, y, w: losses.distillation_loss(z, o),
    "distillation_loss_weighted": lambda z, o, y, w: losses.distillation_loss(z, o, 2.0, w),
}


STACKED = [
    "cross_entropy", "dice_loss", "dice_loss_plain", "segmentation_loss", "entropy_loss", "cross_consistency_loss",
    "distillation_loss", "distillation_loss_weighted",
]  # fmt: skip
"""Those that take several networks' logits at once."""


def preference(z: Tensor, o: Tensor) -> Tensor:
    """Every class asked about, candidates of the other network, the first ones preferred."""
    margins, reference = class_margins(z), class_margins(o)
    weights = torch.tensor([1.0, 0.5, -0.5, -1.0]).expand(*margins.shape[:2], -1)
    candidates = candidate_masks(reference, (0.1, 0.3, 0.5, 0.7))
    return losses.preference_loss(margins, reference, candidates, weights)


Case = tuple[Tensor, Tensor, Tensor, Tensor]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
every_k = pytest.mark.parametrize("K", [2, 4])


def case(K: int) -> Case:
    generator = torch.Generator().manual_seed(K)
    student, other = 3 * torch.randn(2, 3, K, 4, 5, generator=generator)
    label = torch.randint(-1, K, (3, 4, 5), generator=generator)
    return student, other, label, torch.rand(3, 4, 5, generator=generator)


def permute_classes(inputs: Case) -> Case:
    student, other, label, weight = inputs
    order = torch.arange(student.shape[1]).roll(1)
    moved = torch.where(label == IGNORE, IGNORE, order.argsort()[label])
    return student[:, order], other[:, order], moved, weight


def kd_over_pairs(z: Tensor, o: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """A wrong loss: with K = 4 it makes two unrelated 2-way softmaxes out of one 4-way one."""
    z, o = (logits.permute(0, 2, 3, 1).reshape(-1, 2) for logits in (z, o))
    return F.kl_div(F.log_softmax(z, dim=1), F.softmax(o, dim=1), reduction="batchmean")


def test_the_table_holds_every_loss() -> None:
    names = ("cross_entropy", "pyramid_consistency")
    public = {n for n in vars(losses) if n in names or (n.endswith("_loss") and n[0] != "_")}
    assert public <= LOSSES.keys()


@every_loss
@every_k
def test_permuting_the_classes_changes_nothing(loss: Loss, K: int) -> None:
    torch.testing.assert_close(loss(*permute_classes(case(K))), loss(*case(K)), rtol=1e-5, atol=1e-6)


def test_permuting_the_classes_catches_a_softmax_over_pairs_of_classes() -> None:
    assert (kd_over_pairs(*permute_classes(case(4))) - kd_over_pairs(*case(4))).abs() > 1e-2


@pytest.mark.parametrize("name", STACKED)
@every_k
def test_stacked_logits_have_each_a_loss_of_their_own(name: str, K: int) -> None:
    loss = LOSSES[name]
    first, other, label, weight = case(K)
    second = 2 * first.roll(1, 1)
    each = torch.stack([loss(z.requires_grad_(), other, label, weight) for z in (first, second)])
    alone = torch.autograd.grad(each.prod(), (first, second))
    together = torch.stack([first, second])
    found = loss(together, other.expand_as(together) if name == "cross_consistency_loss" else other, label, weight)
    assert found.shape == (2,)
    torch.testing.assert_close(found, each)
    torch.testing.assert_close(torch.autograd.grad(found.prod(), (first, second)), alone)


@every_loss
@every_k
def test_permuting_batch_and_pixels_changes_nothing(loss: Loss, K: int) -> None:
    inputs = case(K)
    reordered = [tensor[[2, 0, 1]] for tensor in inputs]
    transposed = [tensor.transpose(-1, -2) for tensor in inputs]
    torch.testing.assert_close(loss(*reordered), loss(*inputs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss(*transposed), loss(*inputs), rtol=1e-5, atol=1e-6)


@every_loss
@every_k
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_is_a_float32_scalar_with_a_gradient(loss: Loss, K: int, dtype: torch.dtype) -> None:
    student, other, label, weight = case(K)
    student = student.to(dtype).requires_grad_()
    value = loss(student, other.to(dtype), label, weight)
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


@every_loss
@every_k
def test_adding_a_constant_to_a_pixels_logits_changes_nothing(loss: Loss, K: int) -> None:
    student, other, label, weight = case(K)
    shift = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    found = loss(student + shift, other - shift, label, weight)
    torch.testing.assert_close(found, loss(student, other, label, weight), rtol=1e-4, atol=1e-5)


@every_loss
@every_k
def test_extreme_logits_give_finite_values_and_gradients(loss: Loss, K: int) -> None:
    student, other, label, weight = case(K)
    student = (1e4 * student).requires_grad_()
    value = loss(student, 1e4 * other, label, weight)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@every_loss
@every_k
def test_gradient_agrees_with_finite_differences(loss: Loss, K: int) -> None:
    student, other, label, weight = case(K)
    student.requires_grad_()
    loss(student, other, label, weight).backward()
    direction = student.grad / student.grad.norm()
    step = 1e-1
    with torch.no_grad():
        ahead, behind = (loss(student + s * direction, other, label, weight) for s in (step, -step))
    assert ((ahead - behind) / (2 * step)).item() == pytest.approx(student.grad.norm().item(), rel=2e-2)

"""What every method promises, with and without SAM, for any number of classes and any two halves of a batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from knowsam.methods import METHODS, Method
from knowsam.networks import CoTrainedStudents, build_network
from knowsam.types import Progress, StepOutput
from training_helpers import SIZE, small_batch, small_method, wake_adapters

EARLY, LATE = Progress(10, 100), Progress(90, 100)  # before and after UGDA has started
every_method = pytest.mark.parametrize("name", METHODS)
every_sam = pytest.mark.parametrize("sam", ["none", "tiny"])
every_k = pytest.mark.parametrize("K", [2, 4])
early_and_late = pytest.mark.parametrize("progress", [EARLY, LATE], ids=["early", "late"])


def seeded_step(method: Method, progress: Progress, K: int) -> StepOutput:
    torch.manual_seed(5)  # dropout
    return method.step(small_batch(K), progress)


def parts(method: Method) -> dict[str, list[nn.Parameter]]:
    """The parameters that a term's name can speak of."""
    student = method.student()
    if isinstance(student, CoTrainedStudents):
        modules = {"unet": student.unet, "vnet": student.vnet, "fused": student.fusion}
    else:
        modules = {method.student_spec()["name"]: student}
    if method.sam is not None:
        modules["sam"] = method.sam
    return {name: [p for p in module.parameters() if p.requires_grad] for name, module in modules.items()}


def expected_parts(term: str) -> set[str]:
    """Where a term may have a gradient, by its name."""
    if term == "sam_sup":
        return {"sam"}
    if term == "sam_kd":
        return {"unet", "vnet"}
    if term.startswith("fused"):
        return {"unet", "vnet", "fused"}  # the fusion head passes its gradient on to the students, by design
    return {term.split("_")[0]}


def learning(term: Tensor, method: Method) -> set[str]:
    """The parts in which this term has a gradient that is not zero."""
    groups = parts(method)
    flat = list(itertools.chain.from_iterable(groups.values()))
    gradients = iter(torch.autograd.grad(term, flat, retain_graph=True, allow_unused=True))
    found = set()
    for part, parameters in groups.items():
        own = [next(gradients) for _ in parameters]
        if any(gradient is not None and bool(gradient.abs().max() > 0) for gradient in own):
            found.add(part)
    return found


@every_method
@every_sam
@every_k
@early_and_late
def test_terms_are_finite_and_each_teaches_exactly_what_it_names(
    name: str, sam: str, K: int, progress: Progress
) -> None:
    method = small_method(name, sam, K)
    output = seeded_step(method, progress, K)
    assert output.loss.ndim == 0
    assert output.loss.isfinite()
    assert ("sam_sup" in output.terms) == ("sam_kd" in output.terms) == (sam != "none")
    for term, value in output.terms.items():
        assert value.ndim == 0, term
        assert value.isfinite(), term
        assert learning(value, method) == expected_parts(term) & set(parts(method)), term


@every_method
@every_sam
def test_forward_detaches_the_terms_and_not_the_loss(name: str, sam: str) -> None:
    output = small_method(name, sam)(small_batch(), LATE)
    assert output.loss.requires_grad
    assert not any(term.requires_grad for term in output.terms.values())


@every_method
def test_every_parameter_that_learns_gets_a_gradient_over_a_step(name: str) -> None:
    method = small_method(name, "tiny")
    wake_adapters(method)
    seeded_step(method, LATE, 3).loss.backward()
    for parameter_name, parameter in method.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert reached == parameter.requires_grad, parameter_name


@every_method
@every_sam
@early_and_late
def test_the_same_seed_gives_the_same_losses(name: str, sam: str, progress: Progress) -> None:
    first, second = (seeded_step(small_method(name, sam), progress, 3) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    assert {k: v.item() for k, v in first.terms.items()} == {k: v.item() for k, v in second.terms.items()}


@every_method
def test_distillation_weight_0_leaves_the_students_as_without_sam(name: str) -> None:
    # Before UGDA: afterwards SAM writes the pseudo-labels, whatever the weight.
    alone, taught = small_method(name), small_method(name, "tiny")
    taught.sam.kd_weight = 0.0
    outputs = [seeded_step(method, EARLY, 3) for method in (alone, taught)]
    for output in outputs:
        output.loss.backward()
    for term, value in outputs[0].terms.items():
        assert torch.equal(value, outputs[1].terms[term]), term
    for (key, a), b in zip(alone.student().named_parameters(), taught.student().parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key


@every_method
@every_sam
def test_a_step_changes_nothing_but_batch_norm_statistics(name: str, sam: str) -> None:
    method = small_method(name, sam)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    seeded_step(method, LATE, 3)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    changed = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith(statistics) for key in changed)


@every_method
@every_sam
def test_after_step_leaves_all_weights_alone_where_there_is_no_ema_teacher(name: str, sam: str) -> None:
    method = small_method(name, sam)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.after_step(LATE)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@every_method
@every_sam
def test_parameter_groups_hold_every_trainable_parameter_once(name: str, sam: str) -> None:
    method = small_method(name, sam)
    groups = method.parameter_groups()
    assert [group.name for group in groups] == (["students"] if sam == "none" else ["students", "sam"])
    held = [id(parameter) for group in groups for parameter in group.parameters]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
    if sam != "none":
        assert {id(p) for p in groups[1].parameters} <= {id(p) for p in method.sam.parameters()}


@every_method
def test_the_same_seed_starts_the_same_students_with_and_without_sam(name: str) -> None:
    alone, taught = small_method(name).student().state_dict(), small_method(name, "tiny").student().state_dict()
    assert alone.keys() == taught.keys()
    assert all(torch.equal(alone[key], taught[key]) for key in alone)


@every_method
@every_k
@torch.no_grad()
def test_student_built_again_from_its_spec_predicts_the_same(name: str, K: int) -> None:
    method = small_method(name, "none", K, standardise=True)
    seeded_step(method, LATE, K)  # moves the batch-norm statistics away from their start
    rebuilt = build_network(**method.student_spec())
    rebuilt.load_state_dict(method.student().state_dict())
    image = torch.rand(2, 1, *SIZE)
    logits = rebuilt.eval()(image)
    assert logits.shape == (2, K, *SIZE)
    assert torch.equal(logits, method.student().eval()(image))


@every_method
@every_sam
def test_a_batch_without_unlabelled_half_is_a_step_like_any_other(name: str, sam: str) -> None:
    output = small_method(name, sam).step(small_batch(labelled=5, unlabelled=0), LATE)
    output.loss.backward()
    assert output.loss.isfinite()
    assert not any("mix" in term for term in output.terms)

"""What every method promises, with and without SAM, for any number of classes and any two halves of a batch."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from knowsam.methods import METHODS, Method
from knowsam.networks.registry import build_network
from knowsam.reporting.terms import prediction_name, term_name
from knowsam.types import Progress, StepOutput
from support.training import SIZE, small_batch, small_method, wake_adapters

EARLY, LATE = Progress(10, 100), Progress(90, 100)  # before and after UGDA has started
every_method = pytest.mark.parametrize("name", METHODS)
every_sam = pytest.mark.parametrize("sam", ["none", "tiny", "small_lite_medsam", "small_sam_2"])
every_k = pytest.mark.parametrize("K", [2, 4])
early_and_late = pytest.mark.parametrize("progress", [EARLY, LATE], ids=["early", "late"])


def seeded_step(method: Method, progress: Progress, K: int) -> StepOutput:
    torch.manual_seed(5)  # dropout, noise
    return method.step(small_batch(K), progress)


def ema_teacher(method: Method) -> nn.Module | None:
    """The running average that teaches, under the name that all methods with one give it."""
    return getattr(method, "ema_teacher", None)


def make_certain(method: Method) -> None:
    """Sharpen the student, its EMA teacher and a frozen reference, which must differ from it.

    Where nobody is certain of anything, or nothing has been learnt yet, some terms are rightly 0.
    """
    networks = (method.student(), ema_teacher(method), getattr(method, "reference", None))
    for network, factor in zip(networks, (20, 20, 300), strict=True):
        for name, weight in [] if network is None else network.named_parameters():
            if name.endswith("head.weight"):
                weight.data.mul_(factor)


def parts(method: Method) -> dict[nn.Module, list[nn.Parameter]]:
    """What can learn, and its parameters: every module that a term teaches, SAM, and the method for all the rest."""
    modules = dict.fromkeys(itertools.chain.from_iterable(method.term_modules().values()))
    if method.sam is not None:
        modules[method.sam] = None
    held = {module: list(module.parameters()) for module in modules}
    known = {id(parameter) for parameters in held.values() for parameter in parameters}
    return held | {method: [parameter for parameter in method.parameters() if id(parameter) not in known]}


def expected(term: str, method: Method) -> set[nn.Module]:
    """Where a term must have a gradient, by its name and the method's own word; nowhere else may it have one."""
    if term == "sam_sup":
        return {method.sam}
    taught = method.term_modules()
    return set(taught.get(term, taught.get(term.split("_")[0], ())))


def learning(term: Tensor, method: Method) -> set[nn.Module]:
    """The parts in which this term has a gradient that is not zero."""
    if not term.requires_grad:
        return set()
    groups = {part: [p for p in parameters if p.requires_grad] for part, parameters in parts(method).items()}
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
    make_certain(method)
    output = seeded_step(method, progress, K)
    assert output.loss.ndim == 0
    assert output.loss.isfinite()
    assert ("sam_sup" in output.terms) == ("sam_kd" in output.terms) == (sam != "none")
    for term, value in output.terms.items():
        assert value.ndim == 0, term
        assert value.isfinite(), term
        assert learning(value, method) == expected(term, method), term


@every_method
def test_every_first_word_of_a_terms_name_is_declared_or_a_measurement(name: str) -> None:
    method = small_method(name, "tiny")
    terms = seeded_step(method, LATE, 3).terms.keys()
    words = {term.split("_")[0] for term in terms} - {"sam"}
    declared = method.term_modules().keys() - {"sam_kd"}
    assert declared <= words | terms
    taught = {name.split("_")[0] for name in declared}
    assert taught <= words
    assert words - taught <= {"ema", "share"}
    assert all(module in set(method.modules()) for modules in method.term_modules().values() for module in modules)


@every_method
@early_and_late
def test_every_term_and_prediction_has_words_for_the_report(name: str, progress: Progress) -> None:
    method = small_method(name, "tiny")
    for term in seeded_step(method, progress, 3).terms:
        assert term_name(name, term) != term
    outputs = method.student().outputs(small_batch().labelled_image)
    words = {prediction_name(name, prediction) for prediction in outputs}
    assert len(words) == len(outputs)
    assert not words & {"student", "unet", "vnet"}


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
    make_certain(method)
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
        assert (a.grad is b.grad is None) if not a.requires_grad else torch.equal(a.grad, b.grad), key


@every_method
@every_sam
def test_a_step_changes_nothing_but_batch_norm_statistics(name: str, sam: str) -> None:
    method = small_method(name, sam)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    seeded_step(method, LATE, 3)
    method.step(small_batch(unlabelled=0), LATE)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    changed = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith(statistics) for key in changed)
    # An EMA teacher's statistics are the average of the student's: its own passes count themselves and no more.
    assert all(key.endswith("num_batches_tracked") for key in changed if key.startswith("ema_teacher."))


@every_method
@every_sam
def test_after_step_moves_the_ema_teacher_exactly_and_nothing_else(name: str, sam: str) -> None:
    method = small_method(name, sam)
    with torch.no_grad():  # a student that has moved on, in its weights and in its batch-norm statistics
        for tensor in method.student().state_dict().values():
            tensor.add_(1) if not tensor.is_floating_point() else tensor.add_(torch.rand_like(tensor))
    before = copy.deepcopy(method.state_dict())
    method.after_step(LATE)
    decay = min(0.99, 1 - 1 / (LATE.step + 1))
    moved = 0
    for key, value in method.state_dict().items():
        if key.startswith("ema_teacher."):
            student = before[key.replace("ema_teacher.", "network.", 1)]
            expected = decay * before[key] + (1 - decay) * student if value.is_floating_point() else student
            torch.testing.assert_close(value, expected, msg=key)
            moved += not torch.equal(value, before[key])
        else:
            assert torch.equal(value, before[key]), key
    assert (moved > 0) == (ema_teacher(method) is not None)


@every_method
def test_an_ema_teacher_starts_as_its_student_and_never_gets_a_gradient(name: str) -> None:
    method = small_method(name, "tiny")
    teacher = ema_teacher(method)
    if teacher is None:
        return
    pairs = zip(teacher.state_dict().values(), method.student().state_dict().values(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
    seeded_step(method, LATE, 3).loss.backward()
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    held = {id(p) for group in method.parameter_groups() for p in group.parameters}
    assert not held & {id(p) for p in teacher.parameters()}


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
    unlabelled = ("cons", "scales", "in", "out", "strong", "features", "pref", "stay")
    assert not any("mix" in term or term.removeprefix("student_") in unlabelled for term in output.terms)

"""What is particular to SAM-Fed's local step, against naive restatements."""

from __future__ import annotations

import math

import pytest
import torch

from knowsam.functional.agreement import pack_answer
from knowsam.functional.losses import segmentation_loss
from knowsam.methods.sam_fed import SamFed
from knowsam.networks.registry import build_network
from knowsam.types import IGNORE, Batch, Progress
from support.training import SIZE, small_batch, small_method

EARLY, LATE = Progress(0, 100), Progress(90, 100)


def seeded(method: SamFed, batch: Batch, progress: Progress = LATE) -> dict[str, float]:
    torch.manual_seed(5)
    output = method.step(batch, progress)
    return {name: value.item() for name, value in output.terms.items()} | {"loss": output.loss.item()}


@pytest.mark.parametrize(("step", "ramp"), [(0, math.exp(-5)), (20, math.exp(-5 / 4)), (40, 1.0), (90, 1.0)])
def test_the_loss_is_the_weighted_sum_of_its_terms_which_sets_in_slowly(step: int, ramp: float) -> None:
    method = small_method("sam_fed", global_weight=3.0, agreement_weight=0.5, ramp_end=0.4)
    found = seeded(method, small_batch(), Progress(step, 100))
    taught = 3 * found["student_global"] + 0.5 * found["student_strong"]
    assert found["loss"] == pytest.approx(found["student_sup"] + ramp * taught)


def test_without_its_weights_it_sees_the_labelled_images_alone() -> None:
    method, batch = small_method("sam_fed", global_weight=0.0, agreement_weight=0.0).eval(), small_batch()
    output = method.step(batch, LATE)
    assert list(output.terms) == ["student_sup"]
    assert torch.equal(output.loss, segmentation_loss(method.network(batch.labelled_image), batch.label))


def test_answers_given_before_teach_where_there_is_one_from_the_first_step_on() -> None:
    method, batch = small_method("sam_fed", agreement="teacher"), small_batch()
    answers = pack_answer(torch.rand(3, 3, *SIZE).softmax(1)).long()
    answers[0] = IGNORE
    batch.unlabelled_map = answers
    assert seeded(method, batch, EARLY)["share_learned"] == pytest.approx(2 / 3)
    batch.unlabelled_map = torch.full_like(answers, IGNORE)
    assert seeded(method, batch)["student_strong"] == 0
    batch.unlabelled_map = None
    assert seeded(method, batch)["share_learned"] == 1


@pytest.mark.slow
def test_rules_differ_only_where_a_sam_has_a_say() -> None:
    batch = small_batch()
    rules = ("adaptive", "teacher", "local", "intersection")
    early, late = ([seeded(small_method("sam_fed", "tiny", agreement=rule), batch, at) for rule in rules]
                   for at in (EARLY, LATE))  # fmt: skip
    assert all(found == early[0] for found in early)
    assert len({found["student_strong"] for found in late}) == 4


def test_the_global_network_is_renewed_at_the_end_of_each_round() -> None:
    method = small_method("sam_fed", rounds=4)
    renewed = []
    for step in range(10):
        with torch.no_grad():
            method.network.head.bias.add_(1)
        method.after_step(Progress(step, 10))
        if torch.equal(method.global_network.head.bias, method.network.head.bias):
            renewed.append(step)
    assert renewed == [2, 4, 7, 9]


def test_the_global_network_may_have_another_architecture_and_never_learns() -> None:
    spec = {"name": "vnet", "in_channels": 1, "classes": 3}
    method = small_method("sam_fed", global_network=spec, rounds=1).train()
    method.follow(build_network(**spec))
    before = {name: value.clone() for name, value in method.global_network.state_dict().items()}
    method.step(small_batch(), LATE).loss.backward()
    method.after_step(Progress(99, 100))
    assert all(parameter.grad is None for parameter in method.global_network.parameters())
    assert all(torch.equal(before[name], value) for name, value in method.global_network.state_dict().items())

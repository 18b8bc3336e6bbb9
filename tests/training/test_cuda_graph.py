"""What of a replayed step can be tested without a GPU: what it asks, what stands against it, when it is recorded."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import pytest
import torch

from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods import load_method
from knowsam.methods.knowsam import KnowSAM
from knowsam.training.cuda_graph import (
    PLAIN_STEPS,
    AskedProgress,
    RecordedProgress,
    ReplayedSteps,
    copy_batch,
    shapes_of,
)
from knowsam.training.host_waits import HostWaits
from knowsam.types import Batch, Progress, StepOutput
from support.training import small_batch, small_method

CPU = torch.device("cpu")
REPLAYED = ["supervised", "mean_teacher", "ua_mt", "cps", "urpc", "knowsam"]


@pytest.mark.parametrize("progress", [Progress(1, 100), Progress(90, 100)])
def test_recorded_weights_are_those_of_the_plain_step(progress: Progress) -> None:
    recorded = RecordedProgress(Progress(5, 100), CPU)
    schedules = [lambda t: 0.3 * gaussian_rampup(t / 0.5), lambda t: 1 - t]
    weights = [recorded.weight(schedule) for schedule in schedules]
    recorded.set_weights(progress)
    value = torch.rand(7)
    for weight, schedule in zip(weights, schedules, strict=True):
        assert torch.equal(weight * value, progress.weight(schedule) * value)


def test_a_decision_belongs_to_the_recording() -> None:
    asked = AskedProgress(Progress(10, 100))
    assert not asked.reached(0.24)
    assert asked.reached(0.1)
    assert asked.holds(Progress(23, 100))
    assert not asked.holds(Progress(24, 100))
    assert not asked.holds(Progress(9, 100))
    assert not asked.asked_directly
    assert asked.fraction == 0.1
    assert asked.asked_directly


@pytest.mark.parametrize("sam", ["none", "tiny", "small_lite_medsam"])
@pytest.mark.parametrize("name", REPLAYED)
@pytest.mark.parametrize("progress", [Progress(10, 100), Progress(90, 100)], ids=["early", "late"])
def test_a_gpu_need_not_wait_within_a_step(name: str, sam: str, progress: Progress) -> None:
    method = small_method(name, sam)
    if method.sam is not None:
        method.sam.prompt_spoil, method.sam.teacher.prompt = 0.5, "mask"  # boxes are found on the processor
    assert method.replayable
    method = method.to("meta")
    asked, batch = AskedProgress(progress), small_batch().to("meta")
    with HostWaits() as waits:
        output = method(batch, asked)
        output.loss.backward()
    assert not waits.found
    assert not asked.asked_directly


def test_what_a_replay_would_not_follow_is_found() -> None:
    label = torch.zeros(3, dtype=torch.long)
    with HostWaits() as waits:
        float(label.sum())
        label[label > 0]
        torch.nonzero(label)
        torch.rand(2)
        torch.rand(3).to("meta")
    drawn = "random numbers of torch's CPU generator"
    assert set(waits.found) == {"aten._local_scalar_dense", "aten.index", "aten.nonzero", "aten._to_copy", drawn}
    with HostWaits() as waits:
        (label + 1).float().softmax(dim=0)
    assert not waits.found


def test_a_method_of_others_is_not_replayed_unless_it_says_so() -> None:
    class Own(KnowSAM):
        pass

    assert load_method("knowsam").replayable
    assert Own.replayable
    assert not KnowSAM.__mro__[1].replayable  # the base class's default


def test_a_batch_is_copied_into_one_that_stays_where_it_is() -> None:
    target, source = small_batch(), small_batch()
    assert source.unlabelled_image is not None
    source.unlabelled_image += 1
    place = target.unlabelled_image.data_ptr()
    assert shapes_of(target) == shapes_of(source)
    copy_batch(target, source)
    assert torch.equal(target.unlabelled_image, source.unlabelled_image)
    assert target.unlabelled_image.data_ptr() == place
    assert shapes_of(Batch(source.labelled_image, source.label)) != shapes_of(source)


class FakeGraph:
    """Stands in for a CUDA graph: what is recorded computes at once, a replay is counted."""

    def __init__(self, replays: list[FakeGraph]) -> None:
        self.replays = replays

    def replay(self) -> None:
        self.replays.append(self)


def test_one_recording_at_a_time_and_a_new_one_when_a_decision_turns_out_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replays: list[FakeGraph] = []
    made: list[weakref.ref[FakeGraph]] = []

    def new_graph() -> FakeGraph:
        graph = FakeGraph(replays)
        made.append(weakref.ref(graph))
        return graph

    monkeypatch.setattr(torch.cuda, "CUDAGraph", new_graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *given, **named: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    weight = torch.nn.Parameter(torch.ones(()))
    computed: list[bool] = []

    def compute(batch: Batch, progress: Progress) -> StepOutput:
        assert weight.grad is None, "the last step's gradient was kept"
        computed.append(progress.reached(0.5))
        loss = weight * batch.labelled_image.mean() * progress.weight(lambda t: 1 + t)
        loss.backward()
        return StepOutput(loss.detach(), {"term": loss.detach()})

    steps = ReplayedSteps(compute, [weight], CPU)
    for number in range(20):
        output = steps(small_batch(), Progress(number, 20))
        assert output.terms.keys() == {"term"}
        assert weight.grad is not None
    # Three plain steps and one that is recorded, then replays; once more when half of the run has passed.
    assert computed == [False] * (PLAIN_STEPS + 1) + [True] * (PLAIN_STEPS + 1)
    assert len(replays) == 20 - 2 * PLAIN_STEPS
    assert len(set(map(id, replays))) == len(made) == 2
    replays.clear()
    assert [one() is None for one in made] == [True, False]
    assert steps.take_obstacle() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: replaying needs one")
@pytest.mark.parametrize("name", REPLAYED)
def test_a_replayed_step_gives_the_plain_ones_gradients(name: str) -> None:
    device = torch.device("cuda")
    gradients = []
    for replays in (False, True):
        torch.manual_seed(0)
        method = small_method(name).to(device)
        parameters = [parameter for group in method.parameter_groups() for parameter in group.parameters]

        def compute(batch: Batch, progress: Progress, method=method):
            output = method(batch, progress)
            output.loss.backward()
            return output

        steps = ReplayedSteps(compute, parameters, device)
        if not replays:
            steps.obstacle = "for comparison"
        for step in range(6):
            torch.manual_seed(step)
            steps(small_batch(), Progress(90 + step, 100))
        gradients.append([parameter.grad.clone() for parameter in parameters])
    for plain, replayed in zip(*gradients, strict=True):
        torch.testing.assert_close(replayed, plain, rtol=1e-4, atol=1e-6)

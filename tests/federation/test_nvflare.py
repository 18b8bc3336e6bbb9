"""NVFlare as the engine, where it is installed: to the loop's weights, and a job that carries no code and no image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from knowsam.federation.loop import federate
from knowsam.federation.messages import Message
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from support.federations import small_plan

pytest.importorskip("nvflare", reason="the extra `federated` is not installed")

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.filters.convert_weights import ConvertWeights
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from knowsam.federation.nvflare import ALLOWED, simulate, write_job
from knowsam.federation.nvflare_parts import FederationController, SiteExecutor, from_model, to_model


def test_what_nvflare_carries_is_the_message_and_nothing_else() -> None:
    tensors = {"a": torch.rand(2, 3).half(), "b": torch.tensor(7), "c": torch.arange(3, dtype=torch.int16)}
    message = Message({"round": 1, "global": None}, tensors)
    model = to_model(message)
    assert set(model.params) == set(tensors)
    assert list(model.meta) == ["knowsam"]
    again = from_model(model)
    assert again.values == message.values
    assert all(torch.equal(again.tensors[name], value) for name, value in tensors.items())
    assert all(again.tensors[name].dtype == value.dtype for name, value in tensors.items())
    assert from_model(to_model(Message({"round": 2}))) == Message({"round": 2})


def test_filters_of_nvflare_can_be_switched_on() -> None:
    """Those for privacy look at changes of weights, which the server adds to what it has sent."""
    torch.manual_seed(0)
    sent = Message({"round": 1}, {"weights.w": torch.randn(50), "weights.n": torch.tensor(3)})
    own = sent.tensors["weights.w"] + torch.linspace(-0.5, 0.5, 50)
    answer = Message({"round": 1}, {"weights.w": own, "weights.n": torch.tensor(5)})
    context = FLContext()
    context.set_prop(FLContextKey.TASK_DATA, FLModelUtils.to_shareable(to_model(sent)), private=True, sticky=False)
    shareable = FLModelUtils.to_shareable(to_model(answer))
    for one in (ConvertWeights("weights_to_diff"), PercentilePrivacy(percentile=50, gamma=0.3)):
        shareable = one.process(shareable, context)
    arrived = from_model(FLModelUtils.from_shareable(shareable), sent)
    change = arrived.tensors["weights.w"] - sent.tensors["weights.w"]
    assert arrived.values == answer.values
    assert arrived.tensors["weights.n"].dtype == torch.int64
    assert change.abs().max() == pytest.approx(0.3, abs=1e-6)
    assert (change == 0).sum() >= 20


def test_a_job_for_real_machines(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, min_sites=1)
    job = tmp_path / "job"
    write_job(plan, tmp_path / "fed", job)
    assert not list(job.rglob("*.py"))
    assert json.loads((job / "meta.json").read_text())["min_clients"] == 1
    server = json.loads((job / "app_server/config/config_fed_server.json").read_text())
    assert server["workflows"][0]["path"] == f"{ALLOWED}.{FederationController.__name__}"
    for name, other in (("a", "b"), ("b", "a")):
        text = (job / f"app_{name}/config/config_fed_client.json").read_text()
        executor = json.loads(text)["executors"][0]
        assert executor["tasks"] == ["start", "round"]
        assert executor["executor"]["path"] == f"{ALLOWED}.{SiteExecutor.__name__}"
        assert plan.site(name).folder in text
        assert plan.site(other).folder not in text
        assert plan.public not in text
    assert not (tmp_path / "fed").exists()


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("different", [False, True], ids=["alike", "different"])
def test_the_simulator_gives_the_loops_weights(tmp_path: Path, different: bool) -> None:
    other = {"sites": {"b": {"options": {"network": "vnet"}}}} if different else {"sam": "tiny"}
    plan = small_plan(tmp_path, other)
    federate(plan, tmp_path / "loop", quiet=True)
    done = simulate(plan, tmp_path / "engine", quiet=True)
    assert done.finished
    for path in ("student_last.safetensors", "sites/a/student.safetensors", "sites/b/student_last.safetensors"):
        own, loops = (load_student(tmp_path / run / path)[0].state_dict() for run in ("engine", "loop"))
        assert own.keys() == loops.keys()
        for name, value in own.items():
            torch.testing.assert_close(value, loops[name], atol=1e-5, rtol=0)
    rounds = [
        [(one["round"], site["sent"], site["received"]) for one in RunFolder(tmp_path / run).read_metrics()
         for site in one.get("sites", {}).values()]
        for run in ("engine", "loop")
    ]  # fmt: skip
    assert [one[::2] for one in rounds[0]] == [one[::2] for one in rounds[1]]
    assert not (tmp_path / "engine" / "nvflare").exists()

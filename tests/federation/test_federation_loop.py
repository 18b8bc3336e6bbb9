"""A federation in one process: against a plain training, against itself after an interruption, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import knowsam
from knowsam.config import merge_layers, resolve_config
from knowsam.federation import loop
from knowsam.federation.loop import federate
from knowsam.federation.messages import Message
from knowsam.federation.plan import Plan, make_plan
from knowsam.federation.server import trailing_sam
from knowsam.federation.site import Site
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from knowsam.sam.distillation import SamDistillation
from knowsam.training import run as training
from support.federations import SMALL, make_sites, small_plan
from support.folders import make_folder

WITH_SAM = {"sam": "tiny", "train": {"batch": "2+2"}}


def weights(path: Path) -> dict[str, Tensor]:
    return load_student(path)[0].state_dict()


def lines(folder: Path) -> list[dict[str, Any]]:
    """The rounds as measured, without their times."""
    rounds = [one for one in RunFolder(folder).read_metrics() if "sites" in one]
    for one in rounds:
        for site in one["sites"].values():
            site.pop("seconds")
            site.pop("sent")
    return rounds


def test_one_site_and_one_round_without_guidance_is_supervised_training(tmp_path: Path) -> None:
    options = {"options": {"global_weight": 0.0, "agreement_weight": 0.0}}
    plan = small_plan(tmp_path, options, masks=0, count=1, rounds=1, steps=5, start_steps=0)
    done = federate(plan, tmp_path / "fed", quiet=True)
    alone = resolve_config(
        merge_layers(SMALL, {"method": "supervised", "data": {"path": plan.public}}),
        {"train": {"steps": 5, "batch": "2+0", "report": False}},
    )
    training.train(alone, tmp_path / "alone", quiet=True)
    own, other = weights(done.folder.student_last), weights(tmp_path / "alone" / "student_last.safetensors")
    assert done.finished
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.slow
def test_a_run_folder_that_every_command_understands(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, WITH_SAM)
    out = tmp_path / "fed"
    done = federate(plan, out, quiet=True)
    assert done.finished
    assert done.rounds == 2
    assert [one["round"] for one in lines(out)] == [0, 1, 2]
    for one in lines(out):
        assert one["sites"].keys() == {"a", "b"}
        assert all(0 <= site["global"] <= 1 and site["received"] > 0 for site in one["sites"].values())
    assert done.best == max(one["dice"] for one in lines(out))
    for run in (out, out / "sites" / "a", out / "start"):
        predicted = knowsam.predict(run, tmp_path / "a" / "images", tmp_path / "masks" / run.name)
        assert len(predicted.written) == 5
    page = (out / "report.html").read_text()
    assert "sites/a/report.html" in page
    assert "data:image" not in page
    assert "data:image" in (out / "sites" / "a" / "report.html").read_text()
    assert knowsam.report(out, tmp_path / "again.html").path.read_text() == page
    for name in ("config.yaml", "environment.json", "federation.json", "split.json", "calibration.json"):
        assert (out / name).exists(), name


@pytest.mark.parametrize(
    ("method", "sam"),
    [("mean_teacher", "none"), ("cps", "none"), ("supervised", "none"),
     pytest.param("mean_teacher", "tiny", marks=pytest.mark.slow)],
)  # fmt: skip
def test_any_method_is_federated_by_fedavg(tmp_path: Path, method: str, sam: str) -> None:
    public, sites = make_sites(tmp_path)
    settings = {name: value for name, value in SMALL.items() if name != "options"} | {"method": method, "sam": sam}
    plan = make_plan(public, sites, settings, rounds=1, steps=2, start_steps=2)
    done = federate(plan, tmp_path / "fed", quiet=True)
    assert done.finished
    assert done.folder.student.exists()


class StoppedError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before_collect", "in_second_site", "after_collect"])
@pytest.mark.parametrize("different", [False, True])
def test_interrupted_it_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, different: bool
) -> None:
    other = {"sites": {"b": {"options": {"network": "vnet"}}}} if different else {}
    plan = small_plan(tmp_path, other, rounds=3)
    federate(plan, tmp_path / "whole", quiet=True)

    def killed(rounds: int) -> None:
        calls = {"site": 0, "collect": 0}
        round_, collect = Site.round, loop.Server.collect

        def train(self: Site, message: Message) -> Message:
            calls["site"] += 1
            if where == "in_second_site" and calls["site"] == 2 * rounds:
                raise StoppedError
            return round_(self, message)

        def end(self: loop.Server, *arguments: Any) -> Any:
            calls["collect"] += 1
            if where == "before_collect" and calls["collect"] == rounds:
                raise StoppedError
            found = collect(self, *arguments)
            if where == "after_collect" and calls["collect"] == rounds:
                raise StoppedError
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Site, "round", train)
            patch.setattr(loop.Server, "collect", end)
            with pytest.raises(StoppedError):
                federate(plan, tmp_path / "parts", quiet=True)

    for rounds in (1, 2):
        killed(rounds)
    done = federate(plan, tmp_path / "parts", quiet=True)
    assert done.finished
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    for path in ("student.safetensors", "student_last.safetensors", "sites/a/student.safetensors"):
        one, again = weights(tmp_path / "whole" / path), weights(tmp_path / "parts" / path)
        assert all(torch.equal(one[name], again[name]) for name in one), path
    steps = [one["step"] for one in RunFolder(tmp_path / "parts" / "sites" / "b").read_metrics() if "terms" in one]
    assert steps == list(range(1, 7))


@pytest.mark.slow
def test_a_signal_stops_it_between_two_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path)
    federate(plan, tmp_path / "whole", quiet=True)
    round_ = Site.round

    def then_ctrl_c(self: Site, message: Message) -> Message:
        answer = round_(self, message)
        if message.values["round"] == 1 and self.site.name == "a":
            os.kill(os.getpid(), signal.SIGINT)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Site, "round", then_ctrl_c)
        stopped = federate(plan, tmp_path / "parts", quiet=True)
    assert not stopped.finished
    assert stopped.rounds == 1
    assert (tmp_path / "parts" / "student.safetensors").exists()
    assert federate(plan, tmp_path / "parts", quiet=True).finished
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, rounds=1, steps=1, start_steps=1)
    federate(plan, tmp_path / "fed", quiet=True)
    changed = tmp_path / "b" / "images" / "case_4.png"
    changed.write_bytes((tmp_path / "b" / "images" / "case_3.png").read_bytes())
    with pytest.raises(knowsam.InputError, match="image case_4 is not what"):
        federate(plan, tmp_path / "fed", quiet=True)


@pytest.mark.slow
def test_sam_is_asked_once_for_every_image_of_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path, WITH_SAM, masks=0, rounds=3, steps=4, start_steps=1)
    asked = []
    predict = SamDistillation.predict

    def counted(self: SamDistillation, image: Tensor, prompt: Tensor) -> Tensor:
        if loop_began:
            asked.extend(image)
        return predict(self, image, prompt)

    loop_began = False
    monkeypatch.setattr(SamDistillation, "predict", counted)
    start = loop.Server.start

    def begun(self: loop.Server) -> Message | None:
        nonlocal loop_began
        message = start(self)
        loop_began = True
        return message

    monkeypatch.setattr(loop.Server, "start", begun)
    federate(plan, tmp_path / "fed", quiet=True)
    assert len(asked) == 10
    assert (tmp_path / "fed" / "sites" / "a" / "answers.safetensors").exists()
    # The same command again has nothing left to ask.
    federate(plan, tmp_path / "fed", quiet=True)
    assert len(asked) == 10


def messages_of(plan: Plan, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Everything that leaves a site."""
    sent: list[Message] = []
    round_ = Site.round

    def kept(self: Site, message: Message) -> Message:
        sent.append(round_(self, message))
        return sent[-1]

    monkeypatch.setattr(Site, "round", kept)
    federate(plan, out, quiet=True)
    return sent


COUNTERS = {"round", "images", "cases", "global", "own", "seconds"}


@pytest.mark.parametrize("local_norm", [False, True])
def test_alike_sites_send_weights_and_counters_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_norm: bool
) -> None:
    plan = small_plan(tmp_path, local_norm=local_norm)
    sent = messages_of(plan, tmp_path / "fed", monkeypatch)
    names = {f"weights.network.{name}" for name in weights(tmp_path / "fed" / "student.safetensors")}
    if local_norm:
        names = {name for name in names if "running" not in name and "tracked" not in name}
    assert len(sent) == 6
    for message in sent:
        assert message.values.keys() <= COUNTERS
        assert all(value is None or isinstance(value, int | float) for value in message.values.values())
        assert set(message.tensors) == (names if message.values["round"] < 2 else set())


def test_different_sites_send_answers_to_public_images_and_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"sites": {"b": {"options": {"network": "vnet"}}}}
    plan = small_plan(tmp_path, other)
    sent = messages_of(plan, tmp_path / "fed", monkeypatch)
    assert plan.different
    for message in sent:
        assert message.values.keys() <= COUNTERS
        if message.values["round"] < 2:
            logits = message.tensors.pop("public_logits")
            assert logits.shape == (3, 3, 32, 32)  # public training images, classes, size
            assert logits.dtype == torch.float16
        assert not message.tensors
        assert not any(stem in json.dumps(message.values) for stem in ("case_", "png", str(tmp_path)))
    assert load_student(tmp_path / "fed" / "sites" / "b" / "student.safetensors")[1].network["name"] == "vnet"
    assert load_student(tmp_path / "fed" / "student.safetensors")[1].network["name"] == "unet"


def test_statistics_of_batch_norm_stay_where_they_are(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, local_norm=True, rounds=1)
    federate(plan, tmp_path / "fed", quiet=True)
    states = [weights(tmp_path / "fed" / path / "student_last.safetensors") for path in (".", "sites/a", "sites/b")]
    running = [name for name in states[0] if name.endswith("running_mean")]
    assert running
    assert all(not torch.equal(one[name], states[2][name]) for one in states[:2] for name in running)


def test_a_site_may_lack_classes_and_labels(tmp_path: Path) -> None:
    public = make_folder(tmp_path / "public", n_images=4, n_masks=4, classes=3)
    few = make_folder(tmp_path / "few", n_images=5, n_masks=3, classes=2)
    none = make_folder(tmp_path / "none", n_images=5, n_masks=0)
    plan = make_plan(public, {"few": few, "none": none}, SMALL, rounds=1, steps=2, start_steps=2)
    done = federate(plan, tmp_path / "fed", quiet=True)
    last = lines(tmp_path / "fed")[-1]["sites"]
    assert done.finished
    assert last["few"]["global"] is not None
    assert last["none"]["global"] is None
    assert (
        load_student(tmp_path / "fed" / "sites" / "few" / "student.safetensors")[1].class_names
        == load_student(done.folder.student)[1].class_names
    )


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        ({"student": {"dice": 0.42}, "sam": {"dice": 0.31}}, "Dice 0.310 against 0.420 on the public set's validation"),
        ({"student": {"dice": 0.42}, "sam": {"dice": 0.42}}, None),
        ({"student": {"dice": 0.42}}, None),
        ({}, None),
    ],
)
def test_a_sam_that_knows_less_than_the_network_is_told(validation: dict[str, Any], said: str | None) -> None:
    sentence = trailing_sam(validation)
    assert (sentence is None) == (said is None)
    assert said is None or said in str(sentence)


@pytest.mark.slow
@pytest.mark.parametrize(("agreement", "notes"), [("adaptive", 1), ("local", 0)])
def test_and_only_where_it_would_be_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], agreement: str, notes: int
) -> None:
    worse = {"student": {"dice": 0.5}, "sam": {"dice": 0.1}}
    monkeypatch.setattr(RunFolder, "validation_at", lambda folder, step: worse)
    plan = small_plan(tmp_path, merge_layers(WITH_SAM, {"options": {"agreement": agreement}}), rounds=1, steps=1)
    federate(plan, tmp_path / "fed")
    written = "".join(capsys.readouterr())
    assert written.count("SAM knows less than the network") == notes

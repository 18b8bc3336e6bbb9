"""Runs that ended at their start, at their end or at a full disk: what is told, and how they go on."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from knowsam.errors import InputError
from knowsam.inference.predictor import Predictor
from knowsam.reliability.of_run import is_calibrated
from knowsam.reliability.predictions import predict_folder
from knowsam.runs.checkpoint import load_checkpoint, read_progress
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.runs.student_file import load_student
from knowsam.training import trainer as engine
from knowsam.training.run import resume, train
from support.folders import make_folder
from support.training import run_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=6, n_masks=4)


def run_of(data: Path, out: Path, **settings: object) -> RunFolder:
    layer = {"method": "supervised", "train": {"report": True}, "data": settings}
    return train(run_config(data, layer, steps=2), out, quiet=True).folder


@pytest.fixture
def finished(data: Path, tmp_path: Path) -> RunFolder:
    return run_of(data, tmp_path / "run")


@pytest.mark.parametrize("lost", ["student.safetensors", "student_last.safetensors", "calibration.json", "report.html"])
@pytest.mark.parametrize("how", ["absent", "cut"])
def test_a_run_whose_steps_are_done_gets_the_file_it_lacks(lost: str, how: str, finished: RunFolder) -> None:
    path = finished.path / lost
    before = path.read_bytes()
    if how == "absent" or lost == "report.html":
        path.unlink()
    else:
        path.write_bytes(before[: len(before) // 2])
    result = resume(finished.path, quiet=True)
    assert (result.finished, result.steps) == (True, 2)
    assert lost == "report.html" or path.read_bytes() == before
    assert path.exists()
    assert is_calibrated(finished.student)
    with pytest.raises(InputError, match="2 of 2 steps are done"):
        resume(finished.path, quiet=True)


def test_without_validation_a_student_older_than_the_checkpoint_is_told_and_replaced(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of(data, tmp_path / "run", val_fraction=0)
    newest = folder.student.read_bytes()
    folder.student.write_bytes(run_of(data, tmp_path / "other", val_fraction=0).student.read_bytes())
    state = load_checkpoint(folder.checkpoint)
    engine.save_checkpoint(folder.checkpoint, state | {"step": 3, "total": 3})  # as if it had trained a step more
    folder.rewrite_config(
        folder.read_config().model_copy(update={"train": run_config(data, steps=3).train.model_copy()})
    )
    predictor = Predictor(folder.path)
    words = "the network of step 2 was found, but the run's checkpoint has one of step 3; `knowsam train --resume"
    assert predictor.outdated is not None
    assert words in predictor.outdated
    done = predict_folder(predictor, data, tmp_path / "preds")
    assert any(words in warning for warning in done.warnings)
    resume(folder.path, quiet=True)
    assert load_student(folder.student)[1].step == 3
    assert not load_student(folder.student)[1].is_best
    assert Predictor(folder.path).outdated is None
    assert newest != folder.student.read_bytes()


def test_a_best_network_that_is_lost_is_told_and_the_last_one_stands_in(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A rate of nearly nothing: equal scores, and the first of equals is kept.
    layer = {"method": "supervised", "train": {"lr": 1e-12}}
    folder = train(run_config(data, layer, steps=4), tmp_path / "run", quiet=True).folder
    assert read_progress(folder.checkpoint).best_step == 2
    assert load_student(folder.student)[1].is_best
    folder.student.unlink()
    resume(folder.path)
    assert "was lost with the best network, of step 2; the last one" in " ".join(capsys.readouterr().out.split())
    info = load_student(folder.student)[1]
    assert (info.step, info.is_best) == (4, False)


def test_a_student_newer_than_the_checkpoint_is_not_called_old(finished: RunFolder) -> None:
    state = load_checkpoint(finished.checkpoint)
    engine.save_checkpoint(finished.checkpoint, state | {"step": 1, "best_step": 1})
    assert Predictor(finished.path).outdated is None


@pytest.mark.parametrize("left", [[], ["environment.json"], ["environment.json", "split.json", "data.json"]])
def test_a_run_without_a_checkpoint_begins_once_more(left: list[str], data: Path, tmp_path: Path) -> None:
    whole = run_of(data, tmp_path / "whole")
    cut = RunFolder(tmp_path / "cut")
    cut.path.mkdir()
    for name in ["config.yaml", *left]:
        (cut.path / name).write_bytes((whole.path / name).read_bytes())
    cut.append({"step": 1, "terms": {"loss": 1.0}, "lr": {}, "steps_per_s": 1.0})
    with pytest.raises(InputError, match=r"another run was found.*--resume"):
        train(whole.read_config(), cut.path, quiet=True)
    result = resume(cut.path, quiet=True)
    assert result.finished
    assert cut.student.read_bytes() == whole.student.read_bytes()
    assert [record["step"] for record in cut.read_metrics() if "terms" in record] == [1, 2]


def test_leftovers_of_a_killed_start_are_no_other_files(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").write_text("")
    (out / ".writing-00000000-1-config.yaml").write_text("half")
    run_of(data, out)
    assert not (out / ".lock").exists()


def test_two_trainings_of_one_folder_are_one(finished: RunFolder, data: Path, tmp_path: Path) -> None:
    with folder_lock(finished.path), pytest.raises(InputError, match="another process is at work there"):
        resume(finished.path, steps=4, quiet=True)
    with folder_lock(tmp_path / "new"), pytest.raises(InputError, match="another process is at work there"):
        run_of(data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def full_after_two_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    save = engine.save_checkpoint

    def full(path: Path, state: dict[str, object]) -> None:
        if state["step"] > 2:  # type: ignore[operator]
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_checkpoint", full)
        yield


def test_a_full_disk_keeps_the_last_checkpoint_and_says_how_to_go_on(
    data: Path, tmp_path: Path, full_after_two_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(data, {"method": "supervised"}, steps=4)
    words = r"checkpoint\.pt: .*No space left on device.*the checkpoint of step 2 is kept.*--resume"
    with pytest.raises(InputError, match=words):
        train(config, tmp_path / "run", quiet=True)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 2
    assert not list((tmp_path / "run").glob(".*"))


def test_a_start_that_cannot_be_written_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RunFolder, *written: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("knowsam.training.data.write_data_record", full)
    with pytest.raises(OSError, match="No space left"):
        run_of(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_that_vanished_is_named(finished: RunFolder, data: Path) -> None:
    gone = json.loads(finished.split.read_text())["labelled"][0]
    for kind in ("images", "masks"):
        (data / kind / f"{gone}.png").unlink()
    with pytest.raises(InputError, match=f"{gone} of the run's split is not there"):
        resume(finished.path, steps=4, quiet=True)

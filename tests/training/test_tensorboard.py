"""Measurements for TensorBoard: the same numbers as metrics.jsonl, and a sentence where the package is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from knowsam.errors import InputError
from knowsam.runs.folder import RunFolder
from knowsam.training.run import resume, train
from support.folders import make_folder
from support.training import run_config

SETTINGS = {"method": "supervised", "options": {}, "train": {"tensorboard": True}}


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
def test_scalars_equal_the_log_and_a_resumed_run_continues_them(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path / "run")
    train(run_config(make_folder(tmp_path / "data"), SETTINGS, steps=2), folder.path, quiet=True)
    resume(folder.path, steps=4, quiet=True)
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    records = folder.read_metrics()
    loss = {record["step"]: record["terms"]["loss"] for record in records if "terms" in record}
    assert list(loss) == [1, 2, 3, 4]
    assert {event.step: event.value for event in events.Scalars("loss/loss")} == pytest.approx(loss)
    dice = {record["step"]: record["validation"]["student"]["dice"] for record in records if "validation" in record}
    assert {event.step: event.value for event in events.Scalars("validation/student")} == pytest.approx(dice)
    rates = {record["step"]: record["lr"]["students"] for record in records if "lr" in record}
    assert {event.step: event.value for event in events.Scalars("lr/students")} == pytest.approx(rates)
    assert "validation_classes/student_2" in events.Tags()["scalars"]


def test_a_missing_package_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowsam.training.tensorboard.find_spec", lambda name: None)
    data = make_folder(tmp_path / "data")
    with pytest.raises(InputError, match=r"pip install 'knowsam\[tensorboard\]'"):
        train(run_config(data, SETTINGS), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()

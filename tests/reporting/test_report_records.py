"""What a run's files say, and which run stands beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from knowsam.config import resolve_config
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.reporting.baseline import find_baseline, given_baseline
from knowsam.runs.folder import RunFolder, seconds_spent
from knowsam.runs.record import read_run


def write_run(
    path: Path, dice: list[float], labelled: str = "ab", val: str = "xy", **settings: Any
) -> RunFolder:  # fmt: skip
    """The files of a run that was validated every 10 steps, without any network."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    train = {"steps": 10 * len(dice), "batch": "2+2", **settings.pop("train", {})}
    config = resolve_config({"sam": "none", "data": {"path": "/data"}, "train": train, **settings})
    folder.config.write_text(config.to_yaml())
    folder.environment.write_text(json.dumps({"device": "cpu", "threads": 1, "packages": {}}))
    Split(list(labelled), ["u"], list(val), []).write(folder.split)
    for number, value in enumerate(dice, 1):
        folder.append({"step": 10 * number, "terms": {"loss": 1 / number}, "lr": {}, "steps_per_s": 2.0})
        score = {"dice": value, "per_class": [value]}
        folder.append({"step": 10 * number, "validation": {"fused": score}, "seconds": 3.0})
    return folder


def test_best_is_the_best_of_the_used_prediction(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", [0.2, 0.6, 0.5]).path)
    assert run.best is not None
    assert (run.best.step, run.best.score, run.steps, run.best.used) == (20, 0.6, 30, "fused")
    assert run.terms == {"loss": [(10, 1.0), (20, 0.5), (30, 1 / 3)]}


def test_seconds_count_validations_once() -> None:
    # 10 steps in 5 s; then 10 in 10 s, of which 4 were the validation between them; 7 s of validation at the end.
    records = [
        {"step": 10, "terms": {}, "steps_per_s": 2.0},
        {"step": 10, "validation": {}, "seconds": 4.0},
        {"step": 20, "terms": {}, "steps_per_s": 1.0},
        {"step": 20, "validation": {}, "seconds": 7.0},
    ]
    assert seconds_spent(records) == pytest.approx(5 + 10 + 7)


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [0.2, 0.6])
    with folder.metrics.open("a") as file:
        file.write('{"step": 25, "terms": {"lo')
    assert read_run(folder.path).steps == 20


def test_a_run_without_measurement_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [0.2])
    folder.metrics.unlink()
    with pytest.raises(InputError, match=r"no measurement was found in metrics\.jsonl"):
        read_run(folder.path)


def test_the_baseline_shares_data_labels_and_validation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", [0.7, 0.8])
    write_run(tmp_path / "other-labels", [0.9, 0.9], labelled="abc", method="supervised")
    write_run(tmp_path / "other-val", [0.9, 0.9], val="xz", method="supervised")
    write_run(tmp_path / "other-data", [0.9, 0.9], method="supervised", data={"path": "/elsewhere"})
    write_run(tmp_path / "with-sam", [0.9, 0.9], method="supervised", sam="tiny")
    write_run(tmp_path / "knowsam", [0.9, 0.9])
    assert find_baseline(read_run(run.path)) is None

    write_run(tmp_path / "longer", [0.75] * 4, method="supervised")
    found = find_baseline(read_run(run.path))
    assert found is not None
    assert (found.run.name, found.score.score, found.differences) == ("longer", 0.75, {"steps": ("20", "40")})

    write_run(tmp_path / "same", [0.6, 0.65], method="supervised")
    write_run(tmp_path / "same-but-worse", [0.6, 0.61], method="supervised")
    found = find_baseline(read_run(run.path))
    assert found is not None
    assert (found.run.name, found.differences) == ("same", {})  # nearest settings first, then the best Dice
    assert find_baseline(found.run) is None  # it is the baseline itself


def test_a_broken_neighbour_is_passed_over(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", [0.7])
    broken = write_run(tmp_path / "broken", [0.9], method="supervised")
    broken.metrics.write_text("")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.yaml").write_text("[")
    assert find_baseline(read_run(run.path)) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.yaml", b"a: 2001-13-45"), ("config.yaml", b"\xff\xfe"), ("config.yaml", b"a: " + b"[" * 5000),
     ("metrics.jsonl", b'{"step": 1, "validation": {"x": 3}}\n{"step": 2}\n'), ("split.json", b"{"),
     ("environment.json", b"[]")],
)  # fmt: skip
def test_no_file_of_a_neighbour_breaks_a_report(name: str, content: bytes, tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", [0.7])
    write_run(tmp_path / "broken", [0.9], method="supervised")
    (tmp_path / "broken" / name).write_bytes(content)
    assert find_baseline(read_run(run.path)) is None


def test_a_named_baseline_on_other_images_is_not_comparable(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "mine", [0.7]).path)
    other = write_run(tmp_path / "other", [0.9], val="xz", labelled="ac", method="supervised")
    baseline = given_baseline(run, other.path)
    assert not baseline.comparable
    assert baseline.differences == {"labelled images": ("its own", "others")}
    empty = write_run(tmp_path / "empty", [0.9], method="supervised")
    empty.metrics.write_text('{"step": 10, "terms": {"loss": 1.0}}\n')
    with pytest.raises(InputError, match="a run without validation was found"):
        given_baseline(run, empty.path)


def test_unlabelled_images_join_after_pretraining(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", [0.1] * 4, train={"pretrain": 0.25}).path)
    assert run.pretrain_end == 10
    assert run.joined_within
    supervised = read_run(write_run(tmp_path / "b", [0.1], method="supervised", train={"pretrain": 0.25}).path)
    assert not supervised.joined_within

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from knowsam.comparison.cell import CellJob, do_cell, peak_memory_mb
from knowsam.comparison.engine import LocalEngine
from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.grid import Cell, plan_grid
from knowsam.comparison.loop import compare
from knowsam.comparison.outcome import Outcome
from knowsam.comparison.output import write_tables
from knowsam.comparison.scores import read_scores
from knowsam.config import resolve_config
from knowsam.evaluation.evaluate import evaluate
from knowsam.inference.files import predict_files
from knowsam.inference.predictor import Predictor
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.lock import folder_lock
from knowsam.storage import LOCK_FILE
from knowsam.training.run import train
from support.comparisons import in_this_process
from support.folders import make_folder

SETTINGS = {
    "preset": "paper",
    "data": {"size": 32},
    "train": {"steps": 4, "batch": "2+2", "validate_every": 2, "log_every": 1},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = make_folder(tmp_path / "data", n_images=12, n_masks=12)
    (folder / "val.txt").write_text("case_8\ncase_9\n")
    (folder / "test.txt").write_text("case_10\ncase_11\n")
    return folder


def one_cell(data: Path, name: str, steps: int = 4) -> tuple[CompareFolder, Cell, CellJob]:
    """A comparison of one run, and the order for it."""
    settings = SETTINGS | {"train": SETTINGS["train"] | {"steps": steps}}  # type: ignore[operator]
    grid = plan_grid(data, ["supervised"], ["none"], [2], [0], settings)
    folder, cell = CompareFolder(data.parent / name), grid.cells[0]
    folder.cell(cell).mkdir(parents=True)
    config = grid.config(cell).model_dump(mode="json")
    return (
        folder,
        cell,
        CellJob(config, folder.run(cell).path, folder.cell(cell)),
    )


@pytest.mark.slow
def test_a_small_grid_from_training_to_table(data: Path) -> None:
    out = data.parent / "out"
    values = {"methods": ["supervised", "knowsam"], "labelled": [2], "settings": SETTINGS, "quiet": True}
    results = compare(data, out, engine=in_this_process, **values)  # type: ignore[arg-type]
    assert (results.part, results.cases, results.class_names) == ("test", 2, ("class_1", "class_2"))
    assert [(row.method, row.sam, row.complete) for row in results.rows] == [
        ("supervised", "none", True), ("supervised", "tiny", True),
        ("knowsam", "none", True), ("knowsam", "tiny", True),
    ]  # fmt: skip
    for row in results.rows:
        assert (row.sam_best.mean > 0) == (row.sam == "tiny")
        assert row.seconds.mean > 0
        assert bool(row.difference) == (row.sam == "tiny")
    assert results.rows[0].network == "unet"
    assert results.rows[2].network == "cotrained"
    write_tables(results)
    assert "| knowsam | tiny | 2 | 1 |" in (out / "table.md").read_text()

    # The same numbers as predict and evaluate give by way of files.
    run = out / "runs" / "knowsam_sam-tiny_labelled-2_seed-0"
    list(predict_files(Predictor(run), data, data.parent / "preds", stems={"case_10", "case_11"}.__contains__))
    by_hand = evaluate(data.parent / "preds", data / "masks")
    scores = read_scores(out / "cells" / run.name / "scores.csv")
    assert list(scores) == [case.case for case in by_hand.cases] == ["case_10", "case_11"]
    for case in by_hand.cases:
        for ours, theirs in zip(scores[case.case], case.scores, strict=True):
            np.testing.assert_allclose(list(ours.values.values()), list(theirs.values.values()), atol=1e-6)
            assert ours.status == theirs.status

    # All methods were trained on the same sets.
    splits = {(path / "split.json").read_text() for path in (out / "runs").iterdir()}
    assert len(splits) == 1


def test_a_run_that_cannot_train_fails_alone(data: Path) -> None:
    # SGD with this rate overflows within a few steps; the supervised run has its own, small one.
    settings = SETTINGS | {"supervised": {"train": {"lr": 1e-4}}, "train": SETTINGS["train"] | {"lr": 1e18}}  # type: ignore[operator]
    results = compare(
        data, data.parent / "out", ["supervised", "knowsam"], ["none"], [2], [0], settings, True, engine=in_this_process
    )
    assert results.rows[0].complete
    (cell,) = results.failed
    assert cell.method == "knowsam"
    assert "not finite, but expected numbers; lower train.lr" in results.failed[cell]


def test_a_run_that_was_killed_after_its_last_step_is_only_scored(data: Path) -> None:
    folder, cell, order = one_cell(data, "out")
    train(resolve_config(order.config), order.run, quiet=True)
    folder.run(cell).calibration.unlink()
    before = folder.run(cell).checkpoint.stat().st_mtime_ns
    assert do_cell(order, quiet=True)
    outcome = Outcome.read(order.cell)
    assert outcome is not None
    assert (outcome.status, outcome.part, outcome.peak_mb) == ("done", "test", None)
    assert folder.run(cell).checkpoint.stat().st_mtime_ns == before
    assert folder.run(cell).calibration.exists()
    (order.run / LOCK_FILE).touch()  # killed before it let go
    assert do_cell(order, quiet=True)
    assert not (order.run / LOCK_FILE).exists()


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(data: Path) -> None:
    folder, cell, order = one_cell(data, "out")
    order.run.mkdir(parents=True)
    (order.run / ".writing-1-config.yaml").write_text("half")
    assert do_cell(order, quiet=True)
    assert load_checkpoint(folder.run(cell).checkpoint)["step"] == 4


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_process_that_is_killed_keeps_its_checkpoint_and_is_continued_to_the_same_bits(data: Path) -> None:
    folder, cell, order = one_cell(data, "out", steps=20)
    run = folder.run(cell)
    engine = LocalEngine()
    process = engine.start(order, None, {})
    while process.ended() is None:
        engine.wait(0.02)
        if run.checkpoint.exists():
            process.kill()
    assert process.ended() == -signal.SIGKILL
    assert Outcome.read(order.cell) is None
    assert 0 < load_checkpoint(run.checkpoint)["step"] < 20
    assert do_cell(order, quiet=True)
    assert [record["step"] for record in run.read_metrics() if "terms" in record] == list(range(1, 21))
    whole = train(resolve_config(order.config), data.parent / "whole", quiet=True).folder
    assert run.student.read_bytes() == whole.student.read_bytes()
    assert run.student_last.read_bytes() == whole.student_last.read_bytes()


@pytest.mark.slow
@pytest.mark.subprocess
def test_an_orphaned_process_saves_and_stops(data: Path, tmp_path: Path) -> None:
    folder, cell, order = one_cell(data, "out", steps=100_000)
    run = folder.run(cell)
    script = tmp_path / "parent.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from knowsam.comparison.cell import CellJob\n"
        "from knowsam.comparison.engine import LocalEngine\n"
        "if __name__ == '__main__':\n"
        "    config, run, cell = json.loads(sys.argv[1])\n"
        "    engine = LocalEngine()\n"
        "    process = engine.start(CellJob(config, Path(run), Path(cell)), None, {})\n"
        "    while process.ended() is None:\n"
        "        engine.wait(1)\n"
    )
    argument = json.dumps([order.config, str(order.run), str(order.cell)])
    parent = subprocess.Popen([sys.executable, str(script), argument])
    deadline = time.monotonic() + 120
    while not run.checkpoint.exists() and parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    with folder_lock(order.cell, wait=True):  # it holds this as long as it is at work
        log = run.metrics.read_text().splitlines()
        saved = load_checkpoint(run.checkpoint)["step"]
    # It saved where it stopped, not only at its last validation.
    assert saved == json.loads(log[-1])["step"]
    assert Outcome.read(order.cell) is None


@pytest.mark.subprocess
def test_peak_memory_is_this_processs_own() -> None:
    before = peak_memory_mb()
    block = np.ones(60 * 2**20 // 8)
    assert block.sum() > 0
    after = peak_memory_mb()
    assert 10 < before <= after < before + 500
    code = "from knowsam.comparison.cell import peak_memory_mb; print(peak_memory_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Started by a process that holds torch and much more.
    assert float(child.stdout) < 0.8 * after

"""The demo with a few steps: everything it promises is there, and it can run again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from knowsam.evaluation.metrics import dice_score
from knowsam.io import read_label
from support.examples import load_example


@pytest.mark.slow
def test_demo_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo, out = load_example("demo"), tmp_path / "demo-run"
    for _ in range(2):
        scores = demo.run_demo(out, steps=2, size="32")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["dice"]["knowsam"][-1] == pytest.approx(demo.mean_dice(scores["knowsam"]))
    printed = capsys.readouterr().out
    assert "overlays.png" in printed
    assert (out / "overlays.png").exists()
    assert (out / "runs" / "knowsam" / "report.html").exists()
    for stage in demo.STAGES:
        assert stage in printed
    report = (out / "report.md").read_text()
    assert f"{demo.mean_dice(scores['supervised']):.3f}" in report

    # The numbers of the table are those of the written predictions: the same path a user would take.
    for method in demo.METHODS:
        by_hand = []
        for path in sorted((out / "truth").iterdir()):
            truth, predicted = read_label(path).array, read_label(out / "predictions" / method / path.name).array
            by_hand.append([dice_score(predicted == index, truth == index) for index in (1, 2)])
        assert len(by_hand) == 20
        assert np.mean(by_hand) == pytest.approx(summary["dice"][method][-1])


def test_no_scored_volume_is_trained_on(tmp_path: Path) -> None:
    demo = load_example("demo")
    drawn = set()
    for seed in range(4):
        out = tmp_path / str(seed)
        assert demo.write_data(out, seed) == (demo.LABELLED, 23 - demo.LABELLED, 20)
        training, masks, scored = ({path.name for path in (out / part).iterdir()} for part in (
            "data/images", "data/masks", "truth"))  # fmt: skip
        assert not training & scored
        assert masks < training
        drawn.add(frozenset(masks))
    assert len(drawn) > 1


def test_the_parts_name_every_file() -> None:
    folder = load_example("demo").DATA
    with (folder / "parts.csv").open(newline="") as file:
        named = {row["file"] for row in csv.DictReader(file)}
    for part in ("images", "labels"):
        assert {path.name for path in (folder / part).iterdir()} == named


def test_demo_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(SystemExit, match="files of something else"):
        load_example("demo").run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").exists()

"""The benchmarks run, at sizes where their numbers mean nothing, and their arithmetic is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "gpu.py": ["--dry-run"],
    "step.py": ["--size", "32", "--batch", "1+1", "--rounds", "1"],
    "sam.py": ["--sam", "tiny", "--size", "32", "--images", "1", "--rounds", "1"],
    "predict.py": ["--images", "1", "--side", "40", "--size", "32", "--rounds", "1"],
    "scale.py": ["--only", "files", "--files", "10,40", "--rounds", "1"],
}


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import measure

    return measure


def test_ratio_is_taken_within_each_round(measure) -> None:
    # The machine was ten times slower in the second round: the ratio of medians would be 20 / 11.
    slow, fast = measure.Times(cpu=[2.0, 20.0, 3.0]), measure.Times(cpu=[1.0, 10.0, 1.0])
    found = measure.ratio(slow, fast)
    assert found["median"] == 2.0
    assert found["p90"] == pytest.approx(2.8)  # between 2 and 3, four fifths of the way


def test_contenders_take_turns_and_warm_up_is_not_measured(measure) -> None:
    order: list[str] = []
    times = measure.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, warm_up=1)
    assert order == list("ababab")
    assert [len(times[name].wall) for name in "ab"] == [2, 2]


@pytest.mark.parametrize("script", SMALL)
def test_benchmark_runs_and_writes_json(script: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(FOLDER / script), *SMALL[script], "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["machine"]["cores"] >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]

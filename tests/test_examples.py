"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.cli import make_trained_run
from support.examples import EXAMPLES, load_example
from support.folders import make_folder, make_image, save_picture


@pytest.mark.slow
def test_train_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data")
    settings = ("train.steps=2", "train.batch=1+1", "data.size=32", "sam=none")
    load_example("train_from_python").main(str(data), str(tmp_path / "out"), *settings)
    assert (tmp_path / "out" / "run" / "student.safetensors").exists()
    assert len(list((tmp_path / "out" / "predictions").glob("case_?.png"))) == 6
    said = capsys.readouterr().out
    assert "Ready to train." in said
    assert "case_5.png -> " in said
    assert "number of cases: 4" in said


def test_predict_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_trained_run(tmp_path)
    source = save_picture(tmp_path / "image.png", make_image((40, 56)))
    load_example("predict_array").main(str(run), str(source))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["background", "class_1", "class_2"]
    shares = [float(line.partition(": ")[2].partition("%")[0]) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.2)


@pytest.mark.subprocess
def test_the_demo_imports_knowsam_before_torch() -> None:
    """Or its two threads spin: beside one busy process its supervised training took 17 minutes instead of one."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, sys; sys.path.insert(0, sys.argv[1]); import demo; print(os.environ.get('GOMP_SPINCOUNT'))"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES)], capture_output=True, text=True, check=True, env=kept
    )
    assert ended.stdout.strip() == "1000"


def test_plug_in(capsys: pytest.CaptureFixture[str]) -> None:
    losses = load_example("plug_in").main()
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert f"loss {losses[-1]:.3f}" in capsys.readouterr().out

"""The examples run as they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from knowsam.inference.predictor import Predictor
from support.cli import make_trained_run
from support.examples import load_example
from support.folders import make_folder, make_image, save_picture


def test_train_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data")
    settings = ("train.steps=2", "train.batch=1+1", "data.size=32", "sam=none")
    load_example("train_from_python").main(str(data), str(tmp_path / "out"), *settings)
    assert (tmp_path / "out" / "run" / "student.safetensors").exists()
    assert len(list((tmp_path / "out" / "predictions").glob("case_?.png"))) == 6
    assert "case_5.png -> " in capsys.readouterr().out


def test_predict_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_trained_run(tmp_path)
    example = load_example("predict_array")
    source = save_picture(tmp_path / "image.png", make_image((40, 56)))
    example.main(str(run), str(source))
    assert "background: " in capsys.readouterr().out
    predictor = Predictor(run)
    assert example.segment(predictor, make_image((40, 56))).shape == (40, 56)
    volume = np.random.default_rng(0).random((8, 40, 56, 1)).astype(np.float32)
    assert example.segment(predictor, volume).shape == (8, 40, 56)

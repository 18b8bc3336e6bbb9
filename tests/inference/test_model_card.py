from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from knowsam.data.preprocess import Preprocessing
from knowsam.inference.export import Exported
from knowsam.inference.model_card import model_card
from knowsam.inference.verification import Verification
from knowsam.runs.folder import RunFolder, seconds_spent
from knowsam.runs.student_file import StudentInfo, load_student
from support.cli import make_trained_run
from support.exports import NAMES, SIZE, VALIDATION

INFO = StudentInfo({"name": "cotrained"}, Preprocessing(SIZE, 1), NAMES, 7, VALIDATION, "0.1")


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"1234")
    return Exported(path, tmp_path / "MODEL_CARD.md", "fused", 1234567, INFO, Verification(3e-7, 11, 100))


def test_card_says_what_the_file_is_and_what_it_is_not(exported: Exported, tmp_path: Path) -> None:
    card = model_card(exported, RunFolder(tmp_path))
    assert "fused, 1,234,567 parameters, after 7 training steps" in card
    # sha256 of the four bytes, as `printf 1234 | sha256sum` prints it
    assert "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4" in card
    assert "**Not a medical device.**" in card
    assert "| 1 | liver | 1 | #e69f00 |" in card


def test_scores_have_their_spread_over_volumes(exported: Exported, tmp_path: Path) -> None:
    card = model_card(exported, RunFolder(tmp_path))
    assert "mean over 2 validation volumes" in card
    assert "| unet | 0.400 ± 0.283 | 0.700 ± 0.424 | 0.550 |" in card


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        ({"student": {"dice": 0.55, "per_class": [0.4, 0.7]}}, "| student | 0.400 | 0.700 | 0.550 |"),
        ({}, "None: the weights were kept without validation."),
    ],
)
def test_what_was_not_recorded_is_said(
    exported: Exported, tmp_path: Path, validation: dict[str, object], said: str
) -> None:
    info = dataclasses.replace(INFO, validation=validation)
    card = model_card(dataclasses.replace(exported, info=info), RunFolder(tmp_path))
    assert said in card
    assert card.count("exported from a student without its run folder") == 2  # data and training


def test_card_of_a_run_tells_its_data_and_training_but_no_path(exported: Exported, tmp_path: Path) -> None:
    folder = RunFolder(make_trained_run(tmp_path))
    info = load_student(folder.student)[1]
    card = model_card(dataclasses.replace(exported, info=info), folder)
    assert "Folder `data`" in card
    assert str(tmp_path) not in card
    # four of six images have masks; a fifth of them, rounded, validate
    assert "| labelled: images and masks trained on | 3 |" in card
    assert "| validation: chose the checkpoint | 1 |" in card
    assert "| method | supervised, SAM teacher: none, preset short |" in card
    assert "| steps, batch | 2, 2+2 |" in card


def test_training_time_is_the_sum_of_logged_intervals() -> None:
    records = [
        {"step": 10, "steps_per_s": 2.0},
        {"step": 10, "validation": {}, "seconds": 3.0},
        {"step": 30, "steps_per_s": 4.0},
    ]
    assert seconds_spent(records) == 10 / 2 + 20 / 4


def test_names_are_no_html_and_no_columns(exported: Exported, tmp_path: Path) -> None:
    info = dataclasses.replace(INFO, class_names=("background", "<script>alert(1)</script>|x", "b\n# Heading"))
    path = tmp_path / "a--><img src=x>.onnx"
    path.write_bytes(b"1234")
    card = model_card(dataclasses.replace(exported, path=path, info=info), RunFolder(tmp_path))
    assert "<script" not in card
    assert "\n# Heading" not in card
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|x" in card
    assert card.count("<img") == 1
    assert "`a--><img src=x>.onnx`" in card  # as code, where it is text

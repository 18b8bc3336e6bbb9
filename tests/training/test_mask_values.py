"""Sets whose masks are not 0, 1, 2, ... through check, train, predict, evaluate and report, as somebody types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from knowsam.inference.files import predict_files
from knowsam.inference.predictor import Predictor
from knowsam.io import read_label
from knowsam.runs.cases import open_cases
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from support.cli import knowsam, train_small
from support.folders import make_folder, make_image, make_label, save_picture

Capture = pytest.CaptureFixture[str]


def make_set(root: Path, arrays: list[np.ndarray], suffix: str = ".png", **options: object) -> Path:
    for i, array in enumerate(arrays):
        save_picture(root / "images" / f"case_{i}.png", make_image(array.shape[:2], seed=i))
        save_picture(root / "masks" / f"case_{i}{suffix}", array, **options)
    return root


def disc(number: int) -> np.ndarray:
    rows, columns = np.mgrid[:64, :64]
    return (rows - 24 - 3 * number) ** 2 + (columns - 26 - 2 * number) ** 2 < 150


def test_values_with_gaps_all_the_way(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", mask_values=[0, 1, 5])
    checked = json.loads(knowsam(capsys, "check", data, "--json").out)
    assert [(row["first"], row["meaning"], row["files"]) for row in checked["mask_values"]] == [
        (0, "background", 4),
        (1, "class_1", 4),
        (5, "class_2", 4),
    ]
    assert train_small(capsys, data, tmp_path / "run").code == 0
    run = RunFolder(tmp_path / "run")
    _, info = load_student(run.student)
    assert (info.class_names, info.mask_values) == (("background", "class_1", "class_2"), (0, 1, 5))
    assert open_cases(run, 3).coding.values == (0, 1, 5)
    said = knowsam(capsys, "predict", run.path, data, "--out", tmp_path / "preds").out
    assert "mask values as in the training masks: 0 background, 1 class_1, 5 class_2" in said
    predictor = Predictor(run.path, "cpu")
    for item in predict_files(predictor, data, tmp_path / "again"):
        written = read_label(item.label).array
        assert set(np.unique(written)) <= {0, 1, 5}
    scores = json.loads(knowsam(capsys, "evaluate", data / "masks", data / "masks", "--json").out)
    assert scores["mean"]["dice"] == 1
    assert len(scores["classes"]) == 2


def jpeg(root: Path) -> Path:
    return make_set(root, [np.dstack([disc(i) * 255] * 3).astype(np.uint8) for i in range(6)], ".jpg", quality=80)


def gif(root: Path) -> Path:
    return make_set(root, [disc(i).astype(np.uint8) * 255 for i in range(6)], ".gif")


def one_bit_among_others(root: Path) -> Path:
    make_set(root, [disc(i) for i in range(6)], ".bmp")
    save_picture(root / "masks" / "case_1.bmp", np.dstack([disc(1) * 255] * 3).astype(np.uint8))
    return root


def three_greys(root: Path) -> Path:
    return make_set(root, [np.array([0, 128, 255], np.uint8)[make_label((64, 64))] for _ in range(6)])


def slips(root: Path) -> Path:
    make_set(root, [disc(i).astype(np.uint8) * 255 for i in range(6)])
    array = disc(2).astype(np.uint8) * 255
    array[:3, :4] = 32
    save_picture(root / "masks" / "case_2.png", array)
    return root


def once_jpeg(root: Path) -> Path:
    jpeg(root / "jpeg")
    arrays = [read_label(root / "jpeg" / "masks" / f"case_{i}.jpg").array.astype(np.uint8) for i in range(6)]
    return make_set(root / "data", arrays, ".tif", compression="tiff_lzw")


def numbered(root: Path) -> Path:
    arrays = []
    for i in range(6):
        array = np.zeros((64, 64), np.uint8)
        for number in range(5 + i % 3):
            array[8 * number : 8 * number + 6, 10:20] = number + 1
        arrays.append(array)
    return make_set(root, arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("maker", "option", "flag", "classes"),
    [
        (jpeg, None, None, 2),
        (gif, None, None, 2),
        (one_bit_among_others, None, None, 2),
        (three_greys, None, None, 3),
        (slips, "data.mask_threshold=128", "--mask-threshold=128", 2),
        (once_jpeg, "data.mask_threshold=128", "--mask-threshold=128", 2),
        (numbered, "data.instances=true", "--instances", 2),
    ],
)
def test_published_forms_train_after_at_most_the_option_that_the_message_names(
    tmp_path: Path, capsys: Capture, maker, option: str | None, flag: str | None, classes: int
) -> None:
    data = maker(tmp_path / "set")
    options = () if option is None else (option,)
    flags = () if flag is None else (flag,)
    if option is not None:
        refused = train_small(capsys, data, tmp_path / "refused")
        assert refused.code == 2
        assert f"type {option} (check, evaluate: {flag.replace('=', ' ')})" in refused.err
        checked = knowsam(capsys, "check", data)
        assert checked.code == 2
        assert "Ready to train" not in checked.out
    assert "Ready to train" in knowsam(capsys, "check", data, *flags).out
    assert train_small(capsys, data, tmp_path / "run", *options).code == 0
    assert open_cases(RunFolder(tmp_path / "run"), classes).coding.classes == classes
    assert knowsam(capsys, "predict", tmp_path / "run", data, "--out", tmp_path / "preds").code == 0
    assert knowsam(capsys, "evaluate", tmp_path / "preds", data / "masks", *flags).code == 0
    same = json.loads(knowsam(capsys, "evaluate", data / "masks", data / "masks", *flags, "--json").out)
    assert same["mean"]["dice"] == 1

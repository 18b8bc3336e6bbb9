"""A folder with files of strangers, through the commands: one sentence each, the others go on."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from knowsam.errors import InputError
from support.cli import knowsam, one_sentence
from support.folders import make_folder, make_image, save_picture


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two good images, a FIFO, a device, a dangling link, a picture that lies about its size."""
    folder = tmp_path / "mixed"
    for name in ("good_1.png", "good_2.png"):
        save_picture(folder / name, make_image())
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to("nowhere.png")
    content = (folder / "good_1.png").read_bytes()
    (folder / "cut.png").write_bytes(content[:-20])
    return folder


def test_predict_goes_on_and_ends_with_1(
    run: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = knowsam(capsys, "predict", run, mixed, "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 1
    told = ended.err.strip().splitlines()
    assert len(told) == 4
    for line, (name, said) in zip(
        told,
        (("cut", "its end is missing"), ("gone", "no such file"), ("pipe", "a FIFO was"), ("zero", "a device was")),
        strict=True,
    ):
        assert line.startswith(f"error: {mixed / name}.png: ")
        assert said in line
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["good_1.png", "good_2.png"]


def test_check_names_each_of_them(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data")
    for path in mixed.iterdir():
        if path.is_fifo():
            os.mkfifo(data / "images" / path.name)
        else:
            shutil.copy(path, data / "images" / path.name, follow_symlinks=False)
    ended = knowsam(capsys, "check", data)
    assert ended.code == 2
    assert "Error: 4 images cannot be read" in ended.out
    assert "a FIFO was found" in ended.out
    assert "Traceback" not in ended.err


def test_names_are_no_formulas_in_tables_and_do_not_steer_the_terminal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "=cmd|'!A0\x1b[2J"
    save_picture(tmp_path / "in" / f"{name}.png", make_image())
    (tmp_path / "in" / f"{name}_b.png").write_bytes(b"")
    ended = knowsam(capsys, "predict", run, tmp_path / "in", "--out", tmp_path / "out", "--uncertainty")
    assert ended.code == 1
    assert "\x1b" not in ended.out + ended.err
    assert "=cmd|'!A0\\x1b[2J" in ended.err
    with (tmp_path / "out" / "cases.csv").open(newline="", encoding="utf-8") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {f"'{name}"}
    truth = tmp_path / "truth"
    truth.mkdir()
    shutil.copy(tmp_path / "out" / f"{name}.png", truth)
    scored = knowsam(capsys, "evaluate", tmp_path / "truth", truth, "--out", tmp_path / "scores", "--classes", "3")
    assert scored.code == 0
    assert "\x1b" not in scored.out
    assert f"'{name}" in (tmp_path / "scores" / "scores.csv").read_text(encoding="utf-8")


def test_groups_that_check_writes_are_found_again_whatever_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder(tmp_path / "data")
    pixels = np.asarray(make_image(seed=5))
    for stem in ("=a", "-b", "@c"):
        save_picture(data / "images" / f"{stem}.png", pixels)
    knowsam(capsys, "check", data, "--write-groups")
    assert "'=a" in (data / "groups.csv").read_text(encoding="utf-8")
    ended = knowsam(capsys, "check", data)
    assert "have no image" not in ended.out
    assert "not in it" not in ended.out


def test_an_image_that_vanished_is_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = knowsam(capsys, "predict", run, tmp_path / "gone.png", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "gone.png" in one_sentence(ended.err)


def test_a_single_input_that_is_no_file_is_named(
    run: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("pipe", "a FIFO was found"), ("gone", "there is no such file"), ("zero", "a device was found")):
        ended = knowsam(capsys, "predict", run, mixed / f"{name}.png", "--out", tmp_path / "out")
        assert ended.code == 2
        assert said in one_sentence(ended.err)


def test_a_name_with_line_ends_leaves_a_sentence_one_line() -> None:
    error = InputError("a.pth: 1 keys unused (llections\nOrdered\r\nDict) were found.")
    assert str(error) == r"a.pth: 1 keys unused (llections\nOrdered\r\nDict) were found."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

"""Exit code 1 means that some inputs failed and nothing else; what cannot be written or printed is one sentence."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import knowsam as package
from knowsam import storage
from support.cli import knowsam, one_sentence, train_small
from support.folders import make_folder, make_image, make_label, save_picture

Capture = pytest.CaptureFixture[str]
LATIN = os.fsdecode(b"caf\xe9_01")
"""A file name that is not UTF-8, as Python has it."""


# --- where output cannot be written ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "predict RUN DATA --out CLOSED",
        "train DATA --out CLOSED",
        "check DATA --html CLOSED/page.html",
        "evaluate DATA/masks DATA/masks --out CLOSED",
        "export RUN --to CLOSED/model.onnx",
        "suggest RUN DATA --out CLOSED",
        "report RUN --out CLOSED/report.html",
        "compare DATA --methods supervised --out CLOSED",
        "sam pretrain --out CLOSED",
    ],
)
@pytest.mark.parametrize("way", ["file", "permission"])
def test_output_that_cannot_be_written_is_told_before_any_work(
    words: str, way: str, tmp_path: Path, run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    if way == "file":
        closed.write_text("mine")
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    named = words.replace("RUN", str(run)).replace("CLOSED", str(closed))
    # The data are broken: whoever read them first would say so instead.
    data = make_folder(tmp_path / "data")
    for path in data.glob("*/*"):
        path.write_bytes(b"broken")
    ended = knowsam(capsys, *named.replace("DATA", str(data)).split())
    assert ended.code == 2
    assert "expected a folder to write to" in one_sentence(ended.err)
    assert str(closed) in ended.err
    assert closed.exists() == (way == "file")


def test_a_disk_that_is_full_is_one_sentence_with_its_file(
    tmp_path: Path, run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = make_folder(tmp_path / "data")
    monkeypatch.setattr(storage.os, "replace", full)
    ended = knowsam(capsys, "predict", run, data, "--out", tmp_path / "preds")
    assert ended.code == 2  # not 1: no input failed
    sentence = one_sentence(ended.err)
    assert sentence.startswith(str(tmp_path / "preds" / "case_0.png"))
    assert "No space left on device" in sentence
    assert not (tmp_path / "preds").exists()


def test_a_mistake_of_the_package_is_a_traceback_and_70(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(package, "check", broken)
    ended = knowsam(capsys, "check", tmp_path)
    assert ended.code == 70
    assert "Traceback" in ended.err
    assert "ZeroDivisionError: a bug" in ended.err


@pytest.mark.parametrize(
    "error", [MemoryError("4 GB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nstack")]
)
def test_memory_that_ran_out_is_one_sentence(
    error: Exception, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(package, "check", greedy)
    ended = knowsam(capsys, "check", tmp_path)
    assert ended.code == 2
    assert one_sentence(ended.err).startswith("memory: it ran out (")


@pytest.mark.subprocess
def test_a_reader_that_leaves_is_no_failed_input() -> None:
    ended = subprocess.run(
        ["bash", "-c", '"$0" -m knowsam settings | true; exit ${PIPESTATUS[0]}', sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode in (0, 141)  # 0 where all was written before `true` had ended
    assert ended.stderr == ""


@pytest.mark.parametrize("device", ["cuda:9", "gpu", "tpu"])
def test_a_device_that_is_not_there_is_one_sentence(device: str, tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    for command in (
        ["predict", run, data, "--out", tmp_path / "out"],
        ["suggest", run, data],
        ["calibrate", run, "--data", data],
    ):
        ended = knowsam(capsys, *command, "--device", device)
        assert ended.code == 2, command
        assert f"device: '{device}' was found" in one_sentence(ended.err)
    with pytest.raises(package.InputError, match=f"device: '{device}' was found"):
        package.load(run, device)


# --- names that cannot be printed ------------------------------------------------------------------------------------


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A data folder with one name that is not UTF-8."""
    data = make_folder(tmp_path / "data", n_images=6, n_masks=4)
    for kind, array in (("images", make_image(seed=77)), ("masks", make_label())):
        save_picture(data / kind / "latin.png", array)
        try:
            (data / kind / "latin.png").rename(data / kind / f"{LATIN}.png")
        except OSError:
            pytest.skip("this file system takes names in UTF-8 only")
    return data


@pytest.mark.slow
def test_no_table_is_lost_to_a_name_that_is_not_utf8(latin: Path, tmp_path: Path, capsys: Capture) -> None:
    page, run, preds, scores = (tmp_path / name for name in ("page.html", "run", "preds", "scores"))
    assert knowsam(capsys, "check", latin, "--html", page).code == 0
    assert "caf\\udce9_01" in page.read_text(encoding="utf-8")
    assert train_small(capsys, latin, run).code == 0
    predicted = knowsam(capsys, "predict", run, latin / "images", "--out", preds, "--uncertainty", "--json")
    assert predicted.code == 0, predicted.err
    assert f"{latin}/images/{LATIN}.png" in {one["image"] for one in json.loads(predicted.out)["predicted"]}
    assert (preds / f"{LATIN}.png").exists()
    assert "caf\\udce9_01" in (preds / "cases.csv").read_text(encoding="utf-8")
    assert knowsam(capsys, "evaluate", preds, latin / "masks", "--out", scores).code == 0
    assert "caf\\udce9_01" in (scores / "scores.csv").read_text(encoding="utf-8")
    assert knowsam(capsys, "report", run).code == 0
    assert knowsam(capsys, "train", "--resume", run, "--steps", "3", "-q").code == 0


@pytest.mark.slow
def test_folders_whose_names_are_not_utf8(tmp_path: Path, capsys: Capture) -> None:
    data, run = make_folder(tmp_path / "data"), tmp_path / f"run_{LATIN}"
    try:
        data = data.rename(tmp_path / f"data_{LATIN}")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    assert train_small(capsys, data, run).code == 0
    assert knowsam(capsys, "train", "--resume", run, "--steps", "3", "-q").code == 0
    ended = knowsam(capsys, "predict", run, data, "--out", tmp_path / f"preds_{LATIN}")
    assert ended.code == 0, ended.err


@pytest.mark.subprocess
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_of_another_encoding_gets_escapes(encoding: str, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=4, n_masks=4)
    for kind in ("images", "masks"):
        (data / kind / "case_0.png").rename(data / kind / "ε\N{GRINNING FACE}.png")
    (data / "images" / "ε\N{GRINNING FACE}.png").write_bytes(b"broken")  # so that it is named
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    for option in ((), ("--json",)):
        ended = subprocess.run(
            [sys.executable, "-m", "knowsam", "check", str(data), *option],
            capture_output=True, text=True, encoding="ascii", env=environment, check=False,
        )  # fmt: skip
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        assert "\\u03b5" in ended.stdout
    assert "ε\N{GRINNING FACE}" in json.dumps(json.loads(ended.stdout), ensure_ascii=False)


# --- runs whose data moved or changed --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_goes_on_where_its_data_are_now(tmp_path: Path, capsys: Capture) -> None:
    data, run = make_folder(tmp_path / "data", n_masks=6), tmp_path / "run"
    assert train_small(capsys, data, run).code == 0
    moved = data.rename(tmp_path / "elsewhere")
    ended = knowsam(capsys, "train", "--resume", run, "--steps", "3", "--quiet")
    assert ended.code == 2
    assert f"knowsam train --resume {run} --data DATA" in one_sentence(ended.err)
    assert knowsam(capsys, "train", "--resume", run, "--steps", "3", "--quiet", "--data", moved).code == 0
    assert f"path: {moved}" in (run / "config.yaml").read_text()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"step": 2, "event": "data moved", "from": str(data), "to": str(moved)} in records
    # From now on it is known where they are.
    assert package.resume(run, 4, quiet=True).steps == 4


def test_other_data_under_the_same_names_are_refused(tmp_path: Path, capsys: Capture) -> None:
    data, run = make_folder(tmp_path / "data", n_masks=6), tmp_path / "run"
    assert train_small(capsys, data, run).code == 0
    other = make_folder(tmp_path / "other", n_masks=6)
    for kind in ("images", "masks"):
        (other / kind / "case_1.png").unlink()
    ended = knowsam(capsys, "train", "--resume", run, "--steps", "3", "--data", other)
    assert ended.code == 2
    assert "case_1 of the run's split is not there" in one_sentence(ended.err)


@pytest.mark.slow
def test_a_changed_mask_is_noticed_and_can_be_accepted(tmp_path: Path) -> None:
    data, run = make_folder(tmp_path / "data", n_images=8, n_masks=6), tmp_path / "run"
    arguments: dict[str, Any] = {"size": 32, "batch": (2, 2), "method": "mean_teacher", "sam": "none", "quiet": True}
    package.train(data, run, steps=2, settings={"train.report": False}, **arguments)
    split = json.loads((run / "split.json").read_text())
    stem = split["val"][0]
    mask = data / "masks" / f"{stem}.png"
    content = mask.read_bytes()
    os.utime(mask, (1, 1))  # the time of a file says nothing
    assert package.resume(run, 3, quiet=True).steps == 3
    save_picture(mask, make_label(classes=3).T.copy().reshape(make_label().shape))
    with pytest.raises(package.InputError, match=rf"mask {stem} is not what .*run began with.*--accept-changes"):
        package.resume(run, 4, quiet=True)
    mask.write_bytes(content)
    image = data / "images" / f"{split['unlabelled'][0]}.png"
    save_picture(image, make_image(seed=123))
    with pytest.raises(package.InputError, match=f"image {image.stem} is not what"):
        package.resume(run, 4, quiet=True)
    assert package.resume(run, 4, quiet=True, accept_changes=True).steps == 4
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"step": 3, "event": "data changed", "files": [f"image {image.stem}"]} in records
    assert package.resume(run, 5, quiet=True).steps == 5


@pytest.mark.slow
def test_a_run_from_before_there_was_a_record_goes_on(tmp_path: Path, capsys: Capture) -> None:
    data, run = make_folder(tmp_path / "data", n_masks=6), tmp_path / "run"
    assert train_small(capsys, data, run).code == 0
    (run / "data.json").unlink()
    save_picture(data / "masks" / "case_0.png", make_label())
    assert knowsam(capsys, "train", "--resume", run, "--steps", "3", "--quiet").code == 0
    (run / "data.json").write_text("{}")
    ended = knowsam(capsys, "train", "--resume", run, "--steps", "4", "--quiet")
    assert ended.code == 2
    assert "data.json: cannot be read" in one_sentence(ended.err)


def test_options_of_resume_without_it_are_told(tmp_path: Path, capsys: Capture) -> None:
    for option in (["--data", tmp_path], ["--accept-changes"]):
        ended = knowsam(capsys, "train", tmp_path, "--out", tmp_path / "run", *option)
        assert ended.code == 2
        assert f"train: {option[0]} was given without --resume" in one_sentence(ended.err)


@pytest.mark.parametrize("batch", ["1+0", "1+1"])
def test_one_image_of_16_px_trains(batch: str, tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_masks=4)
    ended = knowsam(
        capsys, "train", data, "--out", tmp_path / "run", "--method", "supervised", "--size", "16", "--steps", "3",
        "--batch", batch, "sam=none", "--quiet", "train.report=false",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert knowsam(capsys, "predict", tmp_path / "run", data, "--out", tmp_path / "preds").code == 0


def test_the_labels_used_count_those_for_validation(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=8, n_masks=6)
    ended = knowsam(
        capsys, "train", data, "--out", tmp_path / "run", "--method", "supervised", "--size", "32", "--steps", "5",
        "--batch", "2+0", "sam=none", "train.report=false",
    )  # fmt: skip
    assert "labels used: 6 masks, 5 to train on and 1 to validate with" in ended.out
    validations = [line for line in ended.out.splitlines() if "validation Dice" in line and line.startswith("step")]
    assert len(validations) == 5

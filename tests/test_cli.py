"""Every command end to end on tiny data, through the real entry point: exit codes, files, and what is said."""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from support.cli import knowsam, one_sentence, train_small
from support.comparisons import in_this_process
from support.folders import make_folder, make_image, make_label, make_nifti_folder, save_nifti, save_picture

Capture = pytest.CaptureFixture[str]


# --- the main path -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_train_predict_evaluate(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=8, n_masks=5)
    checked = knowsam(capsys, "check", data)
    assert checked.code == 0
    assert "Ready to train" in checked.out

    out = tmp_path / "runs" / "a"
    trained = knowsam(
        capsys, "train", data, "--out", out, "--size", "32x48", "--steps", "2", "--batch", "2+1", "--seed", "3",
        "sam=tiny", "options.ugda_start=0", "train.log_every=1",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert "done: 2 steps" in trained.out
    files = {path.name for path in out.iterdir()}
    assert files == {
        "config.yaml", "environment.json", "split.json", "data.json", "metrics.jsonl", "validation.jsonl",
        "checkpoint.pt",
        "student.safetensors", "student_last.safetensors", "calibration.json", "report.html",
    }  # fmt: skip

    predicted = knowsam(capsys, "predict", out, data, "--out", tmp_path / "preds")
    assert predicted.code == 0
    assert sorted(path.name for path in (tmp_path / "preds").iterdir()) == [f"case_{i}.png" for i in range(8)]
    label = np.asarray(Image.open(tmp_path / "preds" / "case_0.png"))
    assert label.shape == (32, 40)
    assert label.max() < 3

    scored = knowsam(capsys, "evaluate", tmp_path / "preds", data / "masks", "--out", tmp_path / "scores")
    assert scored.code == 0
    assert "Dice" in scored.out
    with (tmp_path / "scores" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["case"], row["class"]) for row in rows} == {(f"case_{i}", c) for i in range(5) for c in ("1", "2")}
    report = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert report["n_cases"] == 5
    assert report["unit"] == "px"


def test_train_flags_override_keys_and_file(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    settings = tmp_path / "settings.yaml"
    settings.write_text("method: supervised\ntrain: {steps: 50, seed: 7, lr: 0.5}\n")
    ended = train_small(capsys, data, tmp_path / "run", "--config", str(settings), "train.lr=0.02", "--labelled", "2")
    assert ended.code == 0, ended.err
    from knowsam.runs.folder import RunFolder

    config = RunFolder(tmp_path / "run").read_config()
    assert (config.method, config.train.steps, config.train.seed, config.train.lr) == ("supervised", 2, 7, 0.02)
    assert len(json.loads((tmp_path / "run" / "split.json").read_text())["labelled"]) == 2


def test_train_takes_the_options_of_compare(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from knowsam.comparison import loop
    from knowsam.runs.folder import RunFolder

    data = make_folder(tmp_path / "data", n_masks=6)
    options = (
        "--sam", "none", "--method", "supervised", "--labelled", "2", "--seed", "3", "--size", "32", "--steps", "2",
        "--batch", "2+2", "--quiet", "train.report=false",
    )  # fmt: skip
    ended = knowsam(capsys, "train", data, "--out", tmp_path / "run", *options, "sam=tiny", "sam.lr=0.5")
    assert ended == (0, "", "")
    monkeypatch.setattr(loop, "compare", functools.partial(loop.compare, engine=in_this_process))
    ended = knowsam(capsys, "compare", data, "--out", tmp_path / "grid", *options)
    assert ended == (0, "", "")
    alone = RunFolder(tmp_path / "run").read_config()
    of_grid = RunFolder(tmp_path / "grid" / "runs" / "supervised_sam-none_labelled-2_seed-3").read_config()
    assert (alone.sam.name, alone.sam.lr) == ("none", 0.5)  # the flag wins, as the other flags do
    assert (of_grid.method, of_grid.train, of_grid.data.size) == (alone.method, alone.train, alone.data.size)
    ended = knowsam(capsys, "compare", tmp_path / "grid", "--table-only")
    assert ended.code == 0
    assert "supervised" in ended.out


@pytest.mark.slow
def test_resume_trains_longer(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    assert train_small(capsys, data, tmp_path / "run").code == 0
    ended = knowsam(capsys, "train", "--resume", tmp_path / "run", "--steps", "4", "--quiet")
    assert ended.code == 0, ended.err
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4


@pytest.mark.slow
@pytest.mark.subprocess
def test_interrupted_run_saves_and_ends_with_130(tmp_path: Path, capsys: Capture) -> None:
    data, out = make_folder(tmp_path / "data"), tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "knowsam", "train", data, "--out", out, "--size", "32", "--batch", "1+1",
         "--steps", "5000", "sam=none", "train.log_every=1", "method=supervised"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"knowsam train --resume {out}" in text
    done = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < done < 5000
    assert knowsam(capsys, "train", "--resume", out, "--steps", str(done + 1), "--quiet").code == 0


def test_interrupted_before_there_is_anything_to_save(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("knowsam.training.data.load_data", interrupted)
    assert train_small(capsys, make_folder(tmp_path / "data"), tmp_path / "run").code == 130
    assert not (tmp_path / "run").exists()


# --- predict -------------------------------------------------------------------------------------------------------


def test_predict_nifti_keeps_shape_affine_and_codes(tmp_path: Path, run: Path, capsys: Capture) -> None:
    volume = make_image((20, 24, 5), seed=1).astype(np.int16)
    source = save_nifti(tmp_path / "in" / "vol.nii.gz", volume, codes=(3, 2))
    ended = knowsam(capsys, "predict", run, source, "--out", tmp_path / "out", "--overlay", "--probabilities")
    assert ended.code == 0, ended.err
    given, label = nib.load(source), nib.load(tmp_path / "out" / "vol.nii.gz")
    assert label.shape == (20, 24, 5)
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(label.affine, given.affine)
    for key in ("sform_code", "qform_code", "xyzt_units"):
        assert label.header[key] == given.header[key]
    soft = nib.load(tmp_path / "out" / "vol_prob.nii.gz")
    assert soft.shape == (20, 24, 5, 3)
    probs = np.asarray(soft.dataobj)
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probs.argmax(axis=-1), np.asarray(label.dataobj))
    sheet = np.asarray(Image.open(tmp_path / "out" / "vol_overlay.png"))
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3


def test_predict_extras_of_a_picture_are_not_scored(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=2, n_masks=2)
    out = tmp_path / "out"
    assert knowsam(capsys, "predict", run, data, "--out", out, "--overlay", "--probabilities").code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "case_0.png", "case_0_overlay.png", "case_0_prob.tif", "case_1.png", "case_1_overlay.png", "case_1_prob.tif",
    ]  # fmt: skip
    assert np.asarray(Image.open(out / "case_0_overlay.png")).shape == (19 * 32, 19 * 40, 3)
    assert knowsam(capsys, "evaluate", out, data / "masks").code == 0


def test_predict_only_listed_stems(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    only = tmp_path / "test.txt"
    only.write_text("# the test set\ncase_1\ncase_3.png\n")
    ended = knowsam(capsys, "predict", run, data, "--out", tmp_path / "out", "--only", only)
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case_1.png", "case_3.png"]
    only.write_text("case_1\ncase_99\n")
    ended = knowsam(capsys, "predict", run, data, "--out", tmp_path / "out", "--only", only)
    assert ended.code == 1
    assert "case_99" in one_sentence(ended.err)


def test_predict_in_bf16_is_close_and_not_the_same(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=1, n_masks=0)
    probabilities = []
    for amp in ("no", "bf16"):
        out = tmp_path / amp
        ended = knowsam(capsys, "predict", run, data, "--out", out, "--amp", amp, "--probabilities")
        assert ended.code == 0, ended.err
        probabilities.append(tifffile.imread(out / "case_0_prob.tif").astype(np.float32))
    difference = np.abs(probabilities[0] - probabilities[1]).max()
    assert 0 < difference < 0.05 * probabilities[0].max()


def test_predict_goes_on_after_a_broken_file(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=3, n_masks=0)
    truncate(data / "images" / "case_1.png")
    ended = knowsam(capsys, "predict", run, data / "images", "--out", tmp_path / "out")
    assert ended.code == 1
    assert "case_1.png" in one_sentence(ended.err)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case_0.png", "case_2.png"]


def test_predict_refuses_to_write_over_its_input(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=2, n_masks=0)
    before = (data / "images" / "case_0.png").read_bytes()
    ended = knowsam(capsys, "predict", run, data / "images" / "case_0.png", "--out", data / "images")
    assert ended.code == 2
    one_sentence(ended.err)
    assert (data / "images" / "case_0.png").read_bytes() == before


def test_predict_two_runs_of_one_command_agree(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=2, n_masks=0)
    for out in ("first", "second", "second"):  # the second time over what lies there
        assert knowsam(capsys, "predict", run / "student.safetensors", data, "--out", tmp_path / out).code == 0
    for name in ("case_0.png", "case_1.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


# --- bad input: one sentence that names the file, exit code 2, nothing half-written --------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_image(data: Path) -> str:
    truncate(data / "images" / "case_0.png")
    return "case_0.png"


def truncated_unlabelled_image(data: Path) -> str:
    truncate(data / "images" / "case_5.png")
    return "case_5.png"


def mask_of_another_size(data: Path) -> str:
    save_picture(data / "masks" / "case_1.png", make_label((32, 32)))
    return "masks/case_1.png"


def mask_with_unknown_value(data: Path) -> str:
    label = make_label()
    label[0, 0] = 200
    save_picture(data / "masks" / "case_2.png", label)
    return "masks/case_2.png"


def mask_without_image(data: Path) -> str:
    save_picture(data / "masks" / "stranger.png", make_label())
    return "masks/stranger.png"


def no_labelled_image(data: Path) -> str:
    shutil.rmtree(data / "masks")
    return str(data)


def empty_folder(data: Path) -> str:
    shutil.rmtree(data)
    data.mkdir()
    return str(data)


def no_such_folder(data: Path) -> str:
    shutil.rmtree(data)
    return str(data)


def lossy_mask(data: Path) -> str:
    (data / "masks" / "case_0.png").unlink()
    save_picture(data / "masks" / "case_0.jpg", make_label())
    return "masks/case_0.jpg"


SPOILERS = [
    truncated_image, truncated_unlabelled_image, mask_of_another_size, mask_with_unknown_value, mask_without_image,
    no_labelled_image, empty_folder, no_such_folder, lossy_mask,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_bad_data_is_one_sentence_and_no_run(spoil, tmp_path: Path, capsys: Capture) -> None:  # type: ignore[no-untyped-def]
    data = make_folder(tmp_path / "data")
    named = spoil(data)
    ended = train_small(capsys, data, tmp_path / "runs" / "a")
    assert ended.code == 2
    assert named in one_sentence(ended.err)
    assert not (tmp_path / "runs").exists()

    checked = knowsam(capsys, "check", data)
    assert checked.code == 2
    assert Path(named).name in re.sub(r"\s+", " ", checked.out)


def test_nan_in_a_volume(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_nifti_folder(tmp_path / "data")
    volume = np.ones((20, 24, 5), np.float32)
    volume[3, 4, 2] = np.nan
    save_nifti(data / "images" / "vol_3.nii.gz", volume)
    ended = train_small(capsys, data, tmp_path / "run")
    assert ended.code == 2
    assert "vol_3.nii.gz" in one_sentence(ended.err)
    assert not (tmp_path / "run").exists()
    ended = knowsam(capsys, "predict", run, data / "images" / "vol_3.nii.gz", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "vol_3.nii.gz" in one_sentence(ended.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.stepz=3"], ["'train.stepz'", "did you mean 'train.steps'"]),
        (["lr=0.1"], ["'lr'", "did you mean 'train.lr'"]),
        (["options.entropy_wight=1"], ["did you mean 'options.entropy_weight'"]),
        (["method=knowsan"], ["knowsan", "did you mean 'knowsam'"]),
        (["sam=/no/such/place"], ["/no/such/place"]),
        (["--size", "100"], ["data.size", "multiples of 16"]),
        (["--batch", "four"], ["train.batch"]),
        (["--labelled", "77"], ["77"]),
        (["--labelled", "nowhere.txt"], ["nowhere.txt"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["data.classes=2"], ["masks/case_0.png"]),
        (["data.val_fraction=1.5"], ["data.val_fraction"]),
        (["word"], ["'word'", "key=value"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_setting_is_one_sentence_and_no_run(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: Capture
) -> None:
    data = make_folder(tmp_path / "data")
    ended = train_small(capsys, data, tmp_path / "run", *arguments)
    assert ended.code == 2
    sentence = one_sentence(ended.err)
    for word in words:
        assert word in sentence
    assert not (tmp_path / "run").exists()


def test_occupied_run_folder(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    ended = train_small(capsys, data, run)
    assert ended.code == 2
    assert str(run) in one_sentence(ended.err)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("dear reader")
    ended = train_small(capsys, data, tmp_path / "notes")
    assert ended.code == 2
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["letter.txt"]


@pytest.mark.slow
def test_checkpoint_of_another_class_count(tmp_path: Path, capsys: Capture) -> None:
    data, out = make_folder(tmp_path / "data", n_masks=6), tmp_path / "run"
    assert train_small(capsys, data, out).code == 0
    for path in (data / "masks").iterdir():
        save_picture(path, make_label(classes=2))
    ended = knowsam(capsys, "train", "--resume", out, "--steps", "4", "--quiet", "--accept-changes")
    assert ended.code == 2
    sentence = one_sentence(ended.err)
    assert "checkpoint.pt" in sentence
    assert "3 classes" in sentence


def test_resume_mistakes(tmp_path: Path, run: Path, capsys: Capture) -> None:
    for arguments, word in (
        (["--resume", tmp_path / "none"], str(tmp_path / "none")),
        (["--resume", run], "2 of 2 steps"),
        (["--resume", run, "--seed", "1"], "--seed"),
        (["--resume", run, "--sam", "none"], "--sam"),
        ([], "DATA"),
        ([tmp_path], "--out"),
    ):
        ended = knowsam(capsys, "train", *arguments)
        assert ended.code == 2
        assert word in one_sentence(ended.err)


def test_predict_and_evaluate_mistakes(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(b"no weights at all")
    for command, word in (
        (["predict", tmp_path / "empty", data], "student.safetensors"),
        (["predict", weights, data], str(weights)),
        (["predict", run, tmp_path / "empty"], str(tmp_path / "empty")),
        (["predict", run, tmp_path / "nothing.png"], "nothing.png"),
        (["predict", run, data, "--only", tmp_path / "none.txt"], "none.txt"),
        (["predict", run, data, "--amp", "fp8"], "fp8"),
        (["evaluate", tmp_path / "empty", data / "masks"], str(tmp_path / "empty")),
        (["evaluate", data / "masks", data / "masks", "--label-values", "a,b"], "a,b"),
    ):
        ended = knowsam(capsys, *command, "--out", tmp_path / "out")
        assert ended.code == 2, command
        assert word in one_sentence(ended.err)
        assert not (tmp_path / "out").exists()


# --- not errors, but said plainly ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_unlabelled_image_trains_supervised_and_says_so(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=4, n_masks=4)
    ended = knowsam(
        capsys, "train", data, "--out", tmp_path / "run", "--size", "32", "--steps", "2", "--batch", "1+1", "sam=none"
    )
    assert ended.code == 0, ended.err
    assert "No unlabelled image" in " ".join(ended.out.split())


@pytest.mark.slow
def test_class_that_never_occurs_is_said(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=5, n_masks=4)
    arguments = ("--size", "32", "--steps", "2", "--batch", "1+1", "sam=none", "data.classes=4")
    ended = knowsam(capsys, "train", data, "--out", tmp_path / "run", *arguments)
    assert ended.code == 0, ended.err
    assert "never occurs" in " ".join(ended.out.split())


# --- imports -------------------------------------------------------------------------------------------------------


def modules_after(*arguments: str | Path) -> set[str]:
    """Names of the top-level modules that `knowsam ARGUMENTS...` has imported when it ends."""
    code = (
        "import sys\nsys.argv = ['knowsam', *sys.argv[1:]]\nfrom knowsam.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('MODULES', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return set(ended.stdout.rsplit("MODULES", 1)[1].split())


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "command",
    [
        [],
        ["check"],
        ["train"],
        ["predict"],
        ["evaluate"],
        ["report"],
        ["compare"],
        ["settings"],
        ["sam", "pretrain"],
        ["sam", "distil"],
    ],
    ids=str,
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    heavy = {"torch", "transformers", "accelerate", "kornia", "numpy", "scipy", "matplotlib"}
    assert not modules_after(*command, "--help") & heavy


@pytest.mark.slow
@pytest.mark.subprocess
def test_predict_imports_no_training_dependency(tmp_path: Path, run: Path) -> None:
    source = save_picture(tmp_path / "image.png", make_image())
    modules = modules_after("predict", run, source, "--out", tmp_path / "out", "--overlay", "--uncertainty")
    assert "torch" in modules
    assert not modules & {"transformers", "kornia", "accelerate", "matplotlib"}
    assert (tmp_path / "out" / "image.png").exists()


@pytest.mark.slow
@pytest.mark.subprocess
def test_module_entry_point_reports_bad_input(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "knowsam", "train", str(tmp_path / "none"), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert str(tmp_path / "none") in one_sentence(ended.stderr)
    assert ended.stdout == ""


# --- around the commands -------------------------------------------------------------------------------------------


def test_check_json_is_pure_and_complete(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    ended = knowsam(capsys, "check", data, "--json")
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(ended.out)
    assert (report["ok"], report["counts"]["images"]) == (True, 6)
    assert [one["name"] for one in report["classes"]] == ["background", "class_1", "class_2"]

    for i in range(6):
        truncate(data / "images" / f"case_{i}.png")
    ended = knowsam(capsys, "check", data, "--json")
    assert (ended.code, ended.err) == (2, "")
    broken = next(one for one in json.loads(ended.out)["findings"] if one["kind"] == "unreadable-image")
    assert (broken["severity"], broken["n_files"], len(broken["details"])) == ("error", 6, 6)


def test_check_counts_the_split_that_training_would_draw(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_masks=6)
    counts = [
        json.loads(knowsam(capsys, "check", data, "--json", *words).out)["counts"]["split: labelled"]["images"]
        for words in ([], ["--val-fraction", "0.5"])
    ]
    assert counts == [5, 3]
    assert "val_fraction is 1.0" in knowsam(capsys, "check", data, "--val-fraction", "1").out


def test_check_label_values_and_names(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", mask_values=[0, 85, 170])
    assert knowsam(capsys, "check", data, "--label-values", "0,85,171").code == 2
    ended = knowsam(capsys, "check", data, "--label-values", "0,170,85", "--classes", "ground,liver,tumour", "--json")
    assert ended.code == 0
    assert [(one["name"], one["value"]) for one in json.loads(ended.out)["classes"]] == [
        ("ground", 0), ("liver", 170), ("tumour", 85),
    ]  # fmt: skip


def test_check_writes_a_page(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    ended = knowsam(capsys, "check", data, "--html", tmp_path / "check.html")
    assert ended.code == 0
    assert str(tmp_path / "check.html") in ended.out.replace("\n", "")
    assert "Ready to train." in (tmp_path / "check.html").read_text()


def test_evaluate_json_is_the_content_of_the_file(tmp_path: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data")
    ended = knowsam(capsys, "evaluate", data / "masks", data / "masks", "--out", tmp_path / "scores", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert json.loads(ended.out)["mean"]["dice"] == 1


@pytest.mark.parametrize("flag", ["--quiet", "-q"])
def test_quiet_commands_say_nothing(flag: str, tmp_path: Path, run: Path, capsys: Capture) -> None:
    data, masks = make_folder(tmp_path / "data", n_images=4, n_masks=4), tmp_path / "data" / "masks"
    for command in (
        ["check", data], ["predict", run, data, "--out", tmp_path / "out"], ["evaluate", masks, masks],
        ["train", data, "--out", tmp_path / "run", "--size", "32", "--steps", "1", "--batch", "1+0", "sam=none"],
    ):  # fmt: skip
        assert knowsam(capsys, *command, flag) == (0, "", ""), command
    truncate(data / "images" / "case_0.png")
    ended = knowsam(capsys, "check", data, flag)
    assert (ended.code, ended.out) == (2, "")
    assert "case_0.png" in one_sentence(ended.err)


def test_predict_mixes_good_and_broken_files(tmp_path: Path, run: Path, capsys: Capture) -> None:
    data = make_folder(tmp_path / "data", n_images=5, n_masks=0)
    for name in ("case_1", "case_3"):
        truncate(data / "images" / f"{name}.png")
    ended = knowsam(capsys, "predict", run, data, "--out", tmp_path / "out")
    assert ended.code == 1
    assert ended.out == f"3 predicted into {tmp_path / 'out'}\n"
    named = [line for line in ended.err.splitlines() if line.strip()]
    assert [Path(line.split(": ")[1]).name for line in named] == ["case_1.png", "case_3.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case_0.png", "case_2.png", "case_4.png"]

    for name in ("case_0", "case_2", "case_4"):
        truncate(data / "images" / f"{name}.png")
    ended = knowsam(capsys, "predict", run, data, "--out", tmp_path / "none")
    assert (ended.code, ended.out) == (2, "")
    assert len([line for line in ended.err.splitlines() if line.startswith("error: ")]) == 5
    assert not (tmp_path / "none").exists()


def test_settings_are_listed(capsys: Capture) -> None:
    ended = knowsam(capsys, "settings")
    assert ended.code == 0
    assert "train.lr = 0.01  (number > 0)\n    Learning rate of the students" in ended.out
    assert "options.box" not in ended.out
    ended = knowsam(capsys, "settings", "bcp")
    assert "options.box = 0.666667  (number > 0, <= 1)\n    beta: height" in ended.out
    assert "preset=paper changes\n    train.pretrain = 0.25\n" in ended.out
    groups = json.loads(knowsam(capsys, "settings", "cps", "--json").out)
    assert [group["title"] for group in groups] == ["run", "data", "sam", "train", "options of cps"]
    assert groups[-1]["changes"]["short"]["options.ramp"] == "true"
    assert next(one["default"] for one in groups[-1]["settings"] if one["name"] == "options.pseudo_weight") == 1.5
    ended = knowsam(capsys, "settings", "knowsan")
    assert ended.code == 2
    assert "did you mean 'knowsam'" in one_sentence(ended.err)


def test_version(capsys: Capture) -> None:
    from knowsam import __version__

    assert knowsam(capsys, "--version") == (0, f"knowsam {__version__}\n", "")


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What `knowsam ARGUMENTS...` writes to a terminal on stderr."""
    import os
    import pty

    ours, theirs = pty.openpty()
    changed = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    subprocess.run(
        [sys.executable, "-m", "knowsam", *arguments],
        stderr=theirs, stdout=subprocess.DEVNULL, check=False, env=changed | {"TERM": "xterm"} | environment,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:  # On Linux the end of a terminal that was closed on the other side.
        pass
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a matter of Unix")
def test_errors_are_red_on_a_terminal_and_plain_elsewhere(tmp_path: Path, capsys: Capture) -> None:
    arguments = ("evaluate", str(tmp_path / "none"), str(tmp_path))
    plain = knowsam(capsys, *arguments).err
    assert "\033" not in plain
    sentence = one_sentence(plain)
    assert on_a_terminal(*arguments) == f"\033[1;31merror:\033[0m {sentence}\n"
    assert on_a_terminal(*arguments, NO_COLOR="1") == plain
    assert on_a_terminal(*arguments, TERM="dumb") == plain


def completed(words: str) -> str:
    """What bash would be offered after `words`."""
    code = "import sys; sys.argv[0] = 'knowsam'; from knowsam.cli import main; main(); "
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={"_KNOWSAM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1),
             "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert ended.stderr == ""
    return ended.stdout


@pytest.mark.subprocess
def test_shell_completion(capsys: Capture) -> None:
    assert completed("knowsam pre").split() == ["predict"]
    assert {"--json", "--html", "--quiet"} <= set(completed("knowsam check DATA --").split())
    # Typer looks for the shell among the parents; whatever started these tests may be none.
    shown = subprocess.run(
        ["bash", "-c", '"$0" "$@"; exit $?', sys.executable, "-c",
         "import sys; sys.argv[0] = 'knowsam'; from knowsam.cli import main; main()", "--show-completion", "bash"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "--install-completion" in knowsam(capsys, "--help").out
    assert shown.returncode == 0
    assert "complete -o default -F _knowsam_completion knowsam" in shown.stdout


@pytest.mark.subprocess
def test_check_imports_no_network(tmp_path: Path) -> None:
    modules = modules_after("check", make_folder(tmp_path / "data"), "--quiet")
    assert "numpy" in modules
    assert not modules & {"torch", "matplotlib", "jinja2", "transformers"}


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_note_on_what_was_passed_over_is_printed_once(
    words: tuple[str, ...], run: Path, tmp_path: Path, capsys: Capture
) -> None:
    save_picture(tmp_path / "new" / "a.png", make_image((32, 32)))
    save_picture(tmp_path / "new" / "day1" / "b.png", make_image((32, 32)))
    ended = knowsam(capsys, "predict", run, tmp_path / "new", "--out", tmp_path / "preds", *words)
    assert ended.code == 0
    assert ended.err.count("note: 1 subfolder with 1 image is not predicted (day1)") == 1
    assert "note:" not in ended.out

"""The public functions: what they give, what they refuse, and that a first look at the package costs nothing."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import knowsam
from knowsam import InputError, api
from knowsam.comparison import loop
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student, save_student
from support.comparisons import in_this_process
from support.exports import NAMES, ExportedFile, make_student
from support.folders import make_folder, make_image, make_label, save_picture

FUNCTIONS = [
    "check", "train", "resume", "distil", "predict", "load", "evaluate", "calibrate", "suggest", "export", "report",
    "compare", "federate",
]  # fmt: skip
SMALL: dict[str, Any] = {
    "method": "supervised", "sam": "none", "size": 32, "steps": 2, "batch": (2, 2), "quiet": True,
    "settings": {"train.report": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with its data folder beside it: eight images, six masks."""
    root = tmp_path_factory.mktemp("trained")
    data = make_folder(root / "data", n_images=8, n_masks=6)
    return Path(knowsam.train(data, root / "run", **SMALL).folder.path)


# --- the package ---------------------------------------------------------------------------------------------------


def test_public_names_are_the_functions_whatever_is_imported() -> None:
    for found in pkgutil.walk_packages(knowsam.__path__, "knowsam."):
        of_nvflare = found.name == "knowsam.federation.nvflare_parts" and importlib.util.find_spec("nvflare") is None
        if found.name != "knowsam.__main__" and not of_nvflare:
            importlib.import_module(found.name)
    assert [*FUNCTIONS, "InputError"] == knowsam.__all__
    for name in FUNCTIONS:
        function = getattr(knowsam, name)
        assert callable(function)
        assert function is getattr(api, name)
        assert function.__module__ == "knowsam.api"


def test_names_are_shown_and_others_are_no_attributes() -> None:
    assert {*FUNCTIONS, "InputError", "__version__"} <= set(dir(knowsam))
    assert issubclass(knowsam.InputError, ValueError)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        knowsam.trian  # noqa: B018 - that is the test


@pytest.mark.subprocess
def test_a_look_at_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import knowsam; dir(knowsam); knowsam.train\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'typer'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.subprocess
def test_python_m_knowsam_is_the_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "knowsam", "evaluate", str(tmp_path / "none"), str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path}: no label map")
    assert ended.stdout == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    data = make_folder(tmp_path / "DATA", n_images=8, n_masks=6)
    shutil.copytree(data / "images", tmp_path / "NEW_IMAGES")
    shutil.copytree(data / "masks", tmp_path / "truth")
    for name in ("PUBLIC", "A", "B"):
        make_folder(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "compare", functools.partial(loop.compare, engine=in_this_process))
    smaller = {
        "size=256, steps=30_000, batch=(12, 12)": "size=32, steps=2, batch=(2, 2), method='supervised', sam='none'",
        '{"train.clip": 1.0}': "{'options.network_arguments': {'widths': [8, 16], 'dropout': [0.1, 0.1]}}",
        "40_000": "3",
        'sam="tiny")': "sam='none', size=32, batch=(2, 2), rounds=1, steps=1, start_steps=1)",
        "labelled=[3, 7], seeds=[0, 1, 2]": "['none'], [2], size=32, steps=2, batch=(2, 2)",
    }
    names = {"knowsam": knowsam, "array": make_image((40, 56))}
    for function in FUNCTIONS:
        (example,) = re.findall(r"```python\n(.*?)```", getattr(knowsam, function).__doc__, re.DOTALL)
        for large, small in smaller.items():
            example = example.replace(large, small)
        exec(re.sub(r"^        ", "", example, flags=re.MULTILINE), names)
    made = ("runs/a/report.html", "preds/cases.csv", "scores/scores.json", "next/suggest.csv", "model.onnx")
    assert [name for name in (*made, "runs/c/table.md", "runs/fed/report.html") if not Path(name).is_file()] == []
    assert names["run"].steps == 3  # type: ignore[attr-defined]
    assert names["results"].failed == {}  # type: ignore[attr-defined]
    assert names["mask"].shape == (40, 56)  # type: ignore[attr-defined]


# --- check, train, resume ------------------------------------------------------------------------------------------


def test_check_gives_a_report_and_its_page(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_masks=6, mask_values=[0, 85, 170])
    calls: list[int] = []

    def start(total: int) -> Any:
        calls.append(total)
        return lambda: calls.append(-1)

    report = knowsam.check(
        data, classes=["ground", "liver", "tumour"], label_values=[0, 85, 170], labelled="50%", val_fraction=0.5,
        html=tmp_path / "page.html", progress=start,
    )  # fmt: skip
    assert report.ok
    assert [one.name for one in report.classes] == ["ground", "liver", "tumour"]
    assert report.counts["split: val"]["images"] == 3
    assert report.counts["split: labelled"]["images"] == 2  # half of the three that are left, rounded
    assert "Ready to train." in (tmp_path / "page.html").read_text()
    assert "Ready to train." in str(report)
    assert "tumour" in str(report)
    assert calls == [6] + [-1] * 6


def test_check_reports_what_is_wrong_and_raises_for_senseless_arguments(tmp_path: Path) -> None:
    assert not knowsam.check(tmp_path / "none").ok
    with pytest.raises(InputError, match="labelled is 'seven'"):
        knowsam.check(make_folder(tmp_path / "data"), labelled="seven")


def test_train_takes_plain_arguments_over_settings_over_the_file(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_masks=6)
    file = tmp_path / "settings.yaml"
    file.write_text("method: knowsam\nsam: tiny\ntrain: {steps: 50, seed: 7, lr: 0.5, clip: 2.0}\n")
    settings = {"train.lr": 0.02, "train": {"report": False, "steps": 9}, "sam.lr": 0.003, "data.val_fraction": 0.34}
    run = knowsam.train(
        data, tmp_path / "run", method="supervised", sam="none", size=(32, 48), steps=2, batch=(2, 1), labelled=2,
        config=file, settings=settings, quiet=True,
    )  # fmt: skip
    config = RunFolder(tmp_path / "run").read_config()
    assert (run.finished, run.steps, run.folder.path) == (True, 2, tmp_path / "run")
    assert (config.method, config.sam.name, config.sam.lr, config.data.labelled) == ("supervised", "none", 0.003, 2)
    assert (config.data.size, config.train.batch, config.data.val_fraction) == ((32, 48), (2, 1), 0.34)
    train = config.train
    assert (train.steps, train.seed, train.lr, train.clip, train.report) == (2, 7, 0.02, 2.0, False)
    assert run.best is not None
    assert len(json.loads((tmp_path / "run" / "split.json").read_text())["labelled"]) == 2


def test_train_says_nothing_when_quiet_and_leaves_defaults_to_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("knowsam.training.run.train", lambda config, out, quiet: given.append(config))
    knowsam.train(tmp_path / "data", tmp_path / "run", labelled=tmp_path / "list.txt", quiet=True)
    from knowsam.config import resolve_config

    asked = {"data": {"path": str(tmp_path / "data"), "labelled": str(tmp_path / "list.txt")}}
    assert given == [resolve_config(asked)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"settings": {"train.stepz": 3}}, "did you mean 'train.steps'"),
        ({"settings": {"train": {"lr": -1}}}, "train.lr: -1"),
        ({"settings": ["train.lr=1"]}, "expected names and values"),
        ({"settings": {3: 1}}, "the key 3"),
        ({"size": 100}, "multiples of 16"),
        ({"batch": (2,)}, "train.batch"),
        ({"method": "knowsan"}, "did you mean 'knowsam'"),
        ({"sam": "/no/such/place"}, "/no/such/place"),
        ({"labelled": 77}, "77"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
    ],
    ids=str,
)
def test_train_refuses_in_a_sentence_and_writes_nothing(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data")
    with pytest.raises(InputError, match=words):
        knowsam.train(data, tmp_path / "run", **{**SMALL, "settings": {}, **arguments})
    assert not (tmp_path / "run").exists()


def test_resume_goes_on(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data")
    knowsam.train(data, tmp_path / "run", **SMALL)
    assert knowsam.resume(tmp_path / "run", steps=3, quiet=True).steps == 3
    with pytest.raises(InputError, match="no run was found"):
        knowsam.resume(tmp_path / "none")


# --- predict -------------------------------------------------------------------------------------------------------


def test_predict_a_list_of_names_with_estimates(run: Path, tmp_path: Path) -> None:
    data, out = run.parent / "data", tmp_path / "out"
    calls: list[int] = []

    def start(total: int) -> Any:
        calls.append(total)
        return lambda: calls.append(-1)

    done = knowsam.predict(run, data, out, uncertainty=True, only=["case_1", "case_3.png", "stranger"], progress=start)
    assert [item.image.name for item in done.files] == ["case_1.png", "case_3.png"]
    assert [item.label for item in done.written] == [out / "case_1.png", out / "case_3.png"]
    assert calls == [2, -1, -1]
    (sentence,) = done.failed
    assert "stranger" in sentence
    assert str(data) in sentence
    assert {case.case for case in done.cases} == {"case_1", "case_3"}
    assert all(0 <= case.dice <= 1 for case in done.cases)
    assert done.basis is not None
    assert done.cases_file == out / "cases.csv"
    assert done.cases_file.is_file()
    values = json.loads(json.dumps(done.to_json(), allow_nan=False))
    assert values["predicted"][0]["mask"] == str(out / "case_1.png")
    assert values["trust"] == done.basis.sentence()
    assert len(values["cases"]) == 4  # two cases, two foreground classes


def test_predict_everything_with_pictures_and_soft_maps(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(run.parent / "data" / "images", source)
    (source / "case_2.png").write_bytes(b"no picture")
    listed = tmp_path / "list.txt"
    listed.write_text("case_0\ncase_2\n")
    done = knowsam.predict(run, source, tmp_path / "out", overlay=True, probabilities=True, only=listed)
    assert [item.error is None for item in done.files] == [True, False]
    assert done.failed == (done.files[1].error,)
    assert done.cases == ()
    assert done.basis is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "case_0.png", "case_0_overlay.png", "case_0_prob.tif"
    }  # fmt: skip
    assert len(knowsam.predict(run, source, tmp_path / "all").files) == 8


def test_predict_mistakes(run: Path, tmp_path: Path) -> None:
    images = run.parent / "data" / "images"
    with pytest.raises(InputError, match="another output folder"):
        knowsam.predict(run, images / "case_0.png", images)
    with pytest.raises(InputError, match="amp: 'fp8'"):
        knowsam.predict(run, images, tmp_path / "out", amp="fp8")
    with pytest.raises(InputError, match="nothing was found"):
        knowsam.predict(run, tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- load ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student file of random weights, in whose masks every class occurs."""
    return make_student(tmp_path_factory.mktemp("student") / "student.safetensors", "unet")


def test_model_gives_the_masks_of_the_files(student: Path, tmp_path: Path) -> None:
    colour = save_picture(tmp_path / "in" / "colour.png", make_image((40, 56), channels=3))
    grey = save_picture(tmp_path / "in" / "grey.png", make_image((33, 24)))
    knowsam.predict(student, tmp_path / "in", tmp_path / "out")
    model = knowsam.load(student)
    assert model.class_names == NAMES
    assert model.classes == 3
    for path in (colour, grey):
        array, expected = np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "out" / path.name))
        mask = model(array)
        assert (mask.dtype, mask.shape) == (np.uint8, array.shape[:2])
        np.testing.assert_array_equal(mask, expected)
        assert set(np.unique(mask)) == {0, 1, 2}
    np.testing.assert_array_equal(model(np.asarray(Image.open(grey))[..., None]), expected)


def test_model_of_a_run_folder_is_that_of_its_student(run: Path) -> None:
    array = make_image((33, 24))
    of_folder, of_file = (knowsam.load(path).predict(array, True) for path in (run, run / "student.safetensors"))
    np.testing.assert_array_equal(of_folder.probabilities, of_file.probabilities)


def test_model_cuts_a_volume_where_it_is_told(student: Path) -> None:
    model = knowsam.load(student)
    volume = make_image((20, 24, 5)).astype(np.int16)
    mask = model(volume)
    assert mask.shape == (20, 24, 5)
    np.testing.assert_array_equal(model(volume[..., None]), mask)
    # The last axis by default; the same volume with its slices first gives the same slices.
    first = model(np.moveaxis(volume, 2, 0), axis=0)
    np.testing.assert_array_equal(np.moveaxis(first, 0, 2), mask)
    assert (model(volume, axis=0) != mask).any()


def test_a_network_trained_along_an_axis_keeps_to_it(student: Path, tmp_path: Path) -> None:
    network, info = load_student(student)
    own = dataclasses.replace(info, preprocessing=dataclasses.replace(info.preprocessing, slice_axis=0))
    save_student(tmp_path / "student.safetensors", network, own)
    model = knowsam.load(tmp_path)
    volume = make_image((20, 24, 5))
    np.testing.assert_array_equal(model(volume), model(volume, axis=0))
    assert (model(volume) != model(volume, axis=2)).any()


def test_three_slices_are_a_volume_only_if_said(student: Path) -> None:
    model, array = knowsam.load(student), make_image((20, 24), channels=3)
    assert model(array).shape == (20, 24)
    assert model(array, volume=True).shape == (20, 24, 3)
    assert model(make_image((20, 24, 4)), volume=True).shape == (20, 24, 4)


def test_model_gives_probabilities_and_uncertainty(student: Path) -> None:
    model, array = knowsam.load(student, device="cpu"), make_image((40, 56)).astype(np.float64)
    found = model.predict(array, probabilities=True, uncertainty=True)
    np.testing.assert_array_equal(found.label, model(array))
    assert found.probabilities is not None
    assert found.probabilities.shape == (3, 40, 56)
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    assert found.uncertainty is not None
    assert found.uncertainty.entropy.shape == (40, 56)
    assert 0 <= found.uncertainty.entropy.min() <= found.uncertainty.entropy.max() <= 1


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(5), "shape \\(5,\\)"),
        (np.zeros((2, 3, 4, 5)), "one image at a time"),
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
        (np.zeros((8, 8), complex), "complex128"),
        (np.zeros((8, 8), object), "object"),
        (np.zeros((0, 8)), "empty"),
        (np.full((8, 8), np.nan), "64 of 64 values are NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_model_refuses_what_is_no_image(student: Path, array: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        knowsam.load(student)(array)


def test_model_refuses_arguments_that_do_not_fit(student: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a volume"):
        knowsam.load(student)(make_image((8, 8)), volume=True)
    with pytest.raises(InputError, match="slice axis 3"):
        knowsam.load(student)(make_image((8, 8, 8)), axis=3)
    with pytest.raises(InputError, match="no such file"):
        knowsam.load(tmp_path)


def test_model_of_an_onnx_file(exported: ExportedFile) -> None:
    array = make_image((37, 51))
    mask = knowsam.load(exported.onnx)(array)
    assert set(np.unique(mask)) == {0, 1, 2}
    np.testing.assert_array_equal(mask, knowsam.load(exported.student, "cpu")(array))
    with pytest.raises(InputError, match="amp=bf16"):
        knowsam.load(exported.onnx, amp="bf16")


# --- the others ----------------------------------------------------------------------------------------------------


def test_evaluate_prints_as_a_table(tmp_path: Path) -> None:
    label = make_label()
    save_picture(tmp_path / "truth" / "a.png", label)
    save_picture(tmp_path / "preds" / "a.png", np.where(label == 2, 1, label).astype(np.uint8))
    scores = knowsam.evaluate(tmp_path / "preds", tmp_path / "truth", tmp_path / "out", classes=["x", "y", "z"])
    assert scores.class_names == ("x", "y", "z")
    assert [row.split()[0] for row in str(scores).splitlines() if row.startswith((" y", " z", "y", "z"))] == ["y", "z"]
    assert f"{scores.summary.mean['dice']:.3f}" in str(scores)
    assert (tmp_path / "out" / "scores.csv").is_file()
    with pytest.raises(InputError, match="no such file or folder"):
        knowsam.evaluate(tmp_path / "none", tmp_path / "truth")


def test_calibrate_again_says_the_same(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = (copy / "calibration.json").read_text()
    (copy / "calibration.json").unlink()
    trust = knowsam.calibrate(copy)
    assert (copy / "calibration.json").read_text() == before
    assert trust.sentence() == knowsam.calibrate(copy, run.parent / "data", "cpu").sentence()
    with pytest.raises(InputError, match="is not there"):
        knowsam.calibrate(copy, make_folder(tmp_path / "data", n_images=1, n_masks=1))


def test_suggest_names_unlabelled_images_and_draws_them(run: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    chosen = knowsam.suggest(run, run.parent / "data", 1, tmp_path / "out", progress=lambda n: lambda: calls.append(n))
    (one,) = chosen
    assert one.candidate.group in {"case_6", "case_7"}
    assert (tmp_path / "out" / f"01_{one.candidate.group}.png").is_file()
    assert (tmp_path / "out" / "suggest.html").is_file()
    assert len(set(calls)) == 1
    assert len(calls) == calls[0]
    with pytest.raises(InputError, match="at least 1"):
        knowsam.suggest(run, run.parent / "data", 0)


def test_export_refuses_what_there_is_not(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onyx"):
        knowsam.export(run, tmp_path / "model.onyx")
    with pytest.raises(InputError, match="'vnet' was asked for"):
        knowsam.export(run, tmp_path / "model.onnx", network="vnet")
    assert not any(tmp_path.iterdir())


def test_report_where_it_is_told(run: Path, tmp_path: Path) -> None:
    written = knowsam.report(run, tmp_path / "page.html")
    assert written.path == tmp_path / "page.html"
    assert written.left_out is None
    assert "<html" in written.path.read_text()
    with pytest.raises(InputError, match=str(tmp_path)):
        knowsam.report(tmp_path)


def test_compare_passes_settings_to_all_and_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = make_folder(tmp_path / "data", n_images=8, n_masks=6), tmp_path / "out"
    file = tmp_path / "settings.yaml"
    file.write_text("data: {path: /elsewhere, val_fraction: 0.34}\n")
    monkeypatch.setattr(loop, "compare", functools.partial(loop.compare, engine=in_this_process))
    results = knowsam.compare(
        data, out, ["supervised", "mean_teacher"], ["none"], [2], [1], size=32, steps=2, batch="2+2", config=file,
        settings={"train.lr": 0.02, "mean_teacher.options.noise": 0.05}, quiet=True,
    )  # fmt: skip
    assert [(row.method, row.sam, row.labelled, row.seeds, row.complete) for row in results.rows] == [
        ("supervised", "none", "2", (1,), True), ("mean_teacher", "none", "2", (1,), True),
    ]  # fmt: skip
    config = RunFolder(out / "runs" / "mean_teacher_sam-none_labelled-2_seed-1").read_config()
    assert (config.data.size, config.data.val_fraction, config.train.lr) == ((32, 32), 0.34, 0.02)
    assert config.options["noise"] == 0.05
    assert Path(config.data.path) == data
    assert "| mean_teacher" in (out / "table.md").read_text()


def test_compare_mistakes_train_nothing(tmp_path: Path) -> None:
    data, out = make_folder(tmp_path / "data"), tmp_path / "out"
    with pytest.raises(InputError, match="--methods"):
        knowsam.compare(data, out, [])
    with pytest.raises(InputError, match=r"train\.seed"):
        knowsam.compare(data, out, ["supervised"], settings={"train.seed": 3})
    with pytest.raises(InputError, match="did you mean"):
        knowsam.compare(data, out, ["supervised"], settings={"supervised.train.stepz": 3})
    assert not out.exists()

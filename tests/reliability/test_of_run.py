"""From a run's validation cases to `calibration.json`, to `cases.csv`: through the real commands."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from knowsam.config import resolve_config
from knowsam.data.dataset import ScoringVolume
from knowsam.errors import InputError
from knowsam.evaluation.metrics import dice_score
from knowsam.evaluation.scoring import score_volumes
from knowsam.inference.forward import predict_all
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image, read_label
from knowsam.reliability.of_run import calibration_cases, load_calibration
from knowsam.runs.student_file import load_student
from knowsam.training.run import train
from support.cli import knowsam
from support.folders import make_folder, make_image, make_label, save_nifti, save_picture

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students, trained for two steps and validated on six images of six groups."""
    root = tmp_path_factory.mktemp("calibrated")
    data = make_folder(root / "data", n_images=14, n_masks=12)
    (data / "val.txt").write_text("".join(f"case_{i}\n" for i in range(6)))
    values = {"method": "knowsam", "sam": "none", "data": {"path": str(data), "size": 32}}
    train(resolve_config(values, {"train": {"steps": 2, "batch": "2+2"}}), root / "run", quiet=True)
    return root / "run"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_training_leaves_the_calibration_of_its_student(run: Path) -> None:
    values = json.loads((run / "calibration.json").read_text())
    assert [case["case"] for case in values["cases"]] == [f"case_{i}" for i in range(6)]
    assert values["class_names"] == ["class_1", "class_2"]
    trust = load_calibration(run / "student.safetensors")
    assert trust.calibration is not None
    assert (trust.calibration.n_cases, trust.calibration.n_groups) == (6, 6)
    assert trust.assessment is not None  # five groups are left when one is left out
    # Confidence and Dice are those of what `predict` gives.
    predictor, data = Predictor(run, "cpu"), run.parent / "data"
    prediction = predictor.predict(read_image(data / "images" / "case_3.png"), uncertainty=True)
    truth = read_label(data / "masks" / "case_3.png").array
    dice = [dice_score(prediction.label == k, truth == k) for k in (1, 2)]
    assert prediction.uncertainty is not None
    np.testing.assert_allclose(values["cases"][3]["dice"], dice, atol=0.01)  # float16 images when training
    np.testing.assert_allclose(
        values["cases"][3]["confidence"], prediction.uncertainty.sums.confidence()[1:], atol=0.01
    )


def test_predict_with_uncertainty(run: Path, tmp_path: Path, capsys: Capture) -> None:
    images, out = run.parent / "data" / "images", tmp_path / "out"
    ended = knowsam(capsys, "predict", run, images, "--out", out, "--uncertainty")
    assert ended.code == 0, ended.err
    assert "Dice estimated from 6 validation cases (6 groups)" in ended.out
    rows = rows_of(out / "cases.csv")
    assert len(rows) == 14 * 2
    assert [row["class"] for row in rows[:2]] == ["1", "2"]
    worst_first = [float(row["case_dice"]) for row in rows]
    assert worst_first == sorted(worst_first)
    for row in rows:
        assert 0 <= float(row["low"]) <= float(row["dice"]) <= float(row["high"]) <= 1
    # The maps are those of the same prediction, and no forward pass made another mask.
    prediction = Predictor(run, "cpu").predict(read_image(images / "case_0.png"), uncertainty=True)
    assert prediction.uncertainty is not None
    for name in ("entropy", "disagreement"):
        drawn = np.asarray(Image.open(out / f"case_0_{name}.png"))
        np.testing.assert_array_equal(drawn, np.rint(getattr(prediction.uncertainty, name) * 255))
    np.testing.assert_array_equal(Image.open(out / "case_0.png"), prediction.label)
    assert knowsam(capsys, "evaluate", out, run.parent / "data" / "masks").code == 0


def test_predict_json_holds_files_failures_and_the_rows_of_the_table(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    for i in range(3):
        save_picture(tmp_path / "in" / f"case_{i}.png", make_image(seed=i))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    ended = knowsam(capsys, "predict", run, tmp_path / "in", "--out", out, "--uncertainty", "--json")
    assert ended.code == 1
    told = json.loads(ended.out)
    assert told["predicted"][0] == {"image": str(tmp_path / "in" / "case_0.png"), "mask": str(out / "case_0.png")}
    assert len(told["predicted"]) == 3
    assert ["broken.png" in sentence for sentence in told["failed"]] == [True]
    assert told["trust"].startswith("Dice estimated from 6 validation cases")
    assert [{key: as_text(value) for key, value in row.items()} for row in told["cases"]] == rows_of(out / "cases.csv")
    assert {row["case"] for row in told["cases"]} == {"case_0", "case_1", "case_2"}

    ended = knowsam(capsys, "predict", run, tmp_path / "in" / "broken.png", "--out", out, "--json")
    assert (ended.code, json.loads(ended.out)["predicted"]) == (2, [])


def as_text(value: str | float | None) -> str:
    """A value of JSON as `cases.csv` writes it."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def test_maps_of_a_volume_lie_where_the_image_lies(run: Path, tmp_path: Path, capsys: Capture) -> None:
    source = save_nifti(tmp_path / "vol.nii.gz", make_image((20, 24, 5)).astype(np.int16))
    assert knowsam(capsys, "predict", run, source, "--out", tmp_path / "out", "--uncertainty").code == 0
    for name in ("entropy", "disagreement"):
        written = nib.load(tmp_path / "out" / f"vol_{name}.nii.gz")
        values = np.asarray(written.dataobj)
        assert values.shape == (20, 24, 5)
        assert values.dtype == np.float32
        assert 0 <= values.min() < values.max() <= 1
        np.testing.assert_array_equal(written.affine, nib.load(source).affine)
    assert [row["case"] for row in rows_of(tmp_path / "out" / "cases.csv")] == ["vol", "vol"]


def test_slices_of_a_volume_are_one_case(run: Path, tmp_path: Path, capsys: Capture) -> None:
    for i in range(3):
        save_picture(tmp_path / "in" / f"a_slice_{i}.png", make_image(seed=i))
    save_picture(tmp_path / "in" / "b.png", make_image(seed=9))
    assert knowsam(capsys, "predict", run, tmp_path / "in", "--out", tmp_path / "out", "--uncertainty").code == 0
    rows = rows_of(tmp_path / "out" / "cases.csv")
    assert {(row["case"], row["files"]) for row in rows} == {("a", "3"), ("b", "1")}
    labels = [np.asarray(Image.open(tmp_path / "out" / f"a_slice_{i}.png")) for i in range(3)]
    found = {row["class"]: int(row["predicted_px"]) for row in rows if row["case"] == "a"}
    assert found == {k: int((np.stack(labels) == int(k)).sum()) for k in ("1", "2")}


def test_student_alone_gives_its_own_confidence_and_says_so(run: Path, tmp_path: Path, capsys: Capture) -> None:
    student = shutil.copy(run / "student.safetensors", tmp_path)
    image = run.parent / "data" / "images" / "case_0.png"
    ended = knowsam(capsys, "predict", student, image, "--out", tmp_path / "out", "--uncertainty")
    assert ended.code == 0
    assert "Not calibrated" in ended.out
    for row in rows_of(tmp_path / "out" / "cases.csv"):
        if row["status"] == "uncalibrated":
            assert row["dice"] == row["confidence"]
            assert row["low"] == row["high"] == ""


def test_calibration_of_other_weights_is_not_used(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "calibration.json", tmp_path)
    shutil.copy(run / "student_last.safetensors", tmp_path / "student.safetensors")
    with (tmp_path / "student.safetensors").open("ab") as file:
        file.write(b" ")
    trust = load_calibration(tmp_path / "student.safetensors")
    assert trust.calibration is None
    assert "other weights" in trust.sentence()
    (tmp_path / "calibration.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"calibration\.json"):
        load_calibration(tmp_path / "student.safetensors")


def test_calibrate_writes_again_what_training_wrote(run: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "calibration.json").unlink()
    ended = knowsam(capsys, "calibrate", copy)
    assert ended.code == 0, ended.err
    assert json.loads((copy / "calibration.json").read_text()) == json.loads((run / "calibration.json").read_text())


def test_calibrate_json_is_the_content_of_the_file(run: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    ended = knowsam(capsys, "calibrate", copy, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == json.loads((copy / "calibration.json").read_text())
    assert json.loads(ended.out)["calibration"]["n_cases"] == 6


def test_calibrate_mistakes(run: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    other = make_folder(tmp_path / "other", n_images=3, n_masks=3)
    for arguments, word in (((tmp_path,), "split.json"), ((copy, "--data", other), "of the run's split is not there")):
        ended = knowsam(capsys, "calibrate", *arguments)
        assert ended.code == 2
        assert word in ended.err
        assert len(ended.err.strip().splitlines()) == 1
    split = json.loads((copy / "split.json").read_text()) | {"val": []}
    (copy / "split.json").write_text(json.dumps(split))
    assert "no validation case" in knowsam(capsys, "calibrate", copy).err


def test_slices_of_different_size_are_one_case(run: Path) -> None:
    student, _ = load_student(run / "student.safetensors")
    images = torch.rand(2, 1, 32, 32).half()
    labels = [torch.from_numpy(make_label(size)).long() for size in ((20, 24), (30, 40))]
    volume = ScoringVolume("v", images, labels, "g")
    (found,) = calibration_cases(list(score_volumes(lambda image: predict_all(student, image), [volume], 3)))
    assert (found.case, found.group) == ("v", "g")
    assert len(found.dice) == 2

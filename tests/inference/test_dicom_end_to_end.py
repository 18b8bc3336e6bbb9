"""From a folder of DICOM series to DICOM segmentations, and nothing said of whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from knowsam.inference.files import input_notes, list_inputs, predict_files
from knowsam.inference.predictor import Predictor
from knowsam.io import case_stem, read_image, read_label, write_label
from support.cli import knowsam, train_small
from support.dicom import (
    NAME,
    PATIENT_ID,
    SECRETS,
    make_slices,
    make_stored,
    pydicom,
    save_series,
)
from support.folders import make_label

SHAPE = (20, 24, 3)


def make_dicom_folder(root: Path, patients: int = 5) -> Path:
    """Series of several patients below `images/`, named after them; the last without mask; masks of both kinds."""
    (root / "masks").mkdir(parents=True)
    for index in range(patients):
        files = make_slices(make_stored(SHAPE, index), f"s{index}", f"{PATIENT_ID}{index}")
        first = save_series(root / "images" / f"{NAME.replace('^', '_')}_{index}", files)
        if index < patients - 1:
            as_format = "nifti" if index % 2 else None
            write_label(root / "masks" / case_stem(first), make_label(SHAPE), read_image(first), as_format=as_format)
    scout = make_slices(make_stored((20, 24, 1)), "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save_series(root / "images" / "scout", scout)
    return root


def secrets_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text.lower()]


def leaks(root: Path) -> Iterator[str]:
    """Every written file but segmentations, and every name, that says something of the patient."""
    for path in root.rglob("*"):
        if secrets_in(str(path.relative_to(root))):
            yield f"{path}: its name"
        if path.is_file() and path.suffix != ".dcm" and secrets_in(path.read_bytes().decode("latin-1")):
            yield f"{path}: its content"


@pytest.mark.slow
def test_train_predict_and_evaluate_without_a_word_of_the_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = make_dicom_folder(tmp_path / "data"), tmp_path / "runs"
    runs.mkdir()
    check = knowsam(capsys, "check", data, "--html", runs / "check.html")
    trained = train_small(capsys, data, runs / "run", "train.report=true")
    assert (check.code, trained.code) == (0, 0), check.out + trained.err
    extras = ("--overlay", "--probabilities", "--uncertainty")
    predicted = knowsam(capsys, "predict", runs / "run", data, "--out", runs / "preds", *extras)
    assert predicted.code == 0, predicted.err
    evaluated = knowsam(capsys, "evaluate", runs / "preds", data / "masks", "--out", runs / "scores")
    assert evaluated.code == 0, evaluated.err
    assert "number of cases: 4" in evaluated.out
    said = [text for one in (check, trained, predicted, evaluated) for text in (one.out, one.err)]
    assert [secrets_in(text) for text in said] == [[]] * 8
    assert list(leaks(runs)) == []
    assert list(leaks(data))  # what is looked for can be found
    assert "left aside: 1 localiser" in check.out
    masks = sorted((runs / "preds").glob("*.dcm"))
    assert len(masks) == 5
    assert {str(pydicom.dcmread(path).PatientName) for path in masks} == {NAME}
    assert len((runs / "preds" / "series.csv").read_text().splitlines()) == 6


def test_predictions_are_segmentations_or_nifti_by_choice(run: Path, tmp_path: Path) -> None:
    data = make_dicom_folder(tmp_path / "data", patients=2)
    predictor = Predictor(run, "cpu")
    segmentations = list(predict_files(predictor, data, tmp_path / "a"))
    niftis = list(predict_files(predictor, data, tmp_path / "b", mask_format="nifti"))
    assert [item.error for item in (*segmentations, *niftis)] == [None] * 4
    for one, other in zip(segmentations, niftis, strict=True):
        assert one.label is not None
        assert other.label is not None
        assert (one.label.name, other.label.name) == (f"{case_stem(one.image)}.dcm", f"{case_stem(one.image)}.nii.gz")
        first, second = read_label(one.label), read_label(other.label)
        np.testing.assert_array_equal(first.array, second.array)
        np.testing.assert_array_equal(first.geometry.affine, second.geometry.affine)


def test_a_bad_series_does_not_stop_the_others(run: Path, tmp_path: Path) -> None:
    save_series(tmp_path / "in" / "good", make_slices(make_stored(SHAPE), "good"))
    broken = make_slices(make_stored((20, 24, 5)), "broken")
    del broken[2]
    save_series(tmp_path / "in" / "broken", broken)
    items = list(predict_files(Predictor(run, "cpu"), tmp_path / "in", tmp_path / "out"))
    assert sorted(item.error is None for item in items) == [False, True]
    assert [item.error for item in items if item.error and "1 slice is missing" in item.error]


def test_inputs_are_first_files_and_notes_say_what_is_left_aside(tmp_path: Path) -> None:
    data = make_dicom_folder(tmp_path / "data", patients=2)
    assert [path.name for path in list_inputs(data)] == ["IM0000", "IM0000"]
    assert [note for note in input_notes(data) if "left aside: 1 localiser" in note]
    one = list_inputs(data)[0]
    assert list_inputs(one) == [one]

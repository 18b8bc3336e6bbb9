"""Folders of tiny PNG and NIfTI files, made here, scored end to end."""

import csv
import io
import json
import math
import os

import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from knowsam.errors import InputError
from knowsam.evaluation.evaluate import evaluate
from knowsam.evaluation.metrics import METRICS, Metric, asd, dice_score, hd95
from knowsam.evaluation.result import print_table
from support.folders import save_turned


def square(row: int = 1, column: int = 1, side: int = 3, shape=(8, 9), value: int = 1) -> np.ndarray:
    label = np.zeros(shape, dtype=np.uint8)
    label[row : row + side, column : column + side] = value
    return label


@pytest.fixture
def folders(tmp_path):
    """Empty folders of predictions and of truth, the latter where a data folder has it."""
    predictions, truth = tmp_path / "predictions", tmp_path / "data" / "masks"
    predictions.mkdir()
    truth.mkdir(parents=True)
    return predictions, truth


def save_png(folder, stem, label):
    Image.fromarray(label).save(folder / f"{stem}.png")


def save_nifti(folder, stem, label, spacing=(1.0, 1.0, 1.0), shift=0.0):
    affine = np.diag([*spacing, 1.0])
    affine[0, 3] = shift
    nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), affine), folder / f"{stem}.nii.gz")


def rows(folder):
    with (folder / "scores.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_png_folder_end_to_end(folders, tmp_path):
    predictions, truth = folders
    for stem, prediction, label in [
        ("a2", square(), square(value=255)),
        ("a10", square(column=3), square(value=255)),
        ("b", square(side=0), square(value=255)),
        ("c", square(side=0), square(side=0)),
        ("d", square(), square(side=0)),
    ]:
        save_png(predictions, stem, prediction)
        save_png(truth, stem, label)
    result = evaluate(predictions, truth, tmp_path / "out" / "scores")

    assert [case.case for case in result.cases] == ["a2", "a10", "b", "c", "d"]
    table = rows(tmp_path / "out" / "scores")
    assert list(table[0]) == ["case", "class", "name", "dice", "jaccard", "hd95", "asd", "unit", "status"]
    assert [row["status"] for row in table] == ["ok", "ok", "missed", "both_empty", "false_alarm"]
    assert [float(row["dice"]) for row in table] == pytest.approx([1, 1 / 3, 0, 1, 0], abs=1e-6)
    # the shifted square of test_metrics: distances 0 0 0 1 1 2 2 2 in both directions
    assert [row["hd95"] for row in table] == ["0.000000", "2.000000", "", "0.000000", ""]
    assert [row["asd"] for row in table] == ["0.000000", "1.000000", "", "0.000000", ""]
    assert {row["unit"] for row in table} == {"px"}

    report = json.loads((tmp_path / "out" / "scores" / "scores.json").read_text())
    (only,) = report["classes"]
    assert (only["n_cases"], only["n_missed"], only["n_false_alarm"], only["n_both_empty"]) == (5, 1, 1, 1)
    assert only["dice"]["mean"] == pytest.approx((1 + 1 / 3 + 0 + 1 + 0) / 5)
    assert only["hd95"] == {
        "mean": pytest.approx(2 / 3),
        "std": pytest.approx(math.sqrt(8 / 9)),
        "median": 0,
        "n_defined": 3,
        "n_undefined": 2,
    }
    assert report["unit"] == "px"
    assert report["n_undefined"]["hd95"] == 2
    assert "hd95" in report["definitions"]
    # nothing but the two files: no temporary is left behind
    assert sorted(os.listdir(tmp_path / "out" / "scores")) == ["scores.csv", "scores.json"]


def test_predictions_may_hold_the_values_of_the_truth(folders):
    predictions, truth = folders
    save_png(predictions, "a", square(value=255))
    save_png(predictions, "b", square(side=0))
    save_png(truth, "a", square(value=255))
    save_png(truth, "b", square(value=255))
    result = evaluate(predictions, truth)
    assert [case.scores[0]["dice"] for case in result.cases] == [1, 0]
    assert any("[0, 255]" in note for note in result.notes)


def test_binary_predictions_in_255_against_class_indices(folders):
    predictions, truth = folders
    save_png(predictions, "a", square(value=255))
    save_png(truth, "a", square(value=1))
    assert evaluate(predictions, truth).summary.mean["dice"] == 1


def test_nifti_in_mm(folders, tmp_path):
    predictions, truth = folders
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(0, 3, (5, 6, 4)), rng.integers(0, 3, (5, 6, 4))
    spacing = (0.5, 0.75, 4.0)
    save_nifti(predictions, "v", prediction, spacing)
    save_nifti(truth, "v", label, spacing)
    result = evaluate(predictions, truth, tmp_path / "out", classes=["background", "left", "right"])
    assert result.unit == "mm"
    assert result.notes == ()
    for score in result.cases[0].scores:
        masks = prediction == score.class_index, label == score.class_index
        assert score["dice"] == pytest.approx(dice_score(*masks))
        assert score["hd95"] == pytest.approx(hd95(*masks, spacing))
        assert score["asd"] == pytest.approx(asd(*masks, spacing))
    assert [(row["name"], row["unit"]) for row in rows(tmp_path / "out")] == [("left", "mm"), ("right", "mm")]


def test_nifti_of_one_slice_is_scored_as_an_image(folders):
    predictions, truth = folders
    save_nifti(predictions, "v", square(column=3)[:, None, :], (2.0, 9.0, 2.0))
    save_nifti(truth, "v", square()[:, None, :], (2.0, 9.0, 2.0))
    score = evaluate(predictions, truth).cases[0].scores[0]
    # the shifted square, 2 mm a pixel
    assert (score["hd95"], score["asd"]) == (pytest.approx(4.0), pytest.approx(2.0))


def test_another_place_is_refused_and_half_a_voxel_noted(folders):
    predictions, truth = folders
    save_nifti(truth, "v", square(shape=(8, 9, 2)))
    for shift, noted in ((0.0009, False), (0.5, True)):
        save_nifti(predictions, "v", square(shape=(8, 9, 2)), shift=shift)
        result = evaluate(predictions, truth)
        assert result.summary.mean["dice"] == 1
        assert any("half a voxel apart by their affines in v" in note for note in result.notes) == noted
    for shift in (1, 10, -3):
        save_nifti(predictions, "v", square(shape=(8, 9, 2)), shift=shift)
        with pytest.raises(InputError, match=r"predictions.v\.nii\.gz: .* voxels off its truth .*masks.v\.nii\.gz"):
            evaluate(predictions, truth)


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_a_prediction_stored_in_another_order_is_the_same(folders, codes):
    predictions, truth = folders
    label = np.zeros((8, 9, 5), np.uint8)
    label[1:4, 2:8, 3:] = 1
    label[5:, :3, 0] = 2
    save_nifti(truth, "v", label, (1.0, 2.0, 3.0), shift=7)
    straight = nibabel.load(truth / "v.nii.gz")
    other = label.copy()
    other[2, 2:5, 3] = 0
    turned = nibabel.Nifti1Image(other, straight.affine).as_reoriented(nibabel.orientations.axcodes2ornt(codes))
    nibabel.save(turned, predictions / "v.nii.gz")
    found = evaluate(predictions, truth)
    nibabel.save(nibabel.Nifti1Image(other, straight.affine), predictions / "v.nii.gz")
    assert found.cases == evaluate(predictions, truth).cases
    assert found.notes == ()
    assert 0 < found.cases[0].scores[0]["dice"] < 1


def test_a_truth_that_does_not_say_how_it_lies_is_stored_like_its_prediction(folders):
    predictions, truth = folders
    label = np.zeros((8, 9, 5), np.uint8)
    label[1:4, 2:8, 3:] = 1
    save_turned(predictions / "v.nii.gz", label, "PIR")
    save_turned(truth / "v.nii.gz", label, "RAS", stated=0)
    assert evaluate(predictions, truth).summary.mean["dice"] == 1
    assert evaluate(truth, predictions).summary.mean["dice"] == 1


def save_stack(folder, name, volume, numbers=None):
    for number, image in zip(numbers or range(len(volume)), volume, strict=True):
        save_png(folder, f"{name}_slice_{number}", image.astype(np.uint8))


def test_slices_of_one_volume_are_one_case(folders):
    predictions, truth = folders
    rng = np.random.default_rng(1)
    # 12 slices: slice_10 and slice_11 must come after slice_9
    prediction, label = rng.random((12, 6, 5)) > 0.8, rng.random((12, 6, 5)) > 0.8
    save_stack(predictions, "p1", prediction)
    save_stack(truth, "p1", label)
    result = evaluate(predictions, truth)
    (case,) = result.cases
    assert (case.case, case.unit) == ("p1", "px")
    assert case.scores[0]["dice"] == pytest.approx(dice_score(prediction, label))
    assert case.scores[0]["hd95"] == pytest.approx(hd95(prediction, label))
    assert case.scores[0]["asd"] == pytest.approx(asd(prediction, label))


def test_volume_column_of_groups_csv_names_the_volume(folders):
    predictions, truth = folders
    for stem in ("x", "y", "z"):
        save_png(predictions, stem, square())
        save_png(truth, stem, square())
    (truth.parent / "groups.csv").write_text("stem,group,volume\nx,p1,v1\ny,p1,v1\nz,p1,\n")
    assert [case.case for case in evaluate(predictions, truth).cases] == ["v1", "z"]


def test_groups_csv_without_a_volume_column_leaves_the_names_to_decide(folders):
    predictions, truth = folders
    save_stack(predictions, "p1", [square(), square()])
    save_stack(truth, "p1", [square(), square()])
    (truth.parent / "groups.csv").write_text("stem,group\np1_slice_0,g\np1_slice_1,g\n")
    assert [case.case for case in evaluate(predictions, truth).cases] == ["p1"]


def test_slices_of_one_volume_must_have_one_size(folders):
    predictions, truth = folders
    for folder in folders:
        save_png(folder, "p1_slice_0", square())
        save_png(folder, "p1_slice_1", square(shape=(8, 8)))
    with pytest.raises(InputError, match=r"p1_slice_1.png: shape \(8, 8\).*volume p1.*\(8, 9\)"):
        evaluate(predictions, truth)


def test_a_volume_with_a_missing_slice_is_noted(folders):
    predictions, truth = folders
    save_stack(predictions, "p1", [square(), square()])
    save_stack(truth, "p1", [square(), square(), square()])
    result = evaluate(predictions, truth)
    assert result.truth_without_prediction == ("p1_slice_2",)
    assert any("p1 was scored without p1_slice_2" in note for note in result.notes)


def test_ignored_pixels_are_not_scored(folders):
    predictions, truth = folders
    label = square()
    label[5:, :] = 255
    save_png(predictions, "a", np.maximum(square(), square(row=6, side=2)))
    save_png(truth, "a", label)
    result = evaluate(predictions, truth, ignore_value=255)
    assert result.class_names == ("background", "class_1")
    assert (result.cases[0].scores[0]["dice"], result.cases[0].scores[0]["hd95"]) == (1, 0)


def test_label_values_give_the_order_of_the_classes(folders):
    predictions, truth = folders
    save_png(predictions, "a", square(value=2))
    save_png(truth, "a", square(value=85))
    result = evaluate(predictions, truth, label_values=[0, 170, 85])
    assert [score.status for score in result.cases[0].scores] == ["both_empty", "ok"]


def test_a_class_only_the_predictions_have_is_a_false_alarm(folders):
    predictions, truth = folders
    save_png(predictions, "a", np.maximum(square(), square(row=5, column=5, side=2, value=2)))
    save_png(truth, "a", square())
    result = evaluate(predictions, truth)
    assert [score.status for score in result.cases[0].scores] == ["ok", "false_alarm"]
    assert any("up to 2" in note for note in result.notes)
    with pytest.raises(InputError, match=r"predictions/a.png.*2"):
        evaluate(predictions, truth, classes=2)


def save_values(folder, stem, *values, where=((1, 1), (5, 5), (5, 1))):
    label = np.zeros((8, 9), np.uint8)
    for value, (row, column) in zip(values, where, strict=False):
        label[row : row + 2, column : column + 2] = value
    save_png(folder, stem, label)


@pytest.mark.parametrize("values", [(1, 2, 4), (1, 5)])
def test_a_class_that_no_file_has_is_no_class(folders, values):
    predictions, truth = folders
    for stem in "ab":
        save_values(truth, stem, *values)
        save_values(predictions, stem, *values, where=((1, 1), (5, 5), (1, 5)))
    result = evaluate(predictions, truth)
    assert len(result.class_names) == len(values) + 1
    found = [score["dice"] for score in result.cases[0].scores]
    assert found == [1, 1, 0][: len(values)]
    assert result.summary.mean["dice"] == pytest.approx(np.mean(found))


def test_a_class_that_no_truth_holds_is_left_out_of_the_means_and_said(folders, tmp_path):
    predictions, truth = folders
    save_values(truth, "a", 1)
    save_values(truth, "b", 1)
    save_values(predictions, "a", 1)
    save_values(predictions, "b", 0, 2)
    result = evaluate(predictions, truth, tmp_path / "out", classes=4)
    assert result.summary.mean["dice"] == 0.5
    assert [note for note in result.notes if "no truth file" in note] == [
        "Class 2 (class_2) is in no truth file: left out of the means; predicted in 1 of 2 cases.",
        "Class 3 (class_3) is in no truth file: left out of the means; predicted in 0 of 2 cases.",
    ]
    table = {(row["case"], row["class"]): (row["dice"], row["status"]) for row in rows(tmp_path / "out")}
    assert table["b", "2"] == ("", "false_alarm")
    assert table["a", "3"] == ("", "both_empty")


@pytest.mark.parametrize("label_values", [[0, 2, 1], [0, 4, 2, 1], [1, 0, 2], [2, 1, 0]])
def test_identical_files_are_never_wrong(folders, label_values):
    predictions, truth = folders
    for folder in folders:
        save_values(folder, "a", *[value for value in label_values if value])
    result = evaluate(predictions, truth, label_values=label_values)
    assert result.summary.mean["dice"] == 1
    assert f"mask values {label_values}" in result.notes[0]
    assert "--predictions indices" in result.notes[0]


def test_what_the_predictions_hold_can_be_said(folders):
    predictions, truth = folders
    save_values(truth, "a", 2, 3)
    save_values(predictions, "a", 1, 2)
    assert evaluate(predictions, truth, label_values=[0, 2, 3]).summary.mean["dice"] == 1
    save_values(predictions, "a", 0, 2)
    by_value = evaluate(predictions, truth, label_values=[0, 2, 3])
    by_index = evaluate(predictions, truth, label_values=[0, 2, 3], predictions_hold="indices")
    assert [score["dice"] for score in by_value.cases[0].scores] == [0, 0]
    assert [score["dice"] for score in by_index.cases[0].scores] == [0, 1]
    with pytest.raises(InputError, match="expected indices or values"):
        evaluate(predictions, truth, predictions_hold="classes")


def test_values_that_could_be_indices_are_asked_about(folders):
    predictions, truth = folders
    save_values(truth, "a", 1, 2, 4)
    save_values(predictions, "a", 1, 2, 3)
    with pytest.raises(InputError, match=r"--predictions indices.*--predictions values"):
        evaluate(predictions, truth)
    assert evaluate(predictions, truth, predictions_hold="indices").summary.mean["dice"] == 1
    by_value = evaluate(predictions, truth, predictions_hold="values")
    assert by_value.summary.mean["dice"] == pytest.approx(2 / 3)
    assert len(by_value.class_names) == 5


def test_one_threshold_for_truth_and_predictions(folders):
    predictions, truth = folders
    save_values(truth, "a", 255, 32)
    for values in ((255,), (1,), (200, 30)):
        save_values(predictions, "a", *values)
        result = evaluate(predictions, truth, mask_threshold=128)
        assert result.summary.mean["dice"] == 1
    save_values(predictions, "a", 7)
    save_values(truth, "a", 3)
    assert evaluate(predictions, truth, instances=True).summary.mean["dice"] == 1


def test_jpeg_and_one_bit_on_either_side(folders):
    predictions, truth = folders
    big = square(8, 8, 24, (48, 48), 255)
    for folder, other in (folders, folders[::-1]):
        for stem in "abc":
            save_png(other, stem, big)
        (folder / "a.png").unlink(missing_ok=True)
        Image.fromarray(big).save(folder / "a.jpg", quality=80)
        (folder / "b.png").unlink(missing_ok=True)
        Image.fromarray(big > 0).save(folder / "b.bmp")
        save_png(folder, "c", big)
        assert evaluate(predictions, truth).summary.mean["dice"] > 0.99
        for path in [*predictions.iterdir(), *truth.iterdir()]:
            path.unlink()


def test_truth_without_any_object(folders):
    predictions, truth = folders
    save_png(predictions, "a", square())
    save_png(truth, "a", square(side=0))
    assert evaluate(predictions, truth).cases[0].scores[0].status == "false_alarm"


def test_unmatched_files_are_counted_and_listed_and_extras_passed_over(folders, tmp_path):
    predictions, truth = folders
    for stem in ("a", "a_overlay", "a_prob", "only_predicted"):
        save_png(predictions, stem, square())
    for stem in ("a", "t1", "t2"):
        save_png(truth, stem, square())
    (predictions / "notes.txt").write_text("not a label map")
    result = evaluate(predictions, truth, tmp_path / "out")
    assert [case.case for case in result.cases] == ["a"]
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert report["truth_without_prediction"] == ["t1", "t2"]
    assert report["prediction_without_truth"] == ["only_predicted"]
    assert (report["n_truth_without_prediction"], report["n_prediction_without_truth"]) == (2, 1)
    assert any("2 truth files" in note and "1 predictions" in note for note in result.notes)


def test_a_truth_whose_name_looks_like_an_extra_is_scored(folders):
    predictions, truth = folders
    for folder in folders:
        save_png(folder, "a_prob", square())
    assert [case.case for case in evaluate(predictions, truth).cases] == ["a_prob"]


def test_single_files_need_no_common_name(folders):
    predictions, truth = folders
    save_png(predictions, "output", square())
    save_png(truth, "reference", square())
    result = evaluate(predictions / "output.png", truth / "reference.png")
    assert (result.cases[0].case, result.summary.mean["dice"]) == ("reference", 1)


def test_cases_and_their_order_do_not_change_the_summary(tmp_path):
    for place, stems in (("one", "abc"), ("other", "cba")):
        for folder in (tmp_path / place / "p", tmp_path / place / "t"):
            folder.mkdir(parents=True)
        for stem, column in zip(stems, (1, 2, 3), strict=True):
            save_png(tmp_path / place / "p", stem, square(column=column))
            save_png(tmp_path / place / "t", stem, square())
    one, other = (evaluate(tmp_path / place / "p", tmp_path / place / "t") for place in ("one", "other"))
    assert one.summary.mean == pytest.approx(other.summary.mean)


# --- errors ---


def test_nothing_matches(folders):
    predictions, truth = folders
    save_png(predictions, "a", square())
    save_png(truth, "b", square())
    with pytest.raises(InputError, match=r"none of its 1 prediction \(a\).*\(b\)"):
        evaluate(predictions, truth)


def test_another_shape_names_both_files(folders):
    predictions, truth = folders
    save_png(predictions, "a", square())
    save_png(truth, "a", square(shape=(9, 9)))
    with pytest.raises(InputError, match=r"predictions.a.png.*\(8, 9\).*masks.a.png.*\(9, 9\)"):
        evaluate(predictions, truth)


def test_mixed_units_are_refused(folders):
    predictions, truth = folders
    for folder in folders:
        save_png(folder, "a", square())
        save_nifti(folder, "b", square(shape=(8, 9, 2)))
    with pytest.raises(InputError, match="b has a spacing in mm and a has none"):
        evaluate(predictions, truth)


def test_missing_and_empty_folders(folders, tmp_path):
    predictions, truth = folders
    with pytest.raises(InputError, match="no such file or folder"):
        evaluate(predictions, tmp_path / "nowhere")
    with pytest.raises(InputError, match="no label map"):
        evaluate(predictions, truth)


def test_two_predictions_of_one_case(folders):
    predictions, truth = folders
    save_png(predictions, "a", square())
    save_png(truth, "a", square())
    Image.fromarray(square()).save(predictions / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: the same stem as a\.png"):
        evaluate(predictions, truth)


def test_out_that_is_a_file(folders, tmp_path):
    predictions, truth = folders
    for folder in folders:
        save_png(folder, "a", square())
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="this is a file"):
        evaluate(predictions, truth, tmp_path / "out")


# --- the table ---


def test_table_shows_units_undefined_and_notes(folders):
    predictions, truth = folders
    for stem, prediction in (("a", square(column=3)), ("b", square(side=0))):
        save_png(predictions, stem, prediction)
        save_png(truth, stem, square(value=255))
    stream = io.StringIO()
    result = evaluate(predictions, truth, classes=["background", "core [a]"])
    print_table(result, Console(file=stream, width=80))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for expected in (
        "HD95 [px]",
        "ASD [px]",
        "core [a]",
        "0.167 ±0.167",
        "2.00 ±0.00",
        "1 of 2",
        "mean",
    ):
        assert expected in text
    assert "0 and 255" in text


def test_table_of_a_class_never_found(folders):
    predictions, truth = folders
    save_png(predictions, "a", square(side=0))
    save_png(truth, "a", square())
    stream = io.StringIO()
    print_table(evaluate(predictions, truth), Console(file=stream, width=120))
    assert "undefined" in stream.getvalue()


def test_a_new_metric_is_one_entry(folders, tmp_path, monkeypatch):
    predictions, truth = folders
    save_png(predictions, "a", square(side=2))
    save_png(truth, "a", square(side=4))
    ratio = Metric("Size", "share", lambda pair: pair.prediction_size / pair.truth_size, "|P| / |T|")
    monkeypatch.setitem(METRICS, "size_ratio", ratio)
    result = evaluate(predictions, truth, tmp_path / "out")
    assert [row["size_ratio"] for row in rows(tmp_path / "out")] == ["0.250000"]
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["classes"][0]["size_ratio"]["mean"] == content["mean"]["size_ratio"] == 0.25
    assert content["definitions"]["size_ratio"] == "|P| / |T|"
    stream = io.StringIO()
    print_table(result, Console(file=stream, width=120))
    assert "Size" in stream.getvalue()


@pytest.mark.parametrize("name", ["masks", "labels"])
def test_a_data_folder_stands_for_its_masks(tmp_path, name):
    predictions, data = tmp_path / "predictions", tmp_path / "data"
    for folder in (predictions, data / name, data / "images"):
        folder.mkdir(parents=True)
        save_png(folder, "a", square())
    result = evaluate(predictions, data)
    assert [case.case for case in result.cases] == ["a"]
    assert result.summary.mean["dice"] == 1
    (data / name).rename(data / "elsewhere")
    with pytest.raises(InputError, match="neither masks/ nor labels/ was found"):
        evaluate(predictions, data)


def test_truth_with_an_ending_is_paired_and_it_is_said(folders):
    predictions, truth = folders
    for stem in ("a", "b"):
        save_png(predictions, stem, square())
        save_png(truth, f"{stem}_mask", square())
    save_png(predictions, "c", square())
    save_png(truth, "._a_mask", square())
    result = evaluate(predictions, truth)
    assert [case.case for case in result.cases] == ["a", "b"]
    assert result.summary.mean["dice"] == 1
    assert any("paired by one rule: a mask's name ends in '_mask'" in note for note in result.notes)


def test_unicode_forms_of_one_name_are_paired(folders):
    import unicodedata

    predictions, truth = folders
    save_png(predictions, unicodedata.normalize("NFD", "l\u00e9sion"), square())
    save_png(truth, unicodedata.normalize("NFC", "l\u00e9sion"), square())
    assert evaluate(predictions, truth).summary.mean["dice"] == 1

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from knowsam.data.folder import scan_folder
from knowsam.data.labels import LabelSpec
from knowsam.data.pairing import fit_label
from knowsam.data.split import make_split
from knowsam.errors import InputError
from knowsam.inspection.check import check_folder
from knowsam.inspection.findings import CheckReport, print_report
from knowsam.types import Geometry, MedicalImage, MedicalLabel
from support.folders import (
    make_affine,
    make_folder,
    make_hdf5_folder,
    make_image,
    make_label,
    make_nifti_folder,
    orientation_tag,
    save_nifti,
    save_picture,
)


def test_healthy_folder(tmp_path: Path) -> None:
    calls: list[int] = []

    def progress(cases: int) -> Callable[[], None]:
        calls.append(cases)
        return lambda: calls.append(1)

    make_folder(tmp_path, n_images=6, n_masks=5, unlabelled=1)
    report = check_folder(tmp_path, progress=progress)
    assert report.ok
    assert report.warnings == []
    assert calls == [7, *[1] * 7]
    assert report.counts["images"] == 7
    assert report.counts["with a mask"] == 5
    assert report.counts["split: labelled"] == {"images": 4, "groups": 4}
    assert report.counts["sizes"] == "all 32x40"
    assert report.counts["formats"] == {".png": 7}
    assert report.counts["bit depth"] == {"8 bit": 7}
    # Stripes of rows 0..10, 11..21 and 22..31 of 32 (make_label), the same in every mask.
    assert [one.pixel_share for one in report.classes] == pytest.approx([11 / 32, 11 / 32, 10 / 32], abs=1e-6)
    assert [(one.images, one.groups, one.val_images) for one in report.classes] == [(4, 4, 1)] * 3
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("maker", [make_nifti_folder, make_hdf5_folder])
def test_volumes(tmp_path: Path, maker: object) -> None:
    assert callable(maker)
    report = check_folder(maker(tmp_path))
    assert report.ok
    if maker is make_nifti_folder:
        assert report.counts["spacing"] == "0.5 to 3 mm"


def test_all_problems_are_collected(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=8, n_masks=8, classes=2)
    (tmp_path / "val.txt").write_text("case_7\n")
    broken = tmp_path / "images" / "case_1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    save_picture(tmp_path / "masks" / "case_2.png", make_label((40, 32), 2))
    save_picture(tmp_path / "masks" / "case_3.png", make_label((32, 40), 4))
    save_picture(tmp_path / "masks" / "case_4.png", make_image((32, 40), channels=3))
    report = check_folder(tmp_path, spec=LabelSpec(classes=2))
    assert not report.ok
    # Two masks cannot be used, which is one finding with two sentences.
    assert [one.kind for one in report.of("error")] == ["unreadable-image", "unfit-mask", "unknown-values"]
    assert [len(one.files) for one in report.of("error")] == [1, 2, 1]
    for name, text in [
        ("case_1", "broken or truncated"),
        ("case_2", "axes are swapped"),
        ("case_3", "outside the classes: 2, 3"),
        ("case_4", "colour picture"),
    ]:
        assert any(name in error and text in error for error in report.errors), report.errors


def test_nan_volume(tmp_path: Path) -> None:
    make_nifti_folder(tmp_path)
    values = make_image((20, 24, 5)).astype(np.float32)
    values[0, 0, 0] = np.nan
    save_nifti(tmp_path / "images" / "vol_3.nii.gz", values)
    report = check_folder(tmp_path)
    assert len(report.errors) == 1
    assert "vol_3.nii.gz: 1 of 2400 values are NaN" in report.errors[0]


def test_problems_of_hidden_masks_are_warnings(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=6, n_masks=6)
    hidden = make_split(scan_folder(tmp_path), 2).unlabelled
    (tmp_path / "masks" / f"{hidden[0]}.png").write_bytes(b"broken")
    save_picture(tmp_path / "masks" / f"{hidden[1]}.png", make_label((32, 40), classes=9))
    report = check_folder(tmp_path, labelled=2)
    assert report.ok
    assert len(report.warnings) == 2
    assert all("Training does not open this mask" in text for text in report.warnings)
    assert report.counts["masks hidden from training"] == 3


def test_scan_and_split_errors_end_in_the_report(tmp_path: Path) -> None:
    assert "the folder is empty" in check_folder(tmp_path).errors[0]
    make_folder(tmp_path, n_images=3, n_masks=0)
    (tmp_path / "images" / "case_1.png").write_bytes(b"broken")
    report = check_folder(tmp_path)
    assert any("no labelled image" in text for text in report.errors)
    assert any("case_1" in text for text in report.errors)


def test_warnings_and_notes(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=5, n_masks=5, mask_values=[0, 255, 255], size=(12, 40))
    save_picture(tmp_path / "images" / "case_0.png", np.full((12, 40), 7, np.uint8))
    save_picture(tmp_path / "images" / "case_1.png", make_image((12, 40), channels=3))
    save_picture(tmp_path / "masks" / "case_2.png", np.zeros((12, 40), np.uint8))
    report = check_folder(tmp_path)
    assert report.ok
    text = "\n".join(report.warnings + report.notes)
    assert "1 image is constant, one value everywhere. case_0" in text
    assert "side below 16 px" in text
    assert "Grey and colour images are mixed" in text
    assert "No unlabelled image: training will be supervised only" in text
    assert "0 and 255 are read as classes 0 and 1" in text
    assert report.counts["masks with background only"] == 1


def test_absent_class_is_noted(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=4, n_masks=4, classes=2)
    report = check_folder(tmp_path, spec=LabelSpec(classes=["bg", "a", "b"]))
    assert report.ok
    assert any("Class 2 (b, mask value 2) never occurs" in text for text in report.warnings)


def test_displaced_mask_is_warned_of(tmp_path: Path) -> None:
    make_nifti_folder(tmp_path)
    save_nifti(tmp_path / "labels" / "vol_0.nii.gz", make_label((20, 24, 5)), spacing_mm=(1.0, 1.0, 3.0))
    report = check_folder(tmp_path)
    assert report.ok
    assert any("1 mask lies elsewhere" in text and "vol_0" in text for text in report.warnings)


def test_exif_orientation_is_warned_of(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=4, n_masks=4, suffix=".jpg")
    save_picture(tmp_path / "images" / "case_2.jpg", make_image(), exif=orientation_tag(3))
    (warning,) = check_folder(tmp_path).warnings
    assert "orientation tag and the mask none" in warning
    assert "case_2" in warning
    # Turned by a quarter, the mask's size says what it was drawn on; a mask with the tag lies like its image.
    save_picture(tmp_path / "images" / "case_2.jpg", make_image(), exif=orientation_tag(6))
    assert check_folder(tmp_path).warnings == []
    save_picture(tmp_path / "images" / "case_2.jpg", make_image(), exif=orientation_tag(3))
    save_picture(tmp_path / "masks" / "case_2.png", make_label(), exif=orientation_tag(3))
    assert check_folder(tmp_path).warnings == []


def test_fit_label() -> None:
    image = MedicalImage(np.zeros((4, 6, 1)), Geometry(), Path("i.png"))
    fit_label(image, MedicalLabel(np.zeros((4, 6), np.int32), Geometry(), Path("m.png")))
    with pytest.raises(InputError, match=r"m\.png: the mask has size 4x5, its image i\.png 4x6"):
        fit_label(image, MedicalLabel(np.zeros((4, 5), np.int32), Geometry(), Path("m.png")))


def test_report_is_printed_whole_and_literally() -> None:
    out = io.StringIO()
    report = CheckReport(counts={"images": 3, "x": {"a": 1}})
    report.add("note", "k", "n")
    report.add("warning", "near-copies", "w", "Do [this].", files=("a", "b"), pairs=[("a", "b")])
    report.add("error", "k", "2 are bad.", details=[f"a[{i}].png: bad" for i in range(7)])
    print_report(report, Console(file=out, width=60))
    text = out.getvalue()
    for part in ("images", "a: 1", "Note: n", "Warning: w", "a ~ b", "-> Do [this].", "a[4].png: bad", "and 2 more"):
        assert part in text
    assert "a[5].png" not in text
    assert "1 error to correct" in text
    assert report.to_json()["findings"][2]["details"][6] == "a[6].png: bad"
    out = io.StringIO()
    print_report(CheckReport(), Console(file=out))
    assert "Ready to train" in out.getvalue()


def test_advice_of_a_sentence_becomes_the_suggestion() -> None:
    report = CheckReport()
    report.add_sentence("error", "k", "a.png: a; b; rename it.", otherwise="Else.")
    report.add_sentence("warning", "k", "Plain.", otherwise="Else.")
    assert [(one.sentence, one.suggestion) for one in report.findings] == [
        ("a.png: a; b.", "Rename it."), ("Plain.", "Else."),
    ]  # fmt: skip


def test_affine_helper_has_the_given_spacing() -> None:
    np.testing.assert_allclose(np.linalg.norm(make_affine()[:3, :3], axis=0), (0.5, 0.75, 3.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["acdc_h5", "hippocampus", "busi"])
def test_real_folders_are_ready(shared_data: Path, name: str) -> None:
    report = check_folder(shared_data / name, labelled=1)
    assert report.ok, report.errors


def kinds(report: CheckReport, severity: str = "warning") -> set[str]:
    return {one.kind for one in report.findings if one.severity == severity}


def test_check_goes_on_after_faults_of_the_layout(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=5, n_masks=5, groups=["a", "a", "b", "c", "d"])
    save_picture(tmp_path / "masks" / "stranger.png", make_label((32, 40)))
    (tmp_path / "train.txt").write_text("case_0\ncase_2\ncase_3\n")
    (tmp_path / "val.txt").write_text("case_1\ncase_3\n")
    (tmp_path / "images" / "case_2.png").write_bytes(b"broken")
    text = "\n".join(check_folder(tmp_path).errors)
    for part in ("stranger.png", "group a is in the train and the val list", "case_3 is in the", "case_2.png: broken"):
        assert part in text, text
    with pytest.raises(InputError, match=r"stranger\.png"):
        scan_folder(tmp_path)


def test_faults_of_test_images_do_not_stop_training(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=6, n_masks=6)
    (tmp_path / "test.txt").write_text("case_4\ncase_5\n")
    (tmp_path / "images" / "case_4.png").write_bytes(b"broken")
    save_picture(tmp_path / "masks" / "case_5.png", make_label((32, 40), classes=9))
    report = check_folder(tmp_path)
    assert report.ok
    assert {"unreadable-image", "unknown-values"} <= kinds(report)


def save_mask(path: Path, *boxes: tuple[int, slice, slice], size: tuple[int, int] = (128, 128)) -> None:
    mask = np.zeros(size, np.uint8)
    for value, rows, columns in boxes:
        mask[rows, columns] = value
    save_picture(path, mask)


def test_rare_small_and_unvalidated_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=6, n_masks=0, size=(128, 128))
    common = (1, slice(0, 64), slice(0, 128))
    for i in range(6):
        extra = [(2, slice(100, 101), slice(5, 6))] if i == 2 else []
        save_mask(tmp_path / "masks" / f"case_{i}.png", common, *extra)
    (tmp_path / "val.txt").write_text("case_4\ncase_5\n")
    report = check_folder(tmp_path)
    said = {one.kind: one.sentence for one in report.findings}
    assert said["rare-class"] == "Class 2 (class_2, mask value 2) occurs in 1 of 4 labelled groups (1 image)."
    # One px of four masks of 128 x 128.
    assert report.classes[2].pixel_share == pytest.approx(1 / 65536, abs=1e-7)
    assert "covers 0.0015 % of the labelled pixels" in said["small-class"]
    assert "Class 2" in said["unvalidated-class"]
    assert not any("Class 1 " in text for text in report.warnings)


def test_few_labelled_groups_are_no_rare_class(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=6, n_masks=6)
    assert kinds(check_folder(tmp_path, labelled=1)) == set()


def test_mixed_depths_and_uneven_volumes(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=4, n_masks=4)
    save_picture(tmp_path / "images" / "case_3.png", make_image(seed=3).astype(np.uint16) * 200)
    for index, size in enumerate([(32, 40), (32, 44)]):
        save_picture(tmp_path / "unlabelled" / f"p_slice_{index}.png", make_image(size, seed=50 + index))
    report = check_folder(tmp_path)
    assert report.counts["bit depth"] == {"8 bit": 5, "16 bit": 1}
    assert {"bit-depth", "uneven-volumes"} <= kinds(report)


@pytest.mark.slow
def test_real_acdc_facts(shared_data: Path) -> None:
    report = check_folder(shared_data / "acdc", labelled=7)
    assert report.ok
    assert report.counts["split: labelled"] == {"images": 136, "groups": 7}
    assert kinds(report) == {"exact-copies", "contradicting-masks"}
    copies = next(one for one in report.findings if one.kind == "exact-copies")
    assert {stem.split("_")[0] for stem in copies.files} == {"patient074", "patient076"}
    assert len(copies.files) == 32

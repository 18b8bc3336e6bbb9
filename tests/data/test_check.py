from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from helpers import (
    make_affine,
    make_folder,
    make_hdf5_folder,
    make_image,
    make_label,
    make_nifti_folder,
    save_nifti,
    save_picture,
)
from knowsam.data.check import CheckReport, check_folder, check_pair, print_report
from knowsam.data.scan import scan_folder
from knowsam.data.split import make_split
from knowsam.errors import InputError
from knowsam.types import Geometry, MedicalImage, MedicalLabel


def test_healthy_folder(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_folder(tmp_path, n_images=6, n_masks=5, unlabelled=1)
    report = check_folder(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert report.ok
    assert report.warnings == []
    assert calls == [(i, 7) for i in range(1, 8)]
    assert report.counts["images"] == 7
    assert report.counts["with a mask"] == 5
    assert report.counts["split: labelled"] == {"images": 4, "groups": 4}
    assert report.counts["sizes"] == "all 32x40"
    assert report.counts["class shares (labelled)"]["class_1"] == pytest.approx(1 / 3, abs=0.05)
    json.dumps(report.counts)


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
    report = check_folder(tmp_path, classes=2)
    assert not report.ok
    assert len(report.errors) == 4
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
    assert "1 images are constant, one value everywhere (case_0)" in text
    assert "side below 16 px" in text
    assert "Grey and colour images are mixed" in text
    assert "No unlabelled image: training will be supervised only" in text
    assert "0 and 255 are read as classes 0 and 1" in text
    assert report.counts["masks with background only"] == 1


def test_absent_class_is_noted(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=4, n_masks=4, classes=2)
    report = check_folder(tmp_path, classes=["bg", "a", "b"])
    assert report.ok
    assert any("Class 2 (b, mask value 2) never occurs" in text for text in report.notes)


def test_copies_in_other_groups_are_found(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=4, n_masks=4)
    save_picture(tmp_path / "images" / "case_3.png", make_image(seed=0))
    (tmp_path / "val.txt").write_text("case_3\n")
    text = "\n".join(check_folder(tmp_path).warnings)
    assert "case_0 = case_3" in text
    assert "both in training and in validation" in text


def test_displaced_mask_is_warned_of(tmp_path: Path) -> None:
    make_nifti_folder(tmp_path)
    save_nifti(tmp_path / "labels" / "vol_0.nii.gz", make_label((20, 24, 5)), spacing_mm=(1.0, 1.0, 3.0))
    report = check_folder(tmp_path)
    assert report.ok
    assert any("masks lie elsewhere" in text and "vol_0" in text for text in report.warnings)


def test_exif_orientation_is_warned_of(tmp_path: Path) -> None:
    from PIL import Image

    make_folder(tmp_path, n_images=4, n_masks=4, suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 3
    save_picture(tmp_path / "images" / "case_2.jpg", make_image(), exif=exif)
    assert any("EXIF" in text and "case_2" in text for text in check_folder(tmp_path).warnings)


def test_check_pair() -> None:
    image = MedicalImage(np.zeros((4, 6, 1)), Geometry(), Path("i.png"))
    check_pair(image, MedicalLabel(np.zeros((4, 6), np.int32), Geometry(), Path("m.png")))
    with pytest.raises(InputError, match=r"m\.png: the mask has size 4x5, its image i\.png 4x6"):
        check_pair(image, MedicalLabel(np.zeros((4, 5), np.int32), Geometry(), Path("m.png")))


def test_report_is_printed_whole_and_literally() -> None:
    out = io.StringIO()
    report = CheckReport(errors=["a[0].png: bad"], warnings=["w"], notes=["n"], counts={"images": 3, "x": {"a": 1}})
    print_report(report, Console(file=out, width=60))
    text = out.getvalue()
    for part in ("images", "a: 1", "Note: n", "Warning: w", "Error: a[0].png: bad", "1 error to correct"):
        assert part in text
    out = io.StringIO()
    print_report(CheckReport(), Console(file=out))
    assert "Ready to train" in out.getvalue()


def test_affine_helper_has_the_given_spacing() -> None:
    np.testing.assert_allclose(np.linalg.norm(make_affine()[:3, :3], axis=0), (0.5, 0.75, 3.0))


@pytest.mark.parametrize("name", ["acdc_h5", "hippocampus", "busi"])
def test_real_folders_are_ready(shared_data: Path, name: str) -> None:
    report = check_folder(shared_data / name, labelled=1)
    assert report.ok, report.errors

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from knowsam.data.folder import scan_folder
from knowsam.data.mask_names import likely_image, shared_rule
from knowsam.errors import InputError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a.png", "b.png"], ["a_mask.png", "b_mask.png"]),
        (["a.jpg", "b.jpg"], ["mask_a.png", "mask_b.png"]),
        (["a.png", "b.png"], ["a.png.png", "b.png.png"]),
        (["a_img.png", "b_img.png"], ["a.png", "b.png"]),
        (["a_0000.nii.gz", "b_0000.nii.gz"], ["a.nii.gz", "b.nii.gz"]),
        (["a_0000.nii.gz", "b_0000.nii.gz"], ["a_seg.nii.gz", "b_seg.nii.gz"]),
        (["img_1.png", "img_2.png"], ["label_1.png", "label_2.png"]),
        (["img1.png", "img12.png"], ["mask1.png", "mask12.png"]),
        (["21_training.png", "22_training.png"], ["21_manual1.png", "22_manual1.png"]),
        (["benign (1).png", "benign (2).png"], ["benign (1)_mask.png", "benign (2)_mask.png"]),
        (["train_1.bmp", "train_2.bmp"], ["train_1_anno.bmp", "train_2_anno.bmp"]),
    ],
    ids=lambda names: names[0],
)
def test_all_masks_pair_by_one_rule_and_it_is_said(tmp_path: Path, images: list[str], masks: list[str]) -> None:
    touch(tmp_path, *(f"images/{name}" for name in [*images, "zzz.png"]), *(f"masks/{name}" for name in masks))
    folder = scan_folder(tmp_path)
    found = {case.image.name: case.label.name for case in folder.labelled_cases() if case.label is not None}
    assert found == dict(zip(images, masks, strict=True))
    assert any("all 2 are paired by one rule" in note for note in folder.notes)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a", "b"], ["a_mask", "b_seg"]),
        (["a", "b"], ["a_mask", "c_mask"]),
        (["a_1", "a_2"], ["a_3", "a_4"]),
        (["p1"], ["p1_2"]),
        (["smith_1", "smith_2"], ["jones_1", "jones_2"]),
        (["image_1"], ["image_2_mask"]),
        (["p1_left", "p2_left"], ["p1", "p2"]),
        (["a_0000"], ["a_left"]),
        (["t1_1", "t2_1"], ["seg_1"]),
    ],
    ids=[
        "two rules",
        "no image",
        "numbers",
        "a number at the end",
        "patients",
        "another number",
        "a side",
        "a side for a channel",
        "two images",
    ],
)
def test_what_is_not_certain_is_no_rule(images: list[str], masks: list[str]) -> None:
    assert shared_rule(images, masks) is None


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ("b_mask", "b"),
        ("mask_b", "b"),
        ("b.png", "b"),
        ("B", "b"),
        ("case-7", "case_007"),
        ("q", None),
        ("case_008", None),
        ("seg-b_gt", "b"),
        ("Mask_B_manual1", "b"),
    ],
)
def test_hint_names_the_image_it_believes_in(mask: str, image: str | None) -> None:
    assert likely_image(mask, ["a", "b", "case_007"]) == image


def test_a_stranger_among_masks_is_an_error_with_the_pair(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b_seg.png")
    with pytest.raises(InputError, match=r"b_seg\.png: a mask for which .* seems to be b\.png: rename it to b"):
        scan_folder(tmp_path)


def test_suffixes_in_capitals_and_unicode_forms_are_the_same_name(tmp_path: Path) -> None:
    composed, parted = (unicodedata.normalize(form, "l\u00e9sion") for form in ("NFC", "NFD"))
    assert composed != parted
    touch(tmp_path, "images/A.PNG", f"images/{parted}.png", "masks/A.png", f"masks/{composed}.png")
    (tmp_path / "train.txt").write_text(f"A.PNG\n{parted}\n", encoding="utf-8")
    (tmp_path / "groups.csv").write_text(f"stem,group\nA,g\n{parted},h\n", encoding="utf-8")
    folder = scan_folder(tmp_path)
    assert folder.errors == []
    assert [case.stem for case in folder.labelled_cases()] == ["A", composed]
    assert folder.train == ["A", composed]
    assert folder.cases[composed].group == "h"

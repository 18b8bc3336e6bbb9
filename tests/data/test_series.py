from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from knowsam.data.folder import scan_folder
from knowsam.data.series import scan_series, write_series_table
from knowsam.errors import InputError
from knowsam.io import case_stem, read_image, read_label, write_label
from knowsam.io.alignment import align
from support.dicom import (
    NAME,
    PATIENT_ID,
    REPORT,
    SECRETS,
    make_dataset,
    make_picture,
    make_slices,
    make_stored,
    save,
    save_series,
)
from support.folders import make_image, make_label, save_picture

SHAPE = (6, 8, 5)
STORED = make_stored(SHAPE)


def make_archive(images: Path) -> dict[str, str]:
    """Two patients: one with two series mixed in one folder, one in a subfolder; a localiser and a report beside.

    Returns:
        Series -> stem.
    """
    stems = {}
    for series, patient, folder in (("a", "P1", "mixed"), ("b", "P1", "mixed"), ("c", "P2", "deep/folder")):
        files = make_slices(STORED, series, patient)
        first = save_series(images / folder, files, lambda index, series=series: f"{index}{series}")
        stems[series] = case_stem(first)
    save_series(
        images / "mixed", make_slices(STORED[..., :1], "scout", "P1", ImageType=["LOCALIZER"]), lambda _: "L.dcm"
    )
    save(make_dataset(REPORT, "report", "P2"), images / "deep" / "report.dcm")
    return stems


def test_series_of_all_subfolders_are_cases_and_patients_are_groups(tmp_path: Path) -> None:
    stems = make_archive(tmp_path / "images")
    folder = scan_folder(tmp_path)
    assert set(folder.cases) == set(stems.values())
    groups = {series: folder.cases[stem].group for series, stem in stems.items()}
    assert groups["a"] == groups["b"] != groups["c"]
    assert set(groups.values()) == {"patient_001", "patient_002"}
    assert all(case.volume == stem for stem, case in folder.cases.items())
    assert [note for note in folder.notes if "1 DICOM file without an image, 1 localiser" in note]
    assert folder.warnings == []


def test_groups_csv_wins_over_patient_ids(tmp_path: Path) -> None:
    stems = make_archive(tmp_path / "images")
    (tmp_path / "groups.csv").write_text(f"stem,group\n{stems['a']},x\n{stems['b']},y\n{stems['c']},z\n")
    assert {case.group for case in scan_folder(tmp_path).cases.values()} == {"x", "y", "z"}


def test_series_below_unlabelled_are_in_the_unlabelled_folder(tmp_path: Path) -> None:
    make_archive(tmp_path / "images")
    extra = case_stem(save_series(tmp_path / "unlabelled" / "x", make_slices(STORED, "extra", "P3")))
    folder = scan_folder(tmp_path)
    assert [stem for stem in folder.cases if folder.in_unlabelled_folder(stem)] == [extra]
    assert folder.cases[extra].group == "patient_003"


def test_pictures_and_dicom_may_be_mixed(tmp_path: Path) -> None:
    stems = make_archive(tmp_path / "images")
    save_picture(tmp_path / "images" / "plain.png", make_image())
    assert set(scan_folder(tmp_path).cases) == {*stems.values(), "plain"}


def test_masks_pair_by_reference_by_name_and_by_folder(tmp_path: Path) -> None:
    stems = make_archive(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    label = make_label(SHAPE)
    images = {series: read_image(scan_folder(tmp_path).cases[stem].image) for series, stem in stems.items()}
    write_label(tmp_path / "masks" / "made by hand", label, images["a"])
    write_label(tmp_path / "masks" / stems["b"], label, images["b"], as_format="nifti")
    write_label(tmp_path / "masks" / "folder", label, images["c"], as_format="nifti")
    cases = scan_folder(tmp_path).cases
    names = {series: cases[stem].label.name for series, stem in stems.items() if cases[stem].label is not None}
    assert names == {"a": "made by hand.dcm", "b": f"{stems['b']}.nii.gz", "c": "folder.nii.gz"}


def test_a_segmentation_of_another_series_is_an_orphan(tmp_path: Path) -> None:
    make_archive(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    other = read_image(save_series(tmp_path / "elsewhere", make_slices(STORED, "other")))
    write_label(tmp_path / "masks" / "a", make_label(SHAPE), other)
    with pytest.raises(InputError, match="a mask for which there is no image"):
        scan_folder(tmp_path)


def test_segments_of_one_number_and_two_meanings_are_warned_of(tmp_path: Path) -> None:
    stems = make_archive(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    found = scan_folder(tmp_path).cases
    for series, name in (("a", "liver"), ("b", "Liver"), ("c", "spleen")):
        image = read_image(found[stems[series]].image)
        write_label(tmp_path / "masks" / series, (make_label(SHAPE) > 0).astype(np.uint8), image, ["background", name])
    warnings = scan_folder(tmp_path).warnings
    assert len([one for one in warnings if "segment 1 is named otherwise" in one]) == 1


def test_missing_and_equal_patient_ids_are_warned_of(tmp_path: Path) -> None:
    for series in "ab":
        save_series(tmp_path / "none" / series, make_slices(STORED, series, patient=""))
        save_series(tmp_path / "same" / series, make_slices(STORED, series))
    assert "2 of 2 series have no patient ID" in scan_series(tmp_path / "none").warnings[0]
    assert "all 2 series have the same patient ID" in scan_series(tmp_path / "same").warnings[0]


def test_tilted_unreadable_and_many_sided_series_are_told_of(tmp_path: Path) -> None:
    save_series(tmp_path, make_slices(STORED, "tilted", step=(0, 1, 3)))
    sides = [*make_slices(STORED[..., :2], "s"), *make_slices(STORED, "s", orientation=(1, 0, 0, 0, 0, -1))[2:]]
    save_series(tmp_path, sides, lambda index: f"side{index}")
    (tmp_path / "text.dcm").write_text("no DICOM")
    found = scan_series(tmp_path)
    assert len(found.series) == 1
    assert f"{tmp_path / 'side0'}: its series is left aside: slices of several orientations" in found.notes[0]
    assert "1 file that should be DICOM cannot be read (text.dcm)" in found.warnings[0]
    assert "1 volume scanned with a tilted gantry" in found.warnings[1]


def test_one_series_in_two_folders_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_series(tmp_path / folder, make_slices(STORED))
    with pytest.raises(InputError, match="the same series as"):
        scan_series(tmp_path)


def test_table_says_which_series_a_name_is_without_saying_whose(tmp_path: Path) -> None:
    family, given = NAME.split("^")
    path = save_series(tmp_path / "ward 3" / f"{given} {family} {PATIENT_ID}" / "CT", make_slices(STORED))
    picture = save(make_picture(make_image((8, 10))), tmp_path / "b.dcm")
    table = write_series_table([path, picture], tmp_path / "out", tmp_path).read_text()
    assert table.splitlines()[0] == "stem,folder,files,modality,series_number,series_instance_uid"
    assert f"{case_stem(path)},ward 3/***/CT,5,CT,3,{make_slices(STORED)[0].SeriesInstanceUID}" in table
    assert not [secret for secret in SECRETS if secret in table.lower()]


@pytest.mark.parametrize("turn", [("L", "A", "S"), ("R", "A", "S"), ("P", "I", "L")])
def test_a_mask_whose_axes_a_converter_turned_is_laid_on_its_image(tmp_path: Path, turn: tuple[str, ...]) -> None:
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image = read_image(save_series(tmp_path / "s", make_slices(STORED)))
    label = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    stored = nib.Nifti1Image(label, image.geometry.header.get_best_affine())
    turned = stored.as_reoriented(ornt_transform(io_orientation(stored.affine), axcodes2ornt(turn)))
    nib.save(turned, tmp_path / "mask.nii.gz")
    laid = align(read_label(tmp_path / "mask.nii.gz"), image)
    np.testing.assert_array_equal(laid.array, image.geometry.as_read(label))


def test_a_mask_in_another_order_and_place_is_refused(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", make_slices(STORED)))
    moved = image.geometry.header.get_best_affine() @ np.diag((1, -1, 1, 1))
    nib.save(nib.Nifti1Image(make_label(SHAPE), moved), tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match="stored in another order of axes"):
        align(read_label(tmp_path / "mask.nii.gz"), image)

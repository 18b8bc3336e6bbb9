"""Which mask voxel lies on which image voxel, whatever order the two are stored in."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from knowsam.data.pairing import read_pair
from knowsam.errors import InputError
from support.folders import make_image, orientation_tag, save_picture, save_turned

MARK = np.zeros((8, 9, 5), np.uint8)
MARK[1:3, 2:7, 4] = 1
SHOWN = np.zeros((9, 6), np.uint8)
SHOWN[:2, :3] = 1


def reorient(source: Path, target: Path, codes: str) -> None:
    nib.save(nib.load(source).as_reoriented(nib.orientations.axcodes2ornt(codes)), target)


@pytest.mark.parametrize("image_codes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("label_codes", ["RAS", "LPS", "PIR"])
def test_files_that_say_how_they_lie_are_paired_by_place(tmp_path: Path, image_codes: str, label_codes: str) -> None:
    straight = save_turned(tmp_path / "ras.nii", MARK, "RAS", spacing_mm=(1, 2, 3))
    reorient(straight, tmp_path / "image.nii", image_codes)
    reorient(straight, tmp_path / "label.nii", label_codes)
    image, label = read_pair(tmp_path / "image.nii", tmp_path / "label.nii")
    np.testing.assert_array_equal(image.array[..., 0], MARK)
    np.testing.assert_array_equal(label.array, MARK)


@pytest.mark.parametrize("unsaid", ["image", "label", "identity"])
def test_a_file_that_does_not_say_it_is_stored_like_the_other(tmp_path: Path, unsaid: str) -> None:
    for name in ("image", "label"):
        save_turned(tmp_path / f"{name}.nii", MARK, "PIR", stated=int(name != unsaid), spacing_mm=(1, 2, 3))
    if unsaid == "identity":  # what a program writes that knows no affine
        nib.save(nib.Nifti1Image(MARK, np.eye(4)), tmp_path / "label.nii")
    image, label = read_pair(tmp_path / "image.nii", tmp_path / "label.nii")
    np.testing.assert_array_equal(label.array, image.array[..., 0])
    np.testing.assert_array_equal(image.geometry.as_stored(label.array), MARK)


def test_another_order_at_another_place_is_refused(tmp_path: Path) -> None:
    save_turned(tmp_path / "image.nii", MARK, "LPS", spacing_mm=(1, 2, 3))
    save_turned(tmp_path / "label.nii", MARK, "RAS", spacing_mm=(1, 2, 3))
    with pytest.raises(InputError, match=r"label\.nii: it is stored in another order of axes than .*image\.nii"):
        read_pair(tmp_path / "image.nii", tmp_path / "label.nii")


@pytest.mark.parametrize("drawn_on", ["stored", "shown", "tagged"])
def test_a_mask_of_a_tagged_picture_lies_on_it(tmp_path: Path, drawn_on: str) -> None:
    stored = np.rot90(SHOWN)  # tag 6: shown turned clockwise
    image_path = save_picture(tmp_path / "image.png", stored * np.uint8(200), exif=orientation_tag(6))
    drawn, tags = {
        "stored": (stored, {}),
        "shown": (SHOWN, {}),
        "tagged": (stored, {"exif": orientation_tag(6)}),
    }[drawn_on]
    image, label = read_pair(image_path, save_picture(tmp_path / "mask.png", np.ascontiguousarray(drawn), **tags))
    np.testing.assert_array_equal(image.array[..., 0], SHOWN * 200)
    np.testing.assert_array_equal(label.array, SHOWN)


def test_a_picture_as_mask_of_a_nifti_slice_is_stored_like_it(tmp_path: Path) -> None:
    array = make_image((8, 9))
    image, label = read_pair(
        save_turned(tmp_path / "image.nii", array, "LPS"), save_picture(tmp_path / "mask.png", array)
    )
    np.testing.assert_array_equal(label.array, image.array[..., 0])
    assert not np.array_equal(label.array, array)

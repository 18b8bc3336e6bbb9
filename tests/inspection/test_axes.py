from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from knowsam.inspection.check import check_folder
from knowsam.inspection.findings import Finding
from support.folders import make_image, make_nifti_folder, save_picture, save_turned


def of_kind(root: Path, kind: str) -> list[Finding]:
    return [finding for finding in check_folder(root).findings if finding.kind == kind]


def test_volumes_that_would_be_cut_differently_are_named(tmp_path: Path) -> None:
    for number, spacing in enumerate([(1, 1, 1), (1, 1, 1), (1, 1, 0.97)]):
        save_turned(tmp_path / "images" / f"v{number}.nii", make_image((8, 9, 7), seed=number), "RAS", 1, spacing)
        save_turned(tmp_path / "masks" / f"v{number}.nii", make_image((8, 9, 7)) // 128, "RAS", 1, spacing)
    (found,) = of_kind(tmp_path, "slice-axes")
    assert found.files == ("v2",)
    assert "1 along axis 1 of 3 volumes" in found.sentence
    assert "all are cut along axis 2 (axial)" in found.sentence
    assert of_kind(make_nifti_folder(tmp_path / "alike"), "slice-axes") == []


def test_the_header_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    make_nifti_folder(tmp_path)
    path = save_turned(tmp_path / "images" / "vol_1.nii", make_image((20, 24, 5)), "RAS")
    (tmp_path / "images" / "vol_1.nii.gz").unlink()
    save_turned(tmp_path / "labels" / "vol_1.nii.gz", make_image((20, 24, 5)) // 100, "RAS")
    raw = bytearray(path.read_bytes())
    raw[252:254] = bytes(2)  # qform_code
    raw[88:92] = np.float32(2.5).tobytes()  # pixdim[3]
    path.write_bytes(raw)
    (found,) = of_kind(tmp_path, "header")
    assert found.details == (
        "vol_1.nii says 1 x 1 x 2.5 mm in pixdim and 1 x 1 x 1 mm in its affine, which was believed.",
    )


def organs(seed: int, axis: int) -> np.ndarray:
    """Two discs beside each other along an axis, at places that vary."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :48]
    mask = np.zeros((48, 48), np.uint8)
    for value, centre in ((1, 13), (2, 34)):
        places = [24 + rng.integers(-3, 4), 24 + rng.integers(-3, 4)]
        places[axis] = centre + rng.integers(-3, 4)
        mask[(rows - places[0]) ** 2 + (columns - places[1]) ** 2 < 49] = value
    return mask


@pytest.mark.parametrize(("axis", "flip", "keeps"), [(1, "horizontal", "vertical"), (0, "vertical", "horizontal")])
def test_classes_that_mirror_each_other_are_named(tmp_path: Path, axis: int, flip: str, keeps: str) -> None:
    for number in range(5):
        save_picture(tmp_path / "images" / f"k{number}.png", make_image((48, 48), seed=number))
        save_picture(tmp_path / "masks" / f"k{number}.png", organs(number, axis))
    (found,) = of_kind(tmp_path, "mirrored-classes")
    assert found.sentence.startswith("class_1 and class_2 (mask values 1 and 2) mirror each other")
    assert f"({flip})" in found.sentence
    assert f"train.flip={keeps}" in found.suggestion
    # One inside the other, and one many times larger, are no mirror images.
    for number in range(5):
        mask = organs(number, axis)
        save_picture(tmp_path / "masks" / f"k{number}.png", np.where(mask == 1, 0, mask + np.roll(mask, 4, 0) // 2))
    assert of_kind(tmp_path, "mirrored-classes") == []


@pytest.mark.parametrize(("codes", "found"), [("RAS", 1), ("LPS", 1), ("ARS", 0)])
def test_volumes_are_mirrored_from_left_to_right_alone(tmp_path: Path, codes: str, found: int) -> None:
    for number in range(4):
        mask = np.stack([organs(number, 0)] * 6, axis=-1)
        save_turned(tmp_path / "images" / f"v{number}.nii", make_image(mask.shape, seed=number), codes)
        save_turned(tmp_path / "masks" / f"v{number}.nii", mask, codes)
    assert len(of_kind(tmp_path, "mirrored-classes")) == found


@pytest.mark.parametrize("name", ["hippocampus", "wbc"])
def test_real_folders_have_no_mirrored_classes_and_one_axis(shared_data: Path, name: str) -> None:
    kinds = {finding.kind for finding in check_folder(shared_data / name).findings}
    assert kinds.isdisjoint({"mirrored-classes", "slice-axes", "header", "exif", "displaced"})

"""The same image gives the same mask in the order in which it is stored, whatever that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageOps

from knowsam.inference.predictor import Predictor
from knowsam.reliability.predictions import predict_folder
from support.exports import make_student
from support.folders import make_image, orientation_tag, save_picture, save_turned

SHAPE = (21, 33, 11)


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    """Of a set of volumes that are cut along axis 2."""
    found = Predictor(make_student(tmp_path / "student.safetensors", "unet", (32, 32)), "cpu")
    preprocessing = replace(found.info.preprocessing, slice_axis=2, spacing_mm=(1.0, 1.0, 1.0))
    found.info = replace(found.info, preprocessing=preprocessing)
    return found


def test_a_volume_stored_otherwise_gives_the_same_mask(predictor: Predictor, tmp_path: Path) -> None:
    source = save_turned(tmp_path / "in" / "ras.nii.gz", make_image(SHAPE).astype(np.int16), "RAS")
    for codes in ("LPS", "PIR"):
        turned = nib.load(source).as_reoriented(nib.orientations.axcodes2ornt(codes))
        nib.save(turned, tmp_path / "in" / f"{codes.lower()}.nii.gz")
    done = predict_folder(predictor, tmp_path / "in", tmp_path / "out", uncertainty=True, probabilities=True)
    assert (done.failed, done.warnings) == ((), ())
    for kind in ("", "_prob", "_entropy"):
        expected = nib.load(tmp_path / "out" / f"ras{kind}.nii.gz")
        for codes in ("lps", "pir"):
            found = nib.load(tmp_path / "out" / f"{codes}{kind}.nii.gz")
            given = nib.load(tmp_path / "in" / f"{codes}.nii.gz")
            assert found.shape[:3] == given.shape
            np.testing.assert_array_equal(found.affine, given.affine)
            canonical = nib.as_closest_canonical(found)
            np.testing.assert_array_equal(np.asarray(canonical.dataobj), np.asarray(expected.dataobj))


def test_the_axis_of_training_holds_and_is_said(predictor: Predictor, tmp_path: Path) -> None:
    array = make_image(SHAPE).astype(np.int16)
    for name, spacing in (("a", (1, 1, 1)), ("b", (1, 1, 0.97)), ("c", (1, 1, 0.97))):
        save_turned(tmp_path / "in" / f"{name}.nii.gz", array, "RAS", spacing_mm=spacing)
    done = predict_folder(predictor, tmp_path / "in", tmp_path / "out")
    first, second = (np.asarray(nib.load(tmp_path / "out" / f"{name}.nii.gz").dataobj) for name in "ab")
    np.testing.assert_array_equal(first, second)
    assert done.warnings == (
        "2 of 3 images (b.nii.gz, c.nii.gz): cut along axis 2 as in training; by its own spacing it would be axis 1.",
    )
    np.testing.assert_array_equal(predictor(array), first)
    assert not np.array_equal(predictor(array, axis=1), first)


@pytest.mark.parametrize("tag", [3, 6, 7])
def test_a_tagged_picture_gives_the_mask_of_the_picture_as_shown(
    predictor: Predictor, tmp_path: Path, tag: int
) -> None:
    tagged = save_picture(tmp_path / "in" / "tagged.png", make_image((30, 44)), exif=orientation_tag(tag))
    with Image.open(tagged) as stored:
        save_picture(tmp_path / "in" / "shown.png", np.asarray(ImageOps.exif_transpose(stored)))
    predict_folder(predictor, tmp_path / "in", tmp_path / "out", overlay=True)
    with Image.open(tmp_path / "out" / "tagged.png") as mask, Image.open(tmp_path / "out" / "shown.png") as expected:
        assert mask.size == (44, 30)
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(mask)), np.asarray(expected))
    overlays = [(tmp_path / "out" / f"{name}_overlay.png").read_bytes() for name in ("tagged", "shown")]
    assert overlays[0] == overlays[1]

"""Slices are drawn as radiologists see them, whatever the order of the file's axes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from knowsam.data.folder import Case
from knowsam.data.labels import LabelCoding
from knowsam.evaluation.scoring import score_cases
from knowsam.inference.files import draw, predict_files
from knowsam.inference.predictor import Predictor
from knowsam.inspection.examine import examine
from knowsam.inspection.page import draw_case
from knowsam.io import read_image
from knowsam.presentation.orientation import View, view_of
from knowsam.reliability.suggest_output import slice_maps
from knowsam.reporting.cases import view_slice
from support.exports import make_student
from support.folders import make_image, save_picture, save_turned

SHAPE = (5, 6, 7)  # patient's right to left, posterior to anterior, inferior to superior before the axes are permuted


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PRS", "IPL"])
@pytest.mark.parametrize(
    ("cut", "corner", "right_of_it", "below_it"),
    [
        (2, (4, 5), (3, 5), (4, 4)),  # axial: the corner is most right and most anterior
        (1, (4, 6), (3, 6), (4, 5)),  # coronal: most right and most superior
        (0, (5, 6), (4, 6), (5, 5)),  # sagittal: most anterior and most superior
    ],
)
def test_a_slice_is_turned_as_radiologists_see_it(
    tmp_path: Path,
    codes: str,
    cut: int,
    corner: tuple[int, int],
    right_of_it: tuple[int, int],
    below_it: tuple[int, int],
) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    straight = nib.load(save_turned(tmp_path / "ras.nii", array, "RAS"))
    nib.save(straight.as_reoriented(nib.orientations.axcodes2ornt(codes)), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    view = view_of(image, cut)
    slices = np.moveaxis(array, cut, 0)
    drawn = view.turn(np.moveaxis(image.array[..., 0], cut, 0), rows=1)
    assert view.known
    assert drawn.size == slices.size
    for index in (0, 2):
        assert drawn[index, 0, 0] == slices[index][corner]
        assert drawn[index, 0, 1] == slices[index][right_of_it]
        assert drawn[index, 1, 0] == slices[index][below_it]
        assert (view.turn(slices[index]) == drawn[index]).all()


def test_an_oblique_volume_takes_the_nearest_axes(tmp_path: Path) -> None:
    affine = np.eye(4)
    angle = np.deg2rad(40)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.int16), affine), tmp_path / "a.nii")
    assert view_of(read_image(tmp_path / "a.nii")) == View(True, True, True, True)  # as RAS


def test_what_does_not_say_how_it_lies_is_not_turned(tmp_path: Path) -> None:
    array = make_image(SHAPE).astype(np.int16)
    picture = read_image(save_picture(tmp_path / "a.png", make_image((5, 6))))
    for image in (read_image(save_turned(tmp_path / "a.nii", array, "RAS", stated=0)), picture):
        assert view_of(image) == View()
        assert view_of(image).turn(array) is array


def test_every_picture_of_a_volume_is_turned_and_its_mask_is_not(tmp_path: Path) -> None:
    array, truth = np.zeros((20, 24, 3), np.int16), np.zeros((20, 24, 3), np.uint8)
    array[19, 23], truth[16:, 18:] = 100, 1  # right and anterior
    source = save_turned(tmp_path / "images" / "a.nii", array, "RAS")
    case = Case("a", source, save_turned(tmp_path / "labels" / "a.nii", truth, "RAS"), "a", "a")
    image = read_image(source)
    predictor = Predictor(make_student(tmp_path / "student.safetensors", "unet", (32, 32)), "cpu")

    sheet = draw(image, truth, predictor.info)  # in the upper left corner after the gap of 4, enlarged 8 times
    assert tuple(sheet[4, 4]) == (248, 226, 178)  # .7 of white and .3 of the first colour, (230, 159, 0)
    preprocessing, coding = predictor.info.preprocessing, LabelCoding((0, 1, 2), ("background", "class_1", "class_2"))
    (scored,) = score_cases(predictor.outputs, [case], preprocessing, coding, dtype=torch.float32)
    shown = view_slice(scored, preprocessing, coding)
    assert shown.radiological
    assert shown.truth.shape == shown.prediction.shape == shown.entropy.shape == (24, 20)
    assert shown.picture[0, 0, 0] == 1
    assert shown.picture.sum() == 1
    assert shown.truth[:6, :4].all()
    assert shown.truth.sum() == 24
    picture, label, entropy = slice_maps(image, predictor)[1]
    assert picture[0, 0, 0] == 1
    assert (shown.prediction == label).all()
    np.testing.assert_allclose(entropy, shown.entropy, atol=2**-11)  # kept as float16, in [0, 1]
    tile, names = draw_case(examine(case), LabelCoding((0, 1), ("background", "class_1")))
    assert names == ["class_1"]
    assert tile[0, 0, 0] > tile[0, 0, 2] + 60  # orange
    assert (tile[-1, -1] == tile[-1, -1, 0]).all()  # grey

    (predicted,) = predict_files(predictor, source, tmp_path / "out")
    assert predicted.label is not None
    written = nib.load(predicted.label)
    assert (written.affine == nib.load(source).affine).all()
    assert (view_of(image).turn(np.asarray(written.dataobj)[:, :, 1]) == label).all()

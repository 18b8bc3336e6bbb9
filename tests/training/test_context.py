"""2.5-D: neighbouring slices as channels, from the file through every method to the masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import knowsam
from knowsam.data.augment import IntensityAugmentation
from knowsam.data.dataset import SliceStore
from knowsam.data.folder import scan_folder
from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image
from knowsam.methods import METHODS
from knowsam.runs.student_file import load_student
from knowsam.sam.teacher import SamTeacher
from knowsam.training.run import train
from support.folders import make_folder, make_image, make_nifti_folder, save_picture
from support.small_sam import small_sam
from support.training import run_config

THREE = Preprocessing((32, 32), 1, context=3)


def test_a_slice_stands_between_its_neighbours_and_the_ends_are_repeated(tmp_path: Path) -> None:
    image = read_image(make_nifti_folder(tmp_path) / "images" / "vol_0.nii.gz")
    single = Preprocessing((32, 32), 1).slices(image)[:, 0]
    assert len(single) == 5
    three, five = THREE.slices(image), Preprocessing((32, 32), 1, context=5).slices(image)
    for position, places in {0: (0, 0, 1), 2: (1, 2, 3), 4: (3, 4, 4)}.items():
        assert torch.equal(three[position], single[list(places)])
    for position, places in {0: (0, 0, 0, 1, 2), 3: (1, 2, 3, 4, 4)}.items():
        assert torch.equal(five[position], single[list(places)])
    assert THREE.in_channels == 3


def test_colour_keeps_its_channels_together() -> None:
    single = torch.rand(4, 3, 2, 2)
    found = Preprocessing((2, 2), 3, context=3).neighbours(single, 1)
    assert torch.equal(found, torch.cat([single[0], single[1], single[2]]))


def test_a_store_hands_out_what_prediction_sees(tmp_path: Path) -> None:
    cases = list(scan_folder(make_nifti_folder(tmp_path)).cases.values())
    store = SliceStore(cases, THREE, None)
    store.fill()
    seen = torch.stack([store[index][0] for index in range(5)])
    torch.testing.assert_close(seen, THREE.slices(read_image(cases[0].image)), atol=1e-3, rtol=0)


def test_a_header_says_it_only_where_it_is_so() -> None:
    assert "context" not in Preprocessing((32, 32), 1).to_json()
    assert Preprocessing.from_json(THREE.to_json()) == THREE
    assert Preprocessing.from_json(Preprocessing((32, 32), 1).to_json()).context == 1


def test_pictures_have_no_neighbours_in_their_file(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data")
    sentence = r"case_\d\.png: a picture was found, but data\.context=3 expected volumes"
    with pytest.raises(InputError, match=sentence):
        train(run_config(data, {"data": {"context": 3}}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_only_few_numbers_of_slices_are_known() -> None:
    with pytest.raises(InputError, match=r"data\.context: 2 was found, but expected: 1, 3 or 5"):
        run_config(Path("data"), {"data": {"context": 2}})


@torch.no_grad()
def test_sam_sees_the_slice_in_the_middle() -> None:
    image, prompt = torch.rand(1, 5, 64, 64), torch.randn(1, 2, 64, 64)
    torch.manual_seed(0)
    found = SamTeacher(small_sam(), 2, context=5).eval()(image, prompt)
    torch.manual_seed(0)
    assert torch.equal(found, SamTeacher(small_sam(), 2).eval()(image[:, 2:3], prompt))


@pytest.mark.parametrize("slices", [3, 5])
def test_three_grey_slices_are_no_colours(slices: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(20, 1, 8, 8).expand(-1, slices, -1, -1).contiguous()
    changed = IntensityAugmentation(slices, slices)(image)
    assert not torch.equal(changed, image)
    assert torch.equal(changed, changed[:, :1].expand_as(changed))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_its_student_predicts(method: str, tmp_path: Path) -> None:
    data = make_nifti_folder(tmp_path / "data", n_images=5, n_masks=3)
    layer = {"method": method, "data": {"context": 3}, "train": {"validate_every": 1}}
    run = train(run_config(data, layer, sam="tiny", steps=2), tmp_path / "run", quiet=True)
    network, info = load_student(run.folder.student)
    assert info.preprocessing.context == 3
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    predictor = Predictor(tmp_path / "run")
    assert predictor(make_image((20, 24, 4)), volume=True).shape == (20, 24, 4)
    save_picture(tmp_path / "one.png", make_image())
    with pytest.raises(InputError, match=r"one\.png: a picture was found, but data\.context=3"):
        predictor.predict(read_image(tmp_path / "one.png"))


@pytest.mark.slow
def test_neighbours_matter_and_an_exported_network_takes_them(tmp_path: Path) -> None:
    data = make_nifti_folder(tmp_path / "data", n_images=5, n_masks=3)
    layer = {"method": "supervised", "data": {"context": 3}}
    train(run_config(data, layer, steps=4), tmp_path / "run", quiet=True)
    volume = make_image((20, 24, 4))
    changed = volume.copy()
    changed[..., 3] = volume[..., 3][::-1]
    predictor = Predictor(tmp_path / "run")
    before, after = (predictor.predict(one, probabilities=True, volume=True).probabilities for one in (volume, changed))
    assert np.array_equal(before[..., :2], after[..., :2])
    assert not np.array_equal(before[..., 2], after[..., 2])
    knowsam.export(tmp_path / "run", tmp_path / "out" / "model.onnx")
    exported = Predictor(tmp_path / "out" / "model.onnx")
    assert np.array_equal(exported(volume, volume=True), predictor(volume, volume=True))

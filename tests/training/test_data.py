from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.errors import InputError
from knowsam.training.data import RunData, load_data, plan_split
from support.folders import make_folder, make_image, save_picture
from support.training import run_config


def loaded(root: Path, use_unlabelled: bool = True, **data: object) -> RunData:
    config = run_config(root, {"data": data})
    return load_data(config, *plan_split(config), use_unlabelled)


def test_a_folder_becomes_stores_and_volumes(tmp_path: Path) -> None:
    data = loaded(make_folder(tmp_path, n_images=7, n_masks=4, unlabelled=2))
    assert (len(data.labelled), len(data.unlabelled), len(data.validation)) == (3, 5, 1)
    assert data.coding.classes == 3
    assert data.preprocessing.size == (32, 32)
    assert data.preprocessing.channels == 1


def test_masks_of_hidden_cases_are_never_opened(tmp_path: Path) -> None:
    root = make_folder(tmp_path, n_images=5, n_masks=5)
    config = run_config(root, {"data": {"labelled": 1}})
    folder, split = plan_split(config)
    assert len(split.labelled) == 1
    for stem in split.unlabelled:
        if folder.cases[stem].label is not None:
            folder.cases[stem].label.write_bytes(b"broken")
    data = load_data(config, folder, split)
    assert len(data.unlabelled) == len(split.unlabelled) == 3


def test_a_method_without_unlabelled_images_opens_none(tmp_path: Path) -> None:
    root = make_folder(tmp_path, n_images=5, n_masks=3)
    (root / "images" / "case_4.png").write_bytes(b"broken")
    data = loaded(root, use_unlabelled=False)
    assert data.unlabelled is None
    assert not any("No unlabelled image" in note for note in data.notes)


def test_no_unlabelled_image_is_said_and_no_error(tmp_path: Path) -> None:
    data = loaded(make_folder(tmp_path, n_images=4, n_masks=4))
    assert data.unlabelled is None
    assert any("No unlabelled image was found" in note for note in data.notes)


def test_no_validation_case_is_said(tmp_path: Path) -> None:
    data = loaded(make_folder(tmp_path), val_fraction=0)
    assert data.validation == []
    assert any("No validation case" in note for note in data.notes)


@pytest.mark.parametrize(("asked", "channels"), [(None, 3), (1, 1), (3, 3)])
def test_one_colour_image_makes_the_run_rgb_unless_asked_otherwise(
    tmp_path: Path, asked: int | None, channels: int
) -> None:
    root = make_folder(tmp_path)
    save_picture(root / "images" / "case_1.png", make_image((32, 40), channels=3))
    data = loaded(root, channels=asked, val_fraction=0)
    assert data.preprocessing.channels == channels
    assert data.labelled[0][0].shape == (channels, 32, 32)
    assert data.unlabelled[0][0].shape == (channels, 32, 32)


def test_a_list_file_says_who_is_labelled(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    (tmp_path / "list.txt").write_text("case_2\ncase_0\n")
    config = run_config(root, {"data": {"labelled": str(tmp_path / "list.txt")}})
    assert sorted(plan_split(config)[1].labelled) == ["case_0", "case_2"]


def test_a_broken_unlabelled_image_is_found_before_training(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    path = root / "images" / "case_5.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"case_5\.png"):
        loaded(root)

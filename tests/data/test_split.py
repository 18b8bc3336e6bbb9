from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.data.folder import DataFolder, scan_folder
from knowsam.data.split import Split, make_split, parse_labelled
from knowsam.errors import InputError
from support.folders import make_folder, make_hdf5_folder


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """Ten groups g0..g9 of two images, all with masks but those of g9; two more unlabelled."""
    groups = [f"g{i // 2}" for i in range(20)]
    return scan_folder(make_folder(tmp_path, n_images=20, n_masks=18, size=(4, 4), groups=groups, unlabelled=2))


def groups_of(folder: DataFolder, stems: list[str]) -> set[str]:
    return {folder.cases[stem].group for stem in stems}


def test_validation_takes_whole_groups_of_labelled_images(folder: DataFolder) -> None:
    split = make_split(folder)
    assert len(groups_of(folder, split.val)) == 2
    assert len(split.val) == 4
    assert len(split.labelled) == 14
    assert split.unlabelled == ["case_18", "case_19", "extra_0", "extra_1"]
    assert not groups_of(folder, split.val) & groups_of(folder, split.labelled + split.unlabelled)


def test_seed_decides_the_validation_groups(folder: DataFolder) -> None:
    assert make_split(folder, seed=3) == make_split(folder, seed=3)
    assert len({tuple(make_split(folder, seed=seed).val) for seed in range(8)}) > 1


def test_validation_does_not_depend_on_the_number_of_labels(folder: DataFolder) -> None:
    assert make_split(folder, 1).val == make_split(folder, 5).val == make_split(folder).val


def test_first_groups_stay_labelled_and_all_other_masks_are_hidden(folder: DataFolder) -> None:
    split = make_split(folder, 3)
    rest = [f"g{i}" for i in range(9) if f"g{i}" not in groups_of(folder, split.val)]
    assert groups_of(folder, split.labelled) == set(rest[:3])
    assert len(split.labelled) == 6
    everything = split.labelled + split.unlabelled + split.val
    assert sorted(everything) == sorted(folder.cases)


def test_share_is_rounded_and_at_least_one(folder: DataFolder) -> None:
    assert len(groups_of(folder, make_split(folder, 0.5).labelled)) == 4  # 3.5 of 7
    assert len(groups_of(folder, make_split(folder, 0.001).labelled)) == 1
    assert len(groups_of(folder, make_split(folder, 1.0).labelled)) == 7


@pytest.mark.parametrize("wrong", [0, 8, -1, 0.0, 1.5])
def test_impossible_numbers_are_input_errors(folder: DataFolder, wrong: float) -> None:
    with pytest.raises(InputError):
        make_split(folder, wrong)


def test_order_of_the_training_list(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=6, n_masks=6, size=(4, 4))
    (tmp_path / "train.txt").write_text("case_4\ncase_1\ncase_3\n")
    (tmp_path / "val.txt").write_text("case_0\n")
    split = make_split(scan_folder(tmp_path), 2)
    assert split.labelled == ["case_4", "case_1"]
    assert split.unlabelled == ["case_3"]
    assert split.val == ["case_0"]


def test_unlabelled_folder_takes_part_unless_its_group_is_held_out(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=3, n_masks=3, size=(4, 4), unlabelled=2)
    (tmp_path / "groups.csv").write_text("stem,group\ncase_0,a\nextra_0,a\n")
    (tmp_path / "train.txt").write_text("case_1\ncase_2\n")
    (tmp_path / "val.txt").write_text("case_0\n")
    folder = scan_folder(tmp_path)
    assert make_split(folder).unlabelled == ["extra_1"]
    assert any("1 image is left out of training" in text for text in folder.notes)


def test_images_outside_val_list_train_without_a_training_list(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=4, n_masks=4, size=(4, 4), groups=["a", "a", "b", "c"])
    (tmp_path / "test.txt").write_text("case_0\n")
    (tmp_path / "val.txt").write_text("case_2\n")
    split = make_split(scan_folder(tmp_path))
    assert split == Split(labelled=["case_3"], unlabelled=[], val=["case_2"], test=["case_0"])


def test_list_file_of_groups_and_stems(folder: DataFolder, tmp_path: Path) -> None:
    path = tmp_path / "wanted.txt"
    path.write_text("g2\ncase_0.png\n")
    for seed in range(6):
        split = make_split(folder, path, seed=seed)
        assert split.labelled == ["case_0", "case_4", "case_5"]
        assert len(split.val) == 4


def test_list_file_that_names_every_labelled_group_still_gives_validation(tmp_path: Path) -> None:
    folder = scan_folder(make_folder(tmp_path, n_images=4, n_masks=3, size=(4, 4)))
    (tmp_path / "all.txt").write_text("case_0\ncase_1\ncase_2\n")
    split = make_split(folder, tmp_path / "all.txt")
    assert (len(split.labelled), len(split.val), split.unlabelled) == (2, 1, ["case_3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g0\nnobody\n", "line 2 names 'nobody', which is neither a group nor"),
        ("g9\n", "line 1 names 'g9', which has no mask"),
        ("# nothing\n", "the list is empty"),
    ],
)
def test_bad_list_files(folder: DataFolder, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wanted.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        make_split(folder, tmp_path / "wanted.txt")


def test_list_file_may_not_name_what_is_held_out(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=3, n_masks=3, size=(4, 4))
    (tmp_path / "val.txt").write_text("case_0\n")
    (tmp_path / "wanted.txt").write_text("case_0\n")
    with pytest.raises(InputError, match="held out"):
        make_split(scan_folder(tmp_path), tmp_path / "wanted.txt")


def test_no_labelled_image(tmp_path: Path) -> None:
    folder = scan_folder(make_folder(tmp_path / "none", n_images=3, n_masks=0, size=(4, 4)))
    with pytest.raises(InputError, match="no labelled image to train on"):
        make_split(folder)
    make_folder(tmp_path / "held", n_images=3, n_masks=1, size=(4, 4))
    (tmp_path / "held" / "val.txt").write_text("case_0\n")
    with pytest.raises(InputError, match="no labelled image to train on"):
        make_split(scan_folder(tmp_path / "held"))


def test_validation_list_without_masks(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=3, n_masks=2, size=(4, 4))
    (tmp_path / "val.txt").write_text("case_2\n")
    folder = scan_folder(tmp_path)
    assert any("cannot be scored" in text for text in folder.warnings)
    with pytest.raises(InputError, match="no image of the validation list has a mask"):
        make_split(folder)


def test_one_labelled_group_trains_without_validation(tmp_path: Path) -> None:
    split = make_split(scan_folder(make_folder(tmp_path, n_images=2, n_masks=1, size=(4, 4))))
    assert (split.labelled, split.val) == (["case_0"], [])


def test_val_fraction(folder: DataFolder) -> None:
    assert make_split(folder, val_fraction=0).val == []
    with pytest.raises(InputError, match="val_fraction"):
        make_split(folder, val_fraction=1)


def test_corrupt_hidden_masks_do_not_matter(folder: DataFolder) -> None:
    before = make_split(folder, 2)
    for case in folder.labelled_cases():
        assert case.label is not None
        case.label.write_bytes(b"broken")
    assert make_split(folder, 2) == before


def test_hdf5_layout(tmp_path: Path) -> None:
    split = make_split(scan_folder(make_hdf5_folder(tmp_path, patients=3, depth=2)), 1)
    assert split.labelled == ["patient000_frame01_slice_0", "patient000_frame01_slice_1"]
    assert split.unlabelled == ["patient001_frame01_slice_0", "patient001_frame01_slice_1"]
    assert split.val == ["patient002_frame01"]


def test_json_round_trip(tmp_path: Path) -> None:
    split = Split(["b", "a"], ["c"], ["d"], [])
    split.write(tmp_path / "split.json")
    assert Split.read(tmp_path / "split.json") == split
    for text in ("{", "[]", '{"labelled": []}', '{"labelled": 1, "unlabelled": [], "val": [], "test": []}'):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(InputError, match=r"split\.json"):
            Split.read(tmp_path / "split.json")


def test_parse_labelled(tmp_path: Path) -> None:
    assert parse_labelled("7") == 7
    assert isinstance(parse_labelled("1"), int)
    assert isinstance(parse_labelled("1.0"), float)
    assert parse_labelled("0.1") == pytest.approx(0.1)
    assert parse_labelled("5%") == pytest.approx(0.05)
    (tmp_path / "7.txt").touch()
    assert parse_labelled(str(tmp_path / "7.txt")) == tmp_path / "7.txt"
    for wrong in ("0", "-1", "1.5", "0%", "120%", ".", "nowhere.txt", ""):
        with pytest.raises(InputError, match="labelled is"):
            parse_labelled(wrong)


def test_usual_ten_percent(shared_data: Path) -> None:
    folder = scan_folder(shared_data / "acdc")
    assert [len(make_split(folder, n).labelled) for n in (7, 0.1, 3, 1)] == [136, 136, 68, 32]

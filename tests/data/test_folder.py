from __future__ import annotations

import time
from pathlib import Path

import pytest

from knowsam.data.folder import scan_folder
from knowsam.data.lists import natural_sorted
from knowsam.data.prefixes import volume_of
from knowsam.errors import InputError
from support.folders import make_folder, make_hdf5_folder, make_nifti_folder


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_images_masks_and_unlabelled(tmp_path: Path) -> None:
    folder = scan_folder(make_folder(tmp_path, n_images=3, n_masks=2, unlabelled=2))
    assert list(folder.cases) == ["case_0", "case_1", "case_2", "extra_0", "extra_1"]
    assert [case.stem for case in folder.labelled_cases()] == ["case_0", "case_1"]
    assert folder.cases["case_2"].label is None
    assert folder.cases["case_0"].label == tmp_path / "masks" / "case_0.png"
    assert folder.in_unlabelled_folder("extra_0")
    assert (folder.train, folder.val, folder.test) == (None, None, None)
    assert folder.warnings == []


def test_scan_opens_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "masks/a.bmp")
    assert scan_folder(tmp_path).cases["a"].label == tmp_path / "masks" / "a.bmp"


def test_labels_folder_and_nifti(tmp_path: Path) -> None:
    folder = scan_folder(make_nifti_folder(tmp_path, n_images=2, n_masks=1))
    assert folder.cases["vol_0"].label == tmp_path / "labels" / "vol_0.nii.gz"
    assert folder.cases["vol_0"].group == "vol_0"


def test_volume_is_the_stem_without_slice_number() -> None:
    assert volume_of("patient003_frame01_slice_07") == "patient003_frame01"
    assert volume_of("a-Slice12") == "a"
    assert volume_of("a_z3") == "a"
    assert volume_of("a_sl-3") == "a"
    assert volume_of("a_3") == "a_3"
    assert volume_of("slice_3") == "slice_3"


def test_natural_order() -> None:
    assert natural_sorted(["a10", "a2", "B1", "a2b"]) == ["a2", "a2b", "a10", "B1"]


def test_groups_csv(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_slice_1.png", "images/a_slice_2.png", "images/b.png", "masks/b.png")
    (tmp_path / "groups.csv").write_text("stem,group,volume\na_slice_1.png,P1,V1\na_slice_2,P1,\nzzz,P3,\n")
    folder = scan_folder(tmp_path)
    assert (folder.cases["a_slice_1"].group, folder.cases["a_slice_1"].volume) == ("P1", "V1")
    assert (folder.cases["a_slice_2"].group, folder.cases["a_slice_2"].volume) == ("P1", "a")
    assert folder.cases["b"].group == "b"
    assert any("1 stems have no image (zzz)" in text for text in folder.warnings)
    assert any("grouped by name (b)" in text for text in folder.warnings)


def test_bad_groups_csv(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png")
    (tmp_path / "groups.csv").write_text("a,P1\n")
    with pytest.raises(InputError, match="expected the header stem,group"):
        scan_folder(tmp_path)
    (tmp_path / "groups.csv").write_text("stem,group\na,P1\na,P2\n")
    with pytest.raises(InputError, match="line 3 gives a another group"):
        scan_folder(tmp_path)
    (tmp_path / "groups.csv").write_text("stem,group\na\n")
    with pytest.raises(InputError, match="line 2 has an empty"):
        scan_folder(tmp_path)


def test_lists_keep_their_order_and_tolerate_suffixes(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=5, n_masks=5)
    (tmp_path / "train.txt").write_text("case_3.png\n\n# a comment\ncase_0\ncase_3\n")
    (tmp_path / "val.txt").write_text("case_1\n")
    folder = scan_folder(tmp_path)
    assert folder.train == ["case_3", "case_0"]
    assert folder.val == ["case_1"]
    assert any("listed twice" in text for text in folder.warnings)
    assert any("2 images are in no list and take no part (case_2, case_4)" in text for text in folder.notes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["images/a.png", "masks/b.png"], r"b\.png: a mask for which there is no image"),
        (["images/a.png", "images/b.png", "masks/b.png", "masks/a_mask.png"], r"seems to be a\.png: rename it to a\."),
        (["images/a.png", "images/a.jpg"], r"the same stem as"),
        (["images/a.png", "masks/a.png", "masks/a.tif"], r"the same stem as"),
        (["images/a.png", "unlabelled/a.png"], r"the same stem as"),
        (["images/a.png", "unlabelled/b.png", "masks/b.png"], r"move b\.png to images/"),
        (["images/a.png", "masks/a.png", "labels/a.png"], r"both masks/ and labels/"),
        (["a.png", "b.png"], r"2 images lie directly in the folder.*images/ and masks/"),
        (["readme.txt"], r"no images/ folder found \(found: readme.txt\)"),
        (["images/notes.txt"], r"no image found"),
        (["data/slices/notes.txt"], r"no \.h5 file found"),
    ],
)
def test_bad_folders_are_one_sentence(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        scan_folder(touch(tmp_path, *files))
    assert "\n" not in str(caught.value)


def test_empty_missing_and_file_roots(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder is empty"):
        scan_folder(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        scan_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        scan_folder(touch(tmp_path, "a.png") / "a.png")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "case_0\nghost\n"}, r"train\.txt: line 2 names 'ghost', for which there is no image"),
        ({"train": "case_0\n", "val": "case_0\n"}, r"case_0 is in the train and the val list"),
        ({"train": "case_0\n", "test": "case_1\n"}, r"group P is in the train and the test list.*leaks"),
        ({"val": "\n"}, r"val\.txt: the list is empty"),
    ],
)
def test_bad_lists(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    make_folder(tmp_path, n_images=3, n_masks=3, groups=["P", "P", "Q"])
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        scan_folder(tmp_path)


def test_strangers_are_mentioned(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "images/a.png",
        "images/.hidden.png",
        "images/._a.png",
        "images/Thumbs.db",
        "images/notes.txt",
        "images/sub/b.png",
    )
    folder = scan_folder(tmp_path)
    assert list(folder.cases) == ["a"]
    assert any("1 file is of no known image format and left aside (notes.txt)" in text for text in folder.warnings)
    assert any("subfolders are not read (sub)" in text for text in folder.warnings)


def test_a_name_that_begins_with_a_hash_is_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "images/#3 eye.png", "images/b.png", "masks/#3 eye.png", "masks/b.png")
    (tmp_path / "train.txt").write_text("# a comment\n#3 eye\nb\n")
    assert scan_folder(tmp_path).train == ["#3 eye", "b"]
    (tmp_path / "train.txt").write_text("#3 eye.png\n#b\n")
    assert scan_folder(tmp_path).train == ["#3 eye"]


def test_ssl4mis_layout(tmp_path: Path) -> None:
    folder = scan_folder(make_hdf5_folder(tmp_path, patients=3, depth=2))
    assert folder.train is not None
    assert len(folder.train) == 4
    assert folder.val == ["patient002_frame01"]
    case = folder.cases["patient000_frame01_slice_1"]
    assert (case.group, case.volume) == ("patient000", "patient000_frame01")
    assert case.label == case.image
    assert folder.warnings == []


def test_ssl4mis_without_training_list_uses_slices_of_other_patients(tmp_path: Path) -> None:
    make_hdf5_folder(tmp_path, patients=3, depth=2)
    (tmp_path / "train_slices.list").unlink()
    folder = scan_folder(tmp_path)
    assert folder.train == [f"patient00{i}_frame01_slice_{z}" for i in range(2) for z in range(2)]


def test_ssl4mis_guessed_leak_warns_and_stated_leak_raises(tmp_path: Path) -> None:
    make_hdf5_folder(tmp_path, patients=2, depth=1)
    (tmp_path / "val.list").write_text("patient000_frame01\n")
    assert any("patient000 in train and val" in text for text in scan_folder(tmp_path).leaks)
    (tmp_path / "groups.csv").write_text("stem,group\npatient000_frame01,A\npatient000_frame01_slice_0,A\n")
    with pytest.raises(InputError, match="group A"):
        scan_folder(tmp_path)


def test_many_files_are_listed_quickly(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/case_{i}.png" for i in range(3000)))
    start = time.perf_counter()
    assert len(scan_folder(tmp_path).cases) == 3000
    assert time.perf_counter() - start < 2


def test_real_folders(shared_data: Path) -> None:
    acdc = scan_folder(shared_data / "acdc")
    assert acdc.train is not None
    assert acdc.val is not None
    assert (len(acdc.train), len(acdc.val)) == (1312, 210)
    assert len({acdc.cases[stem].group for stem in acdc.train}) == 70
    assert len(scan_folder(shared_data / "busi").labelled_cases()) == 79

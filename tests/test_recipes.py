"""The loop over the paper's tasks: which images are put together, and who is scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.config import recipe_names
from knowsam.data.folder import scan_folder
from knowsam.data.split import make_split
from knowsam.errors import InputError
from support.folders import make_image, make_label, save_picture
from test_examples import EXAMPLES, load_example


def make_set(folder: Path, stems: list[str]) -> None:
    for stem in stems:
        save_picture(folder / "images" / f"{stem}.png", make_image())
        save_picture(folder / "masks" / f"{stem}.png", make_label(classes=2))


def test_colonoscopy_keeps_videos_together(tmp_path: Path) -> None:
    make_set(tmp_path / "kvasir", [f"train__{number}" for number in range(4)])
    make_set(tmp_path / "clinicdb", [str(number) for number in range(1, 80, 3)])
    load_example("recipes/run_all").prepare("colonoscopy", tmp_path, tmp_path / "out")
    folder = scan_folder(tmp_path / "out")
    assert len(folder.cases) == 4 + 27
    assert folder.cases["clinicdb_25"].group == folder.cases["clinicdb_1"].group
    assert folder.cases["clinicdb_28"].group != folder.cases["clinicdb_25"].group
    split = make_split(folder, 0.5, 0.2, seed=0)
    training, scored = ({folder.cases[stem].group for stem in part} for part in (
        split.labelled + split.unlabelled, split.val))  # fmt: skip
    assert scored
    assert not training & scored
    assert split.val == make_split(folder, 0.5, 0.2, seed=1).val


def test_lists_of_a_set_are_kept(tmp_path: Path) -> None:
    make_set(tmp_path / "acdc", ["p3", "p1", "p2"])
    (tmp_path / "acdc" / "train.txt").write_text("p3\np1\n")
    (tmp_path / "acdc" / "val.txt").write_text("p2\n")
    load_example("recipes/run_all").prepare("cardiac", tmp_path, tmp_path / "out")
    split = make_split(scan_folder(tmp_path / "out"), 1, 0.2, seed=0)
    assert (split.labelled, split.unlabelled, split.val) == (["p3"], ["p1"], ["p2"])


def test_missing_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ph2: no images/ and masks/ were found, but recipe skin needs them"):
        load_example("recipes/run_all").prepare("skin", tmp_path, tmp_path / "out")


def test_every_recipe_has_its_page_and_its_sets() -> None:
    tasks = {name.removesuffix("-short") for name in recipe_names()}
    assert set(load_example("recipes/run_all").SETS) == tasks
    for task in tasks:
        assert f"--recipe {task} DATA" in (EXAMPLES / "recipes" / f"{task}.md").read_text()

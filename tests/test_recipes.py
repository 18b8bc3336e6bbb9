"""The loop over tasks of `benchmarks/evidence.py`: which images are put together, who is scored, what it writes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from knowsam.comparison.tables import NOTHING
from knowsam.config import recipe_names
from knowsam.data.folder import scan_folder
from knowsam.data.split import make_split
from knowsam.errors import InputError
from support.examples import EXAMPLES
from support.folders import make_image, make_label, save_picture


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES.parent / "benchmarks"))
    import evidence

    return evidence


def make_set(folder: Path, stems: list[str]) -> None:
    for stem in stems:
        save_picture(folder / "images" / f"{stem}.png", make_image())
        save_picture(folder / "masks" / f"{stem}.png", make_label(classes=2))


def test_colonoscopy_keeps_videos_together(tmp_path: Path, evidence: ModuleType) -> None:
    make_set(tmp_path / "kvasir", [f"train__{number}" for number in range(4)])
    make_set(tmp_path / "clinicdb", [str(number) for number in range(1, 80, 3)])
    evidence.prepare("colonoscopy", tmp_path, tmp_path / "out")
    folder = scan_folder(tmp_path / "out")
    assert len(folder.cases) == 4 + 27
    assert folder.cases["clinicdb_25"].group == folder.cases["clinicdb_1"].group
    assert folder.cases["clinicdb_28"].group != folder.cases["clinicdb_25"].group
    split = make_split(folder, 0.5, 0.2, seed=0)
    parts = [
        {folder.cases[stem].group for stem in part}
        for part in (split.labelled + split.unlabelled, split.val, split.test)
    ]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts))
    other = make_split(folder, 0.5, 0.2, seed=1)
    assert (other.val, other.test) == (split.val, split.test)


def test_lists_of_a_set_are_kept_and_the_last_groups_validate(tmp_path: Path, evidence: ModuleType) -> None:
    make_set(tmp_path / "acdc", ["p3", "p1", "p2", "p4"])
    (tmp_path / "acdc" / "train.txt").write_text("p3\np1\np4\n")
    (tmp_path / "acdc" / "val.txt").write_text("p2\n")
    evidence.prepare("cardiac", tmp_path, tmp_path / "out")
    split = make_split(scan_folder(tmp_path / "out"), 1, 0.2, seed=0)
    assert (split.labelled, split.unlabelled, split.val, split.test) == (["p3"], ["p1"], ["p4"], ["p2"])


def test_missing_set_or_task(tmp_path: Path, evidence: ModuleType) -> None:
    with pytest.raises(InputError, match=r"ph2: no images/ and masks/ were found, but task skin needs them"):
        evidence.prepare("skin", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"tasks: 'hearts' was found, but expected some of colonoscopy"):
        evidence.task_names("skin,hearts")


@pytest.mark.slow
def test_a_table_of_a_task_with_two_sets(tmp_path: Path, evidence: ModuleType) -> None:
    make_set(tmp_path / "kvasir", [f"k{number}" for number in range(12)])
    make_set(tmp_path / "clinicdb", [str(number) for number in range(1, 600, 25)])
    assert evidence.parse_rows("a.py:Own+tiny")[1] == (f"{Path.cwd() / 'a.py'}:Own", "tiny")
    rows = evidence.parse_rows("mean_teacher,supervised,supervised+tiny")
    assert rows == [("supervised", "none"), ("mean_teacher", "none"), ("supervised", "tiny")]
    small = ["data.size=32", "train.steps=1", "train.batch=1+1", "train.validate_every=1", "train.report=false"]
    assert evidence.run_all(tmp_path, tmp_path / "out", ["colonoscopy"], "night", [0], rows, small)
    lines = (tmp_path / "out" / "evidence.md").read_text().splitlines()[4:]
    assert [line.split(" | ")[1:3] for line in lines] == [
        [scored, method] for method, _ in rows for scored in ("all", "kvasir", "clinicdb")
    ]
    gains = [line.split(" | ")[7] for line in lines]
    assert set(gains[:3]) == {NOTHING}
    assert NOTHING not in gains[3:]  # supervised training with a SAM has a gain, too
    counts = [int(line.split(" | ")[4]) for line in lines]
    assert counts[0] == counts[1] + counts[2]


def test_every_recipe_has_its_page_and_its_sets(evidence: ModuleType) -> None:
    tasks = {name.removesuffix("-short") for name in recipe_names()}
    assert set(evidence.task_names("recipes")) == tasks
    for task in tasks:
        assert f"--recipe {task} DATA" in (EXAMPLES / "recipes" / f"{task}.md").read_text()

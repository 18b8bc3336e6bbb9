from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from knowsam.data.folder import scan_folder
from knowsam.data.leaks import leak_warnings
from knowsam.data.prefixes import prefix_of, shared_prefixes
from knowsam.data.split import make_split
from knowsam.errors import InputError
from knowsam.inspection.check import check_folder
from knowsam.inspection.groups import write_believed_groups
from support.cli import knowsam
from support.folders import make_folder, make_image, make_label, save_picture


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("patient001_000", "patient001"),
        ("patient001_frame01", "patient001"),
        ("sub-01_ses-2", "sub-01"),
        ("p7s12", "p7"),
        ("233 (4)", "233"),
        ("slide3_tile_007", "slide3"),
        ("smith.12", "smith"),
        ("IMD002", None),
        ("12", None),
        ("21_training", None),
    ],
)
def test_prefix_is_what_stands_before_the_last_number(name: str, prefix: str | None) -> None:
    assert prefix_of(name) == prefix


def by_name(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def test_prefixes_that_could_be_patients() -> None:
    found = shared_prefixes(by_name("p1_0", "p1_1", "p2_0", "p2_1", "p3_0"))
    assert found == {"p1": ["p1_0", "p1_1"], "p2": ["p2_0", "p2_1"]}


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{i:03d}" for i in range(9)],
        [f"case{i}_0000" for i in range(9)],
        [f"{kind}_{i}" for kind in ("benign", "malignant", "normal") for i in range(9)],
        [f"{part}__{i}" for part in ("train", "validation") for i in range(9)],
        [f"IMD{i:03d}" for i in range(9)],
        [*(f"x{i}" for i in range(40)), "a_1", "a_2", "b_1", "b_2"],
    ],
    ids=["one prefix", "one image each", "kinds", "sets", "no separator", "few of many"],
)
def test_names_that_tell_no_patients(names: list[str]) -> None:
    assert shared_prefixes(by_name(*names)) == {}


def test_slices_that_are_one_group_already_are_not_asked_about() -> None:
    names = [f"p{i}_slice_{z}" for i in range(4) for z in range(4)]
    assert shared_prefixes({name: name.split("_")[0] for name in names}) == {}


def patients(root: Path, number: int = 5, each: int = 4) -> Path:
    """Images `patient0_000`, ... of different noise, with masks."""
    for patient in range(number):
        for i in range(each):
            name = f"patient{patient}_{i:03d}.png"
            save_picture(root / "images" / name, make_image(seed=100 * patient + i))
            save_picture(root / "masks" / name, make_label())
    return root


def test_a_parted_prefix_is_a_warning_that_asks(tmp_path: Path) -> None:
    report = check_folder(patients(tmp_path))
    found = next(one for one in report.of("warning") if one.kind == "groups")
    assert "20 images share 5 prefixes (patient0, patient1, patient2 and 2 more), of which" in found.sentence
    assert "--group-by prefix" in found.suggestion
    assert report.verdict.startswith("Ready to train, but see the warning above")


def test_group_by_prefix_keeps_patients_together(tmp_path: Path) -> None:
    folder = scan_folder(patients(tmp_path), group_by="prefix")
    case = folder.cases["patient3_002"]
    assert (case.group, case.volume) == ("patient3", "patient3_002")
    split = make_split(folder, labelled=2)
    assert len(split.labelled) == 8
    sides = [{stem.split("_")[0] for stem in stems} for stems in (split.labelled, split.unlabelled, split.val)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 5
    assert leak_warnings(folder, split) == []
    assert check_folder(tmp_path, group_by="prefix").verdict == "Ready to train."


def test_groups_csv_answers_the_question(tmp_path: Path) -> None:
    report = check_folder(patients(tmp_path))
    write_believed_groups(report)
    lines = (tmp_path / "groups.csv").read_text().splitlines()
    assert lines[:2] == ["stem,group,volume", "patient0_000,patient0,patient0_000"]
    assert len(lines) == 21
    assert len({case.group for case in scan_folder(tmp_path).cases.values()}) == 5
    assert check_folder(tmp_path).verdict == "Ready to train."
    with pytest.raises(InputError, match="never overwritten"):
        write_believed_groups(report)


def test_written_groups_join_copies(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=6, n_masks=6)
    shutil.copy(tmp_path / "images" / "case_1.png", tmp_path / "images" / "case_4.png")
    write_believed_groups(check_folder(tmp_path))
    groups = {stem: case.group for stem, case in scan_folder(tmp_path).cases.items()}
    assert groups == {f"case_{i}": f"case_{1 if i == 4 else i}" for i in range(6)}


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = patients(tmp_path / "data")
    assert "Ready to train, but" in knowsam(capsys, "check", data).out
    assert knowsam(capsys, "check", data, "--group-by", "prefix").out.rstrip().endswith("Ready to train.")
    wrong = knowsam(capsys, "check", data, "--group-by", "patient")
    assert (wrong.code, wrong.out) == (2, "")
    assert "expected name or prefix" in wrong.err
    assert "20 images in 5 groups" in knowsam(capsys, "check", data, "--write-groups").out
    before = (data / "groups.csv").read_bytes()
    again = knowsam(capsys, "check", data, "--write-groups")
    assert again.code == 2
    assert "never overwritten" in again.err
    assert (data / "groups.csv").read_bytes() == before


@pytest.mark.slow
def test_training_repeats_the_question_and_knows_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = patients(tmp_path / "data")
    short = ("--size", "32", "--steps", "1", "--batch", "1+1", "--sam", "none", "--method", "supervised")
    asked = knowsam(capsys, "train", data, "--out", tmp_path / "a", "--labelled", "2", *short)
    assert "share 5 prefixes" in asked.out
    assert "2 labelled" in asked.out
    told = knowsam(capsys, "train", data, "--out", tmp_path / "b", "--labelled", "2", "--group-by", "prefix", *short)
    assert "prefixes" not in told.out
    assert "8 labelled" in told.out

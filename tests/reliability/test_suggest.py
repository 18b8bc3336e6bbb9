"""What to label next: the choice on points of a line, the candidates of every kind of folder, the files left behind."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knowsam.errors import InputError
from knowsam.networks.registry import build_network
from knowsam.reliability.suggest import Candidate, choose_candidates, deepest_features, describe, find_candidates
from support.cli import knowsam
from support.folders import make_folder, make_image, make_label, save_picture

Capture = pytest.CaptureFixture[str]


def line(*positions: float) -> np.ndarray:
    return np.array(positions, dtype=float)[:, None]


def test_choose_multiplies_uncertainty_and_distance() -> None:
    # Taken at 0. Scores 1 * .5, 2 * .1, 4 * .2: the third, then (distances 1, 2 to 0 and 4) .5 again beats .2.
    picks = choose_candidates(np.array([0.5, 0.1, 0.2]), line(1, 2, 4), 3, line(0))
    assert [pick.index for pick in picks] == [2, 0, 1]
    assert [pick.distance for pick in picks] == [4, 1, 1]
    assert [pick.nearest for pick in picks] == [3, 3, 0]  # 3 is the taken one


def test_choose_does_not_take_two_of_a_kind() -> None:
    # The two most uncertain are twins; the second twin has nothing to add.
    picks = choose_candidates(np.array([0.9, 0.89, 0.3]), line(5, 5, 9), 2, line(0))
    assert [pick.index for pick in picks] == [0, 2]


def test_choose_by_one_side_alone() -> None:
    uncertainty, features = np.array([0.9, 0.8, 0.1]), line(1, 1.1, 9)
    assert [pick.index for pick in choose_candidates(uncertainty, features, 3, line(0), "uncertainty")] == [0, 1, 2]
    assert [pick.index for pick in choose_candidates(uncertainty, features, 2, line(0), "diversity")] == [2, 1]


def test_choose_without_anything_labelled_starts_with_the_most_uncertain() -> None:
    (first, second) = choose_candidates(np.array([0.2, 0.9, 0.3]), line(0, 1, 5), 2, np.zeros((0, 1)))
    assert (first.index, first.distance, first.nearest) == (1, math.inf, None)
    assert second.index == 2
    # By diversity alone: the one nearest to the mean, 2.
    assert choose_candidates(np.array([0.2, 0.9, 0.3]), line(0, 1, 5), 1, np.zeros((0, 1)), "diversity")[0].index == 1


def test_choose_gives_what_there_is_and_each_once() -> None:
    picks = choose_candidates(np.zeros(3), line(0, 0, 0), 10, np.zeros((0, 1)))
    assert sorted(pick.index for pick in picks) == [0, 1, 2]


@pytest.mark.parametrize("name", ["unet", "vnet", "cotrained"])
def test_deepest_features_are_read_in_passing(name: str) -> None:
    network, seen = build_network(name, 1, 2).eval(), []
    with torch.inference_mode():
        with deepest_features(network, seen):
            network(torch.rand(3, 1, 32, 48))
        network(torch.rand(3, 1, 32, 48))
    assert [tuple(one.shape) for one in seen] == [(3, 256)]


def test_deepest_features_of_a_network_without_encoder() -> None:
    with pytest.raises(InputError, match="Conv2d"), deepest_features(torch.nn.Conv2d(1, 2, 1), []):
        pass


@pytest.mark.parametrize(
    ("disputed", "entropy", "said"),
    [
        (math.nan, 0.25, "entropy of the foreground 0.25"),
        (0.4, 0.25, "disagree on 40% of the foreground"),
        (0.0, math.nan, "nothing found in it"),
        (math.nan, math.nan, "nothing found in it"),
    ],
)
def test_the_reason_says_what_is_unsure(disputed: float, entropy: float, said: str) -> None:
    candidate = Candidate("case", (), 0.5, True, disputed, entropy, np.zeros(2))
    words = describe(candidate, 0.0, None, False)
    assert words.startswith("estimated Dice 0.50; ")
    assert said in words


def test_candidates_of_the_runs_own_data(run: Path) -> None:
    data = run.parent / "data"
    split = json.loads((run / "split.json").read_text())
    free, labelled = find_candidates(run, data)
    assert {case.stem for case in free} == {"case_4", "case_5"}
    assert [case.stem for case in labelled] == split["labelled"]
    # A mask drawn since then, and an image that came since then.
    save_picture(data / "masks" / "case_4.png", make_label())
    save_picture(data / "images" / "late.png", make_image())
    try:
        assert {case.stem for case in find_candidates(run, data)[0]} == {"case_5", "late"}
    finally:
        (data / "masks" / "case_4.png").unlink()
        (data / "images" / "late.png").unlink()


def test_candidates_of_hidden_masks(run: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=3, n_masks=3)
    (tmp_path / "run").mkdir()
    config = (run / "config.yaml").read_text().replace(str(run.parent / "data"), str(data))
    (tmp_path / "run" / "config.yaml").write_text(config.replace("labelled: null", "labelled: 1"))
    split = {"labelled": ["case_0"], "unlabelled": ["case_1", "case_2"], "val": [], "test": []}
    (tmp_path / "run" / "split.json").write_text(json.dumps(split))
    assert [case.stem for case in find_candidates(tmp_path / "run", data)[0]] == ["case_1", "case_2"]


def test_groups_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number, stem in enumerate(["p1_000", "p1_001", "p2_000", "p2_001"]):
        save_picture(data / "images" / f"{stem}.png", make_image(seed=number))
    save_picture(data / "masks" / "p1_000.png", make_label())
    student = tmp_path / "run"
    student.mkdir()
    config = (run / "config.yaml").read_text()
    for group_by, candidates in (("name", ["p1_001", "p2_000", "p2_001"]), ("prefix", ["p2_000", "p2_001"])):
        (student / "config.yaml").write_text(config.replace("group_by: name", f"group_by: {group_by}"))
        assert [case.stem for case in find_candidates(student, data)[0]] == candidates


def test_candidates_of_other_folders(run: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=5, n_masks=1, groups=["a", "a", "b", "b", "c"])
    free, labelled = find_candidates(run, data)
    assert [case.stem for case in free] == ["case_2", "case_3", "case_4"]  # case_1 is of the labelled group
    assert [case.stem for case in labelled] == ["case_0"]
    free, labelled = find_candidates(run, data / "images")
    assert len(free) == 5
    assert labelled == []
    full = make_folder(tmp_path / "full", n_images=2, n_masks=2)
    with pytest.raises(InputError, match="no unlabelled image"):
        find_candidates(run, full)


def test_suggest_command(run: Path, tmp_path: Path, capsys: Capture) -> None:
    groups = ["a", "b", "b", "c", "c", "d"]
    data = make_folder(tmp_path / "data", n_images=6, n_masks=1, groups=groups, size=(24, 30))
    ended = knowsam(capsys, "suggest", run, data, "-n", "2", "--out", tmp_path / "next")
    assert ended.code == 0, ended.err
    assert "Label next" in ended.out
    records = json.loads((tmp_path / "next" / "suggest.json").read_text())
    assert [record["rank"] for record in records] == [1, 2]
    assert {record["name"] for record in records} <= {"b", "c", "case_5"}
    assert all(record["reason"] for record in records)
    assert records[0]["nearest"] == "case_0"
    files = {"b": 2, "c": 2, "case_5": 1}
    assert all(record["files"] == files[record["name"]] for record in records)
    with (tmp_path / "next" / "suggest.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [record["name"] for record in records]
    first = Image.open(tmp_path / "next" / f"01_{records[0]['name']}.png")
    # Three columns of 24 x 30, five times enlarged, 4 px apart, under a caption of 16.
    assert first.size == (3 * 150 + 4 * 4, 16 + records[0]["files"] * (120 + 4) + 4)

    ended = knowsam(capsys, "suggest", run, data, "-n", "9", "--json")
    assert [record["name"] for record in json.loads(ended.out)][:2] == [record["name"] for record in records]
    assert len(json.loads(ended.out)) == 3


def test_suggest_mistakes(run: Path, tmp_path: Path, capsys: Capture) -> None:
    for arguments, word in (((tmp_path / "none",), "none"), ((run.parent / "data", "-n", "0"), "-n")):
        ended = knowsam(capsys, "suggest", run, *arguments, "--out", tmp_path / "out")
        assert ended.code == 2
        assert word in ended.err
        assert not (tmp_path / "out").exists()

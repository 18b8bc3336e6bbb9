"""The benchmarks run, at sizes where their numbers mean nothing, and their arithmetic is right."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from PIL import Image
from scipy import ndimage

from knowsam.sam.pretrain.loop import pretrain
from knowsam.sam.pretrain.steps import PretrainConfig
from support.folders import make_folder

FOLDER = Path(__file__).parents[1] / "benchmarks"
# fmt: off
SMALL = {
    "gpu.py": ["--dry-run"],
    "step.py": ["--size", "32", "--batch", "1+1", "--rounds", "1"],
    "sam.py": ["--sam", "tiny", "--size", "32", "--images", "1", "--rounds", "1"],
    "predict.py": ["--images", "1", "--side", "40", "--size", "32", "--rounds", "1"],
    "busy.py": ["--method", "supervised", "--sam", "none", "--size", "32", "--batch", "1+1", "--seconds", "0.1",
                "--busy", "0", "--rounds", "1"],
    "operations.py": ["--sam", "none", "--size", "32", "--half", "1", "--classes", "2"],
    "scale.py": ["--only", "files", "--files", "10,40", "--rounds", "1"],
}
# fmt: on


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import measure

    return measure


def test_ratio_is_taken_within_each_round(measure) -> None:
    # The machine was ten times slower in the second round: the ratio of medians would be 20 / 11.
    slow, fast = measure.Times(cpu=[2.0, 20.0, 3.0]), measure.Times(cpu=[1.0, 10.0, 1.0])
    found = measure.ratio(slow, fast)
    assert found["median"] == 2.0
    assert found["p90"] == pytest.approx(2.8)  # between 2 and 3, four fifths of the way


def test_contenders_take_turns_and_warm_up_is_not_measured(measure) -> None:
    order: list[str] = []
    times = measure.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, warm_up=1)
    assert order == list("ababab")
    assert [len(times[name].wall) for name in "ab"] == [2, 2]


def test_objects_of_the_prompt_benchmark_are_classes_joined_ones_or_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import sam_prompts

    data = make_folder(tmp_path / "data", classes=3)
    arguments = argparse.Namespace(sam="tiny", data=[data], joined=[data], components=[], out=tmp_path, size=64)
    arguments.objects, arguments.seed = 6, 0
    classes, joined = (sam_prompts.draw_objects(data, kind, arguments) for kind in ("classes", "joined"))
    # Both draw images in the same order; the two classes of the first image together are its joined object.
    assert torch.equal(classes.truth[0] + classes.truth[1], joined.truth[0])
    assert torch.equal(classes.other[0], classes.truth[1])
    assert joined.other.sum() == 0
    for image, mask, other in sam_prompts.windows(classes.image[0], joined.truth[0].numpy() > 0, 32, default_rng(0)):
        assert image.shape == (3, 32, 32)
        assert mask.any()
        assert not (mask & other).any()
        assert ndimage.label(mask.numpy())[1] == 1
    found = sam_prompts.measure(arguments)
    assert set(found) == {"data", "data, joined"}
    for row in found.values():
        assert all(0 <= row[name] <= 1 for name in ("given", "smoothed", "mask", "box", "ellipse", "from_box"))
    with (tmp_path / "objects.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    own = [float(row["from_box"]) for row in rows if row["folder"] == "data, joined"]
    assert sum(own) / len(own) == pytest.approx(found["data, joined"]["from_box"])
    written = {"data", "data.png", "data_joined.png", "objects.csv", "prompts.json"}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_candidates_are_measured_on_written_objects_as_on_drawn_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import sam_candidates
    import sam_prompts

    data = make_folder(tmp_path / "data", classes=3)
    arguments = argparse.Namespace(sam=["tiny@32", "tiny@64"], out=tmp_path / "out", size=64, objects=4, seed=0)
    drawn = sam_prompts.draw_objects(data, "classes", arguments)
    sam_candidates.write_objects(drawn, tmp_path / "sets" / "data")
    read = sam_candidates.read_objects(tmp_path / "sets" / "data")
    assert torch.equal(read.truth, drawn.truth)
    assert torch.equal(read.other, drawn.other)
    torch.testing.assert_close(read.image, drawn.image, rtol=0, atol=0.51 / 255)
    (row,) = sam_candidates.measure(arguments, {"data": read})
    assert row["mask_0"] != row["mask_1"]  # at other sizes
    model = sam_candidates.load("tiny@64", "cpu").model
    assert row["box_1"] == pytest.approx(float(sam_prompts.boxes(model, read)["from_box"].mean()))
    assert "boxes: tiny at least 0.05 above box and ellipse on" in capsys.readouterr().out


def test_appearance_gives_back_what_a_mask_misses_where_brightness_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import sam_ceiling

    truth = torch.zeros(2, 64, 64, dtype=torch.bool)
    truth[:, 16:48, 16:48] = True
    given = truth.clone()
    given[:, :, :24] = False  # a quarter is missing
    bright = (0.2 + 0.6 * truth.float())[:, None].expand(-1, 3, -1, -1)
    assert sam_ceiling.best_by_appearance(bright, given, given, truth) > 0.85  # corners are rounded
    flat = torch.full_like(bright, 0.5)
    assert sam_ceiling.best_by_appearance(flat, given, given, truth) == pytest.approx(0.75, abs=0.05)
    empty = torch.zeros_like(given)
    assert sam_ceiling.best_by_appearance(bright, empty, truth, truth) == 0  # nothing is where the mask is empty

    data = make_folder(tmp_path / "data", classes=3)
    arguments = argparse.Namespace(sam="tiny", data=[data], joined=[], components=[], out=tmp_path, size=32)
    arguments.objects, arguments.seed, arguments.steps = 6, 0, 1
    row = sam_ceiling.measure(arguments)["data"]
    assert 0 < row["tested"] < row["objects"]
    assert row["trained"] != row["untrained"]
    assert json.loads((tmp_path / "ceiling.json").read_text())["folders"]["data"] == row


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("script", SMALL)
def test_benchmark_runs_and_writes_json(script: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(FOLDER / script), *SMALL[script], "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["machine"]["cores"] >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_pretraining_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import sam_pretraining

    config = PretrainConfig(steps=2, images=2, prompts=2, sizes=(32,), check_every=1)
    pretrain(config, tmp_path / "run", quiet=True)
    monkeypatch.setattr("sys.argv", ["sam_pretraining.py", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    sam_pretraining.main()
    with Image.open(tmp_path / "out" / "drawn.png") as picture:
        assert picture.width > 8 * sam_pretraining.SIDE
        columns = np.asarray(picture)[sam_pretraining.SIDE // 2 :, :]
    assert columns.std() > 20  # something is drawn
    assert (tmp_path / "out" / "curve.png").stat().st_size > 5000


def test_doctor_finds_what_is_put_in_and_counts_alarms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import doctor

    data = make_folder(tmp_path, n_images=12, n_masks=1, size=(128, 128))
    for i in range(12):
        dark = ndimage.gaussian_filter(default_rng(i).random((128, 128)), 3)
        picture = np.where(dark > np.quantile(dark, 0.9), 230, 20) + default_rng(i).integers(0, 8, (128, 128))
        Image.fromarray(picture.astype(np.uint8)).save(data / "images" / f"case_{i}.png")
    found = doctor.measure_set(data, 3, default_rng(0))
    assert found["alarms"] == {"images": 12, **dict.fromkeys(doctor.KINDS, 0)}
    assert found["planted"] == {
        "inverted": "3 of 3",
        "alone": "3 of 3",
        **dict.fromkeys(doctor.COPIES, "3 of 3"),
        "besides": 0,
    }


def test_prompts_of_volumes_are_judged_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import volume_prompts

    true = np.zeros((9, 20, 20), np.int64)
    true[2:7, 4:12, 4:12] = 1
    rough = true.copy()
    rough[3, 4:12, 4:6] = 0  # 6 of 8 columns are left: an IoU of .75
    rough[6, 16:, :] = 1  # a mistake of 80 px in a slice of 64
    rough[8, :13, :12] = 1  # 156 px two slices behind the object
    tallies, shares = volume_prompts.measure(iter([(rough, true)]), 2)
    hits = {name: (tally.boxes, tally.points) for name, tally in tallies.items()}
    assert hits["PCSW, best window"] == ([True], [True])
    assert hits["largest slice"] == hits["slice-wise pieces"] == ([False], [False])
    assert tallies["PCSW, best window"].slices == [True] * 5
    assert tallies["largest slice"].slices == [True] * 4 + [False] * 2
    right = 5 * 64 - 16
    assert shares["precision"] == pytest.approx(right / (right + 80 + 156))
    assert shares["precision after PCSW"] == 1.0
    assert shares["recall after PCSW"] == shares["recall"] == pytest.approx(right / (5 * 64))


@pytest.mark.parametrize(("sam", "size", "step", "of_sam"), [("tiny", 64, 2330, 1050), ("vit_b", 256, 2900, 1620)])
def test_a_step_hands_the_device_no_more_operations_than_it_did(
    sam: str, size: int, step: int, of_sam: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import operations

    found = operations.operations(sam, size, 2, 4)
    bounds = {"step": step, "SAM": of_sam, "weak augmentation": 60, "strong augmentation": 70}
    assert {name: found[name][1] for name in bounds if found[name][1] > bounds[name]} == {}

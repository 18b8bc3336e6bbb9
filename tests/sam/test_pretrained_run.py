"""Runs on pretrained weights: what they keep, what they refuse, and that they continue to the same bits."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from knowsam.errors import InputError
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.training import trainer as engine
from knowsam.training.run import resume, train
from knowsam.training.state import load_trained_method
from support.folders import make_folder
from support.original_sam import published_sam, save_original
from support.training import run_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=6, n_masks=4)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_original(tmp_path / "sam.pth")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run/`, two steps of training on `first.pth`."""
    root = tmp_path_factory.mktemp("made_once")
    data = make_folder(root / "data", n_images=6, n_masks=4)
    train(run_config(data, sam=str(save_original(root / "first.pth")), steps=2), root / "run", quiet=True)
    return root


@pytest.fixture
def run(made_once: Path, data: Path, base: Path, tmp_path: Path) -> RunFolder:
    """A copy of that run, whose base has moved to `base`."""
    shutil.copy(made_once / "first.pth", base)
    folder = RunFolder(shutil.copytree(made_once / "run", tmp_path / "run"))
    folder.config.write_text(folder.config.read_text().replace(str(made_once / "first.pth"), str(base)))
    return folder


def test_a_run_writes_down_its_base_and_its_checkpoint_keeps_no_frozen_weight(run: RunFolder, base: Path) -> None:
    digest = sha256(base.read_bytes()).hexdigest()
    state = load_checkpoint(run.checkpoint)
    assert state["sam"]["sha256"] == digest
    assert state["sam"]["name"].endswith("first.pth")
    of_sam = [name for name in state["method"] if name.startswith("sam.teacher.")]
    assert all(".adapter." in name or name.startswith("sam.teacher.prompts.") for name in of_sam)
    assert any(".adapter." in name for name in of_sam)
    loaded = json.loads(run.environment.read_text())["sam"]
    assert loaded["sha256"] == digest
    assert loaded["resized"]["vision_encoder.pos_embed"] == [[1, 8, 8, 16], [1, 4, 4, 16]]


@pytest.mark.slow
def test_a_run_on_a_base_that_was_killed_ends_bit_equal(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(data, {"options": {"ugda_start": 0.2}}, sam=str(base), steps=3)
    whole = train(config, tmp_path / "whole", quiet=True).folder
    original = engine.seed_step

    def seed_step(seed: int, step: int, rank: int) -> None:
        original(seed, step, rank)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "seed_step", seed_step)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "killed", quiet=True)
    killed = RunFolder(tmp_path / "killed")
    assert load_checkpoint(killed.checkpoint)["step"] == 2
    resume(killed.path, quiet=True)
    states = [load_checkpoint(folder.checkpoint)["method"] for folder in (whole, killed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert whole.student.read_bytes() == killed.student.read_bytes()


def test_a_run_is_not_continued_on_other_weights(run: RunFolder, base: Path) -> None:
    before = run.checkpoint.read_bytes(), run.metrics.read_bytes()
    other = published_sam()
    with torch.no_grad():
        other.vision_encoder.pos_embed += 1
    save_original(base, other)
    for attempt in (lambda: resume(run.path, steps=4, quiet=True), lambda: load_trained_method(run.path)):
        with pytest.raises(
            InputError, match=r"checkpoint\.pt: a checkpoint on the SAM weights.*sha256.*put the former"
        ):
            attempt()
    assert (run.checkpoint.read_bytes(), run.metrics.read_bytes()) == before


def test_a_run_whose_base_is_gone_says_what_to_do_and_predicts_all_the_same(run: RunFolder, base: Path) -> None:
    base.unlink()
    with pytest.raises(InputError, match=r"no such file.*correct sam\.name in config\.yaml"):
        resume(run.path, steps=4, quiet=True)
    image = read_image(run.path.parents[0] / "data" / "images" / "case_0.png")
    assert Predictor(run.student).predict(image).label.shape == (32, 40)


@pytest.mark.parametrize("fault", ["truncated", "other", "absent", "size"])
def test_a_base_that_cannot_be_used_leaves_nothing_behind(fault: str, data: Path, base: Path, tmp_path: Path) -> None:
    size = 32
    if fault == "truncated":
        base.write_bytes(base.read_bytes()[:3000])
    elif fault == "other":
        torch.save({"weight": torch.zeros(1)}, base)
    elif fault == "absent":
        base.unlink()
    else:
        size = 16
    with pytest.raises(InputError) as error:
        train(run_config(data, {"data": {"size": size}}, sam=str(base)), tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_was_loaded_is_said_at_the_start_and_a_relative_path_holds_from_any_directory(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": torch.load(base), "epoch": 7}, base)
    monkeypatch.chdir(tmp_path)
    folder = train(run_config(data, sam=base.name, steps=1), tmp_path / "run").folder
    said = capsys.readouterr().out
    assert "SamModel, width 16, 2 layers, patch 8 px" in said
    assert "3 positional tables resized to the input: 15 to 7, 8x8 to 4x4" in said
    assert "unused: epoch (beside 'model', which holds the model)" in said
    assert "M weights learn" in said
    monkeypatch.chdir("/")
    assert resume(folder.path, steps=2, quiet=True).finished

"""A run that was stopped and continued must end where the uninterrupted one ends: the same bits on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from knowsam.config import Config
from knowsam.errors import InputError
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.training import trainer as engine
from knowsam.training.run import resume, train
from support.folders import make_folder, make_image, make_label, save_picture
from support.small_sam_2 import small_sam_2_folder
from support.training import run_config

STEPS = 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=6, n_masks=4)


def config_of(kind: str, data: Path, steps: int = STEPS) -> Config:
    if kind in ("bcp", "unimatch"):
        # From labels alone to both halves at the interruption.
        return run_config(data, {"method": kind, "train": {"pretrain": 0.5}}, steps=steps)
    if kind.startswith("preference"):
        # From the first stage to the second at the interruption: the frozen reference is in the checkpoint.
        layer = {"options": {"target": kind.removeprefix("preference ")}, "train": {"pretrain": 0.5, "ema": 0.9}}
        return run_config(data, {"method": "preference"}, layer, sam="tiny", steps=steps)
    if kind == "sam_2":  # frozen, but for adapters and prompts; its weights are read again
        return run_config(data, {"method": "mean_teacher"}, sam=small_sam_2_folder(), steps=steps)
    if kind == "sss":
        # Rough masks of the first step at the interruption, new ones afterwards; a memory; SAM's word.
        options = {"prompt_every": 4, "memory": 3, "sam_start": 0.0}
        return run_config(data, {"method": "sss", "options": options}, sam="tiny", steps=steps)
    if kind == "supervised":
        return run_config(data, {"method": "supervised"}, steps=steps)
    # UGDA from the third step on, so that it is at work on both sides of the interruption; EMA; two optimisers.
    layer = {"options": {"ugda_start": 0.34}, "train": {"ema": 0.9, "optimiser": "adamw", "clip": 1.0}}
    return run_config(data, layer, sam="tiny", steps=steps)


@pytest.fixture
def terminate_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the operating system deliver a SIGTERM during the step of this index."""
    original = engine.seed_step

    def arrange(step: int) -> None:
        def seed_step(seed: int, at: int, rank: int) -> None:
            original(seed, at, rank)
            if at == step:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(engine, "seed_step", seed_step)

    return arrange


def same(a: Any, b: Any) -> bool:
    """Equality of nested states, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def measured(folder: RunFolder) -> list[dict[str, Any]]:
    """All records without the times."""
    return [{k: v for k, v in r.items() if k not in ("seconds", "steps_per_s")} for r in folder.read_metrics()]


def assert_same_end(a: RunFolder, b: RunFolder) -> None:
    states = load_checkpoint(a.checkpoint), load_checkpoint(b.checkpoint)
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        assert same(states[0][key], states[1][key]), key
    assert a.student.read_bytes() == b.student.read_bytes()
    assert a.student_last.read_bytes() == b.student_last.read_bytes()
    assert measured(a) == measured(b)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["supervised", "knowsam", "bcp", "unimatch", "preference student", "preference sam", "sss", "sam_2"],
)
def test_interrupted_and_resumed_run_ends_bit_equal(
    kind: str, data: Path, tmp_path: Path, terminate_at: Callable[[int], None]
) -> None:
    whole = train(config_of(kind, data), tmp_path / "whole", quiet=True).folder
    terminate_at(2)
    stopped = train(config_of(kind, data), tmp_path / "stopped", quiet=True)
    assert not stopped.finished
    assert stopped.steps == 3
    assert load_checkpoint(stopped.folder.checkpoint)["step"] == 3  # saved at once, not at the next validation
    if kind == "knowsam":
        last = [r for r in whole.read_metrics() if "terms" in r][-1]
        assert "fused_mix" in last["terms"]
    continued = resume(stopped.folder.path, quiet=True)
    assert continued.finished
    assert_same_end(whole, continued.folder)


def test_signal_handlers_are_given_back(data: Path, tmp_path: Path, terminate_at: Callable[[int], None]) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    terminate_at(0)
    train(config_of("supervised", data), tmp_path / "run", quiet=True)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_during_the_last_step_finishes_the_run(
    data: Path, tmp_path: Path, terminate_at: Callable[[int], None]
) -> None:
    terminate_at(1)
    result = train(config_of("supervised", data, steps=2), tmp_path / "run", quiet=True)
    assert result.finished
    assert result.folder.student_last.exists()


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_killed_run_resumes_from_its_last_checkpoint_and_counts_no_step_twice(data: Path, tmp_path: Path) -> None:
    config = config_of("supervised", data)
    whole = train(config, tmp_path / "whole", quiet=True).folder
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys, yaml\n"
        "import torch; torch.set_num_threads(1)\n"
        "from knowsam.training import trainer as engine\n"
        "from knowsam.config import resolve_config\n"
        "original = engine.seed_step\n"
        "def seed_step(seed, step, rank):\n"
        "    original(seed, step, rank)\n"
        "    if step == 3:\n"  # three steps are measured, the checkpoint is of the second
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "engine.seed_step = seed_step\n"
        "from knowsam.training.run import train\n"
        "train(resolve_config(yaml.safe_load(open(sys.argv[1]))), sys.argv[2], quiet=True)\n"
    )
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    arguments = [sys.executable, str(script), str(tmp_path / "c.yaml"), str(tmp_path / "run")]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    folder = RunFolder(tmp_path / "run")
    assert load_checkpoint(folder.checkpoint)["step"] == 2
    assert [r["step"] for r in folder.read_metrics() if "terms" in r] == [1, 2, 3]
    resume(folder.path, quiet=True)
    assert [r["step"] for r in folder.read_metrics() if "terms" in r] == [1, 2, 3, 4, 5, 6]
    assert_same_end(whole, folder)


def test_a_finished_run_is_not_resumed_and_the_sentence_says_how_to_train_longer(data: Path, tmp_path: Path) -> None:
    folder = train(config_of("supervised", data, steps=2), tmp_path / "run", quiet=True).folder
    before = folder.metrics.read_text()
    with pytest.raises(InputError, match=r"2 of 2 steps are done.*--steps 4"):
        resume(folder.path, quiet=True)
    assert folder.metrics.read_text() == before


def test_a_finished_run_is_extended_and_writes_that_down(data: Path, tmp_path: Path) -> None:
    folder = train(config_of("supervised", data, steps=2), tmp_path / "run", quiet=True).folder
    result = resume(folder.path, steps=4, quiet=True)
    assert result.finished
    assert result.steps == 4
    assert folder.read_config().train.steps == 4
    records = folder.read_metrics()
    assert [r["step"] for r in records if "terms" in r] == [1, 2, 3, 4]
    assert {"step": 2, "event": "extended", "from": 2, "to": 4} in records
    # The rate falls over the new total: step index 2 of 4 has half of it.
    assert next(r["lr"]["students"] for r in records if r["step"] == 3 and "lr" in r) == pytest.approx(0.01 / 2)


def test_the_split_of_a_run_is_kept_although_the_folder_grew(data: Path, tmp_path: Path) -> None:
    folder = train(config_of("supervised", data, steps=2), tmp_path / "run", quiet=True).folder
    split = json.loads(folder.split.read_text())
    save_picture(data / "images" / "new.png", make_image(seed=99))
    save_picture(data / "masks" / "new.png", make_label())
    longer = folder.read_config().model_copy(update={"train": config_of("supervised", data, 3).train})
    run = engine.Trainer(longer, folder, resume=True, quiet=True)
    assert run.data.split.labelled == split["labelled"]
    assert json.loads(folder.split.read_text()) == split


def test_a_checkpoint_of_another_class_count_is_refused(data: Path, tmp_path: Path) -> None:
    folder = train(config_of("supervised", data, steps=2), tmp_path / "run", quiet=True).folder
    for i in range(4):
        save_picture(data / "masks" / f"case_{i}.png", make_label(classes=2))
    with pytest.raises(InputError, match=r"checkpoint\.pt: a checkpoint of 3 classes was found, but expected 2"):
        resume(folder.path, steps=4, quiet=True, accept_changes=True)


def test_a_broken_checkpoint_is_told(data: Path, tmp_path: Path) -> None:
    folder = train(config_of("supervised", data, steps=2), tmp_path / "run", quiet=True).folder
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="a broken checkpoint was found"):
        resume(folder.path, steps=4, quiet=True)

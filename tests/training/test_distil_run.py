"""A run's networks are distilled into one U-Net: resumed to the same bits, locked, found by predict and export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import knowsam
from knowsam.errors import InputError
from knowsam.functional.probabilities import mean_log_probabilities
from knowsam.inference.predictor import Predictor
from knowsam.networks import build_network
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.runs.student_file import load_student, save_student
from knowsam.training.display import TrainingDisplay
from knowsam.training.distillation import Distillation, DistilSettings, distil_run
from knowsam.training.finish import is_distilled
from support.cli import knowsam as command
from support.folders import make_folder

SMALL = {"size": 32, "steps": 4, "batch": (2, 2), "quiet": True, "settings": {"train.report": False}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the two students with SAM, its data beside it."""
    root = tmp_path_factory.mktemp("trained")
    data = make_folder(root / "data", n_images=8, n_masks=6)
    return knowsam.train(data, root / "run", method="knowsam", sam="tiny", labelled=3, **SMALL).folder.path  # type: ignore[arg-type]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def distillation(run: Path, steps: int = 6) -> Distillation:
    from knowsam.data.folder import scan_folder
    from knowsam.data.split import Split
    from knowsam.training.data import load_data

    folder = RunFolder(run)
    config = folder.read_config()
    data = load_data(config, scan_folder(config.data.path), Split.read(folder.split))
    return Distillation(folder, config, DistilSettings(steps=steps), data, "cpu", TrainingDisplay(quiet=True))


def test_mean_log_probabilities_are_logits_of_the_mean() -> None:
    one, two = torch.randn(2, 3, 4, 4), 30 * torch.randn(2, 3, 4, 4)
    mean = (one.softmax(1) + two.softmax(1)) / 2
    torch.testing.assert_close(mean_log_probabilities([one, two]).softmax(1), mean)
    torch.testing.assert_close(mean_log_probabilities([one]), one.log_softmax(1))


def test_the_small_network_is_written_measured_and_used_by_choice(run: Path, tmp_path: Path, capsys) -> None:
    ended = command(capsys, "distil", run, "--steps", 6)
    assert ended.code == 0, ended.err
    assert "use it: knowsam predict" in ended.out
    folder = RunFolder(run).distilled
    network, info = load_student(folder.student)
    whole, of_run = load_student(RunFolder(run).student)
    assert info.network["name"] == "unet"
    assert sum(p.numel() for p in network.parameters()) < 0.4 * sum(p.numel() for p in whole.parameters())
    assert (info.preprocessing, info.class_names, info.mask_values) == (
        of_run.preprocessing, of_run.class_names, of_run.mask_values,
    )  # fmt: skip
    record = json.loads((folder.path / "distil.json").read_text())
    assert set(record["teacher_dice"]) == {"fused", "unet", "vnet", "sam"}
    assert record["uses_sam"] == (record["teacher_dice"]["sam"] > record["teacher_dice"]["fused"])
    steps = [one["step"] for one in folder.read_metrics() if "validation" in one]
    assert steps == list(range(1, 7))
    assert is_distilled(RunFolder(run))

    image = next(Path(RunFolder(run).read_config().data.path).glob("images/*"))
    ended = command(capsys, "predict", run, image, "--network", "distilled", "--uncertainty", "--out", tmp_path / "p")
    assert ended.code == 0, ended.err
    assert Predictor(run, network="distilled").path == folder.student
    assert Predictor(run).path == RunFolder(run).student
    ended = command(capsys, "predict", run, image, "--network", "vnet", "--out", tmp_path / "q")
    assert ended.code == 2
    assert "expected distilled, or nothing" in ended.err


def test_it_is_exported_by_choice(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    with pytest.raises(InputError, match="expected a run's distilled network; make it with `knowsam distil"):
        knowsam.export(run, tmp_path / "small.onnx", "distilled")
    knowsam.distil(run, steps=2, quiet=True)
    small = knowsam.export(run, tmp_path / "small.onnx", "distilled")
    assert small.network == "distilled (unet)"
    assert "not known here" not in small.card.read_text()
    whole = knowsam.export(run, tmp_path / "whole" / "whole.onnx")
    assert small.path.stat().st_size < 0.4 * whole.path.stat().st_size


def test_interrupted_and_repeated_it_ends_at_the_same_bits(run: Path, trained: Path, tmp_path: Path) -> None:
    stopped = distillation(run)
    asked = iter([False, True])
    first = stopped.fit(lambda: next(asked))
    assert (first.steps, first.finished) == (2, False)
    assert not is_distilled(RunFolder(run))
    done = distil_run(run, DistilSettings(steps=6), quiet=True)
    assert (done.steps, done.finished) == (6, True)
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    distil_run(other, DistilSettings(steps=6), quiet=True)
    assert RunFolder(run).distilled.student.read_bytes() == RunFolder(other).distilled.student.read_bytes()
    one, two = (torch.load(RunFolder(path).distilled.checkpoint, weights_only=True) for path in (run, other))
    for name, value in one["network"].items():
        assert torch.equal(value, two["network"][name]), name
    # Done, it does nothing more; asked for other steps, it says so.
    before = RunFolder(run).distilled.student.stat().st_mtime_ns
    assert distil_run(run, DistilSettings(steps=6), quiet=True).finished
    assert RunFolder(run).distilled.student.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="a distillation with other settings was found"):
        distil_run(run, DistilSettings(steps=7), quiet=True)


def test_a_run_that_trained_on_is_distilled_once_more(run: Path) -> None:
    distil_run(run, DistilSettings(steps=2), quiet=True)
    small = RunFolder(run).distilled
    first = json.loads((small.path / "distil.json").read_text())["teacher"]
    folder = RunFolder(run)
    student, info = load_student(folder.student)
    next(student.parameters()).data.add_(0.01)
    save_student(folder.student, student, info)
    assert not is_distilled(RunFolder(run))
    assert "was distilled from another one than" in (Predictor(run, network="distilled").outdated or "")
    distil_run(run, DistilSettings(steps=2), quiet=True)
    assert Predictor(run, network="distilled").outdated is None
    assert json.loads((small.path / "distil.json").read_text())["teacher"] != first
    assert is_distilled(RunFolder(run))


def test_the_teachers_answer_for_what_the_student_sees_and_learn_nothing(run: Path) -> None:
    phase = distillation(run)
    before = [weight.clone() for weight in phase.teacher.parameters()]
    image = torch.rand(2, phase.info.preprocessing.channels, 32, 32)
    with torch.no_grad():
        fused = phase.teacher.outputs(image)["fused"]
        phase.uses_sam = False
        torch.testing.assert_close(phase.teach(image), fused.log_softmax(1))
        phase.uses_sam = True
        both = (fused.softmax(1) + phase.sam.predict(image, fused).softmax(1)) / 2
        torch.testing.assert_close(phase.teach(image).softmax(1), both)
    # It begins as the run's own U-Net, without dropout.
    phase.network.eval()
    with torch.no_grad():
        torch.testing.assert_close(phase.network(image), phase.teacher.outputs(image)["unet"])
    losses = [float(phase.step(phase.batches[0]).loss.detach()) for _ in range(3)]
    assert losses[-1] < losses[0]
    for old, new in zip(before, phase.teacher.parameters(), strict=True):
        assert torch.equal(old, new)


def test_what_cannot_be_distilled_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--to: 'vnet' was found"):
        knowsam.distil(run, "vnet")
    with folder_lock(run), pytest.raises(InputError, match="another process is at work there"):
        knowsam.distil(run, quiet=True)
    data = Path(RunFolder(run).read_config().data.path)
    other = knowsam.train(data, tmp_path / "one", method="supervised", sam="none", labelled=3, **SMALL).folder.path  # type: ignore[arg-type]
    with pytest.raises(InputError, match="that very U-Net was found, and no SAM to teach it"):
        knowsam.distil(other, quiet=True)
    config = RunFolder(run).read_config()
    RunFolder(run).rewrite_config(config.model_copy(update={"train": config.train.model_copy(update={"steps": 9})}))
    with pytest.raises(InputError, match="4 of 9 steps are done, but expected a finished run"):
        knowsam.distil(run, quiet=True)


def test_as_last_phase_of_a_run_it_is_done_and_resumed_with_it(tmp_path: Path, monkeypatch) -> None:
    data = make_folder(tmp_path / "data", n_images=8, n_masks=6)
    given = SMALL | {"settings": {"train.report": False, "train.distil": "unet"}}
    whole = knowsam.train(data, tmp_path / "run", method="knowsam", sam="none", labelled=3, **given)  # type: ignore[arg-type]
    assert whole.finished
    assert is_distilled(whole.folder)
    assert whole.folder.distilled.read_metrics()[-1]["step"] == 2  # half of the run's
    shutil.rmtree(whole.folder.distilled.path)
    assert knowsam.resume(whole.folder.path, quiet=True).finished
    assert is_distilled(whole.folder)
    with pytest.raises(InputError, match="4 of 4 steps are done"):
        knowsam.resume(whole.folder.path, quiet=True)


def test_a_network_without_a_u_net_inside_begins_anew() -> None:
    from knowsam.training.distillation import initial_network

    spec = {"name": "unet", "in_channels": 1, "classes": 2, "dropout": [0.0] * 5}
    teacher = build_network("vnet", in_channels=1, classes=2)
    one, two = initial_network(teacher, spec, 3), initial_network(teacher, spec, 3)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)

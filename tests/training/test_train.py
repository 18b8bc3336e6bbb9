"""The loop on a few noise images: what it writes, what it refuses, and its randomness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from knowsam.config import resolve_config
from knowsam.data.augment import Augmentation
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.functional.schedules import linear_decay
from knowsam.methods import METHODS, Method, MethodContext, register_method
from knowsam.networks import UNet
from knowsam.networks.registry import build_network
from knowsam.reliability.of_run import is_calibrated
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from knowsam.training import trainer as engine
from knowsam.training.build import build_method, build_optimiser
from knowsam.training.run import resume, train
from knowsam.training.state import load_trained_state, trained_state
from knowsam.training.trainer import seed_step
from knowsam.types import IGNORE, Batch, Progress, StepOutput
from support.folders import make_folder, make_nifti_folder, save_nifti
from support.training import run_config, small_method


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=6, n_masks=4)


class Brittle(Method):
    """A U-Net whose loss is as asked for: for tests of the loop."""

    class Options(BaseModel):
        nan_at: int | None = None

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.options = options
        self.spec = {"name": "unet", "in_channels": context.in_channels, "classes": context.classes}
        self.network = build_network(**self.spec)

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        loss = self.network(batch.labelled_image).square().mean()
        if progress.step == self.options.nan_at:
            loss = loss * torch.nan
        return StepOutput(loss, {"student_sup": loss})

    def student(self) -> nn.Module:
        return self.network

    def student_spec(self) -> dict[str, Any]:
        return self.spec


class Marked(nn.Module):
    """An augmentation whose images are of one value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return torch.full_like(image, self.value), label


@pytest.fixture
def brittle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowsam.methods.registry.METHODS", METHODS)
    register_method("brittle", Brittle)
    yield
    del METHODS["brittle"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["knowsam", "supervised"])
def test_a_run_leaves_everything_it_promises(method: str, data: Path, tmp_path: Path) -> None:
    config = run_config(data, {"method": method}, sam="tiny", steps=3)
    result = train(config, tmp_path / "run", quiet=True)
    assert result.finished
    assert result.steps == 3
    folder = RunFolder(tmp_path / "run")
    kept = {"size": "image", "normalise": "sam"}  # what `auto` meant for this SAM
    assert folder.read_config() == config.model_copy(update={"sam": config.sam.model_copy(update=kept)})
    records = folder.read_metrics()
    assert [r["step"] for r in records if "terms" in r] == [1, 2, 3]
    assert [r["step"] for r in records if "validation" in r] == [2, 3]
    assert {"loss", "sam_sup", "sam_kd"} <= records[0]["terms"].keys()
    used = next(iter(records[-1]["validation"]))
    assert used == ("fused" if method == "knowsam" else "student")
    scores = [r["validation"][used]["dice"] for r in records if "validation" in r]
    assert result.best == pytest.approx(max(scores), abs=1e-5)
    assert load_checkpoint(folder.checkpoint)["step"] == 3
    student, info = load_student(folder.student)
    assert info.step == (2 if scores[0] >= scores[1] else 3)
    assert info.class_names
    assert load_student(folder.student_last)[1].step == 3
    assert student(torch.zeros(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_a_run_without_validation_keeps_the_last_weights(data: Path, tmp_path: Path) -> None:
    config = run_config(data, {"method": "supervised", "data": {"val_fraction": 0}}, steps=2)
    result = train(config, tmp_path / "run", quiet=True)
    assert result.best is None
    best, last = load_student(result.folder.student)[0], load_student(result.folder.student_last)[0]
    assert all(torch.equal(value, last.state_dict()[name]) for name, value in best.state_dict().items())


def test_the_students_running_average_is_what_is_kept(data: Path, tmp_path: Path) -> None:
    config = run_config(data, {"method": "supervised", "train": {"ema": 0.9}}, steps=2)
    folder = train(config, tmp_path / "run", quiet=True).folder
    state = load_checkpoint(folder.checkpoint)
    kept = load_student(folder.student_last)[0].state_dict()
    assert all(torch.equal(value, state["averaged"][name]) for name, value in kept.items())
    assert not torch.equal(kept["head.weight"], state["method"]["network.head.weight"])


def test_a_folder_without_unlabelled_image_trains_supervised_with_the_whole_batch(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=4, n_masks=4)
    run = engine.Trainer(run_config(data, steps=1), RunFolder(tmp_path / "run"), quiet=True)
    batch = run.batches[0]
    assert batch.unlabelled_image is None
    assert len(batch.labelled_image) == 4
    assert any("No unlabelled image" in note for note in run.data.notes)
    assert run.fit().finished


def test_a_batch_without_unlabelled_half_trains_on_the_labelled_images(data: Path, tmp_path: Path) -> None:
    assert train(run_config(data, {"train": {"batch": "3+0"}}, steps=1), tmp_path / "run", quiet=True).finished


@pytest.mark.parametrize(("method", "view"), [("mean_teacher", "strong"), ("bcp", "weak"), ("sss", "weak")])
def test_unlabelled_images_are_augmented_as_the_method_asks(
    method: str, view: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("weak", "strong"):
        mark = {"weak": 0.25, "strong": 0.75}[name]
        monkeypatch.setattr(engine, f"{name}_augmentation", lambda size, flip, mark=mark: Marked(mark))
    config = run_config(data, {"method": method, "train": {"pretrain": 0.0}})
    run = engine.Trainer(config, RunFolder(tmp_path / "run"), quiet=True)
    batch = run.augment(run.batches[0])
    assert batch.labelled_image.unique().tolist() == [0.25]
    assert batch.unlabelled_image.unique().tolist() == [{"weak": 0.25, "strong": 0.75}[view]]


def test_maps_of_volumes_are_warped_with_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map of a slice is drawn off its image; after the augmentation they must still agree."""
    data = make_nifti_folder(tmp_path / "data", n_images=6, n_masks=3, shape=(32, 32, 4))
    for number in range(3, 6):
        volume = np.zeros((32, 32, 4), np.int16)
        volume[4:14, 6 + number : 24, :] = 200
        save_nifti(data / "images" / f"vol_{number}.nii.gz", volume)
    config = run_config(data, {"method": "sss", "train": {"batch": "2+8", "steps": 3, "flip": "both"}})
    moving = Augmentation(config.data.size, brightness_p=0.0, distortion_p=0.0, holes=(1, 2), holes_p=0.0)
    monkeypatch.setattr(engine, "weak_augmentation", lambda size, flip: moving)
    run = engine.Trainer(config, RunFolder(tmp_path / "run"), quiet=True)
    run.method.label_volume = lambda image: (image[:, 0] > 0.5).long()
    moved = 0
    for step in range(3):
        batch = run.with_maps(run.batches[step], Progress(step, 3))
        assert torch.equal(batch.unlabelled_map, (batch.unlabelled_image[:, 0] > 0.5).long())
        warped = run.augment(batch)
        known = warped.unlabelled_map != IGNORE
        agree = (warped.unlabelled_map == (warped.unlabelled_image[:, 0] > 0.5).long())[known]
        assert agree.float().mean() > 0.98
        assert warped.unlabelled_map.dtype == torch.int64
        moved += int((warped.unlabelled_map != batch.unlabelled_map).flatten(1).any(dim=1).sum())
    assert moved > 8


def test_volumes_are_labelled_again_when_the_method_says_so(tmp_path: Path) -> None:
    data = make_nifti_folder(tmp_path / "data", n_images=6, n_masks=3, shape=(32, 32, 4))
    layer = {"method": "sss", "options": {"prompt_every": 3}, "train": {"batch": "2+12", "pretrain": 0.34}}
    run = engine.Trainer(run_config(data, layer, steps=6), RunFolder(tmp_path / "run"), quiet=True)
    original, sizes = run.method.label_volume, []
    run.method.label_volume = lambda image: sizes.append((run.position, len(image))) or original(image)
    run.fit()
    # Two steps on labels alone; then all three volumes at the first step with unlabelled images, and three later.
    assert sizes == [(2, 4)] * 3 + [(5, 4)] * 3


def test_an_occupied_folder_is_refused(data: Path, tmp_path: Path) -> None:
    config = run_config(data, {"method": "supervised"}, steps=1)
    train(config, tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match="another run was found"):
        train(config, tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(brittle: None, data: Path, tmp_path: Path) -> None:
    config = run_config(data, {"method": "brittle", "options": {"nan_at": 2}})
    with pytest.raises(InputError, match=r"at step 3 the terms loss, student_sup were not finite.*train\.clip"):
        train(config, tmp_path / "run", quiet=True)


def test_weights_that_are_not_finite_never_reach_a_checkpoint(brittle: None, data: Path, tmp_path: Path) -> None:
    # Logged too rarely for the loss to be looked at before the checkpoint of step 4.
    config = run_config(data, {"method": "brittle", "options": {"nan_at": 2}, "train": {"log_every": 100}}, steps=6)
    with pytest.raises(InputError, match="at step 4 weights were not finite"):
        train(config, tmp_path / "run", quiet=True)
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["method"].values())


@pytest.mark.slow
def test_learning_rates_fall_linearly_and_each_group_has_its_own(data: Path, tmp_path: Path) -> None:
    config = run_config(data, {"train": {"lr": 0.02, "warmup": 1}, "sam": {"lr": 0.003}}, sam="tiny", steps=3)
    records = train(config, tmp_path / "run", quiet=True).folder.read_metrics()
    for record in (r for r in records if "lr" in r):
        factor = linear_decay(record["step"] - 1, 3, warmup=1)
        assert record["lr"] == {"students": pytest.approx(0.02 * factor), "sam": pytest.approx(0.003 * factor)}


def test_clipping_bounds_every_groups_gradient(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def record(run: engine.Trainer, batch: Batch) -> StepOutput:
        output = step(run, batch)
        for group in run.groups:
            gradients = [p.grad for p in group.parameters if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return output

    step = engine.Trainer.step
    monkeypatch.setattr(engine.Trainer, "step", record)
    train(run_config(data, {"train": {"clip": 1e-3}}, sam="tiny", steps=1), tmp_path / "run", quiet=True)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-2)


@pytest.mark.parametrize(("optimiser", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimisers_of_the_groups(optimiser: str, kind: type) -> None:
    config = resolve_config({"sam": "tiny", "train": {"optimiser": optimiser, "lr": 0.2}, "data": {"size": 32}})
    students, sam = [build_optimiser(group, config) for group in build_method(config, 1, 2).parameter_groups()]
    assert type(students) is kind
    assert students.param_groups[0]["lr"] == 0.2
    assert students.param_groups[0]["weight_decay"] == config.train.weight_decay
    assert type(sam) is torch.optim.Adam
    assert sam.param_groups[0]["lr"] == config.sam.lr


def test_seed_step_is_a_function_of_seed_step_and_process() -> None:
    def draw(*key: int) -> Tensor:
        seed_step(*key)
        return torch.rand(4)

    keys = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1), (7, 123456, 63)]
    draws = [draw(*key) for key in keys]
    assert all(torch.equal(value, draw(*key)) for key, value in zip(keys, draws, strict=True))
    assert len({tuple(value.tolist()) for value in draws}) == len(keys)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(data: Path, tmp_path: Path) -> None:
    # The share of validation is 0: its draw depends on the seed too, and would change the labelled set.
    def terms(name: str, seed: int) -> list[dict[str, float]]:
        config = run_config(data, {"train": {"seed": seed}, "data": {"val_fraction": 0}}, steps=2)
        return [r["terms"] for r in train(config, tmp_path / name, quiet=True).folder.read_metrics()]

    first = terms("a", 0)
    assert terms("b", 0) == first
    assert terms("c", 1) != first


def test_checkpoint_state_has_no_frozen_sam_weight_and_restores() -> None:
    config = resolve_config({"data": {"size": 32}, "sam": {"name": "tiny", "train": "adapters"}})
    method = build_method(config, 1, 2)
    state = {name: value.clone() for name, value in trained_state(method).items()}
    frozen = {name for name, p in method.named_parameters() if not p.requires_grad}
    assert frozen
    assert not frozen & state.keys()
    other = build_method(resolve_config(config.model_dump(), {"train": {"seed": 1}}), 1, 2)
    load_trained_state(other, state, Path("c.pt"))
    assert all(torch.equal(value, state[name]) for name, value in trained_state(other).items())


def test_a_state_of_another_method_is_refused_and_names_the_file() -> None:
    with pytest.raises(InputError, match=r"c\.pt: missing keys .* and unused keys"):
        load_trained_state(small_method("supervised"), trained_state(small_method("knowsam")), Path("c.pt"))


def test_resume_of_a_folder_without_run_or_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run was found"):
        resume(tmp_path / "nothing", quiet=True)
    config = run_config(data, {"method": "supervised"}, steps=1)
    folder = train(config, tmp_path / "run", quiet=True).folder
    folder.checkpoint.unlink()
    with pytest.raises(InputError, match="no checkpoint was found"):
        resume(tmp_path / "run", steps=2, quiet=True)


@pytest.mark.parametrize("best_is_last", [True, False])
def test_the_validation_cases_are_predicted_once_although_calibration_and_report_need_them(
    best_is_last: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[int] = []
    forward = UNet.forward

    def count(network: UNet, image: Tensor) -> Tensor:
        if not network.training:
            predicted.append(len(image))
        return forward(network, image)

    monkeypatch.setattr(UNet, "forward", count)
    # A rate of nearly nothing: equal scores, and the first of equals is kept.
    layer = {"method": "supervised", "options": {}, "train": {"report": True, "lr": 1e-12}}
    config = run_config(data, layer, steps=2 if best_is_last else 4)
    run = train(config, tmp_path / "run", quiet=True)
    validations = [r for r in run.folder.read_metrics() if "validation" in r]
    assert len(validations) == (1 if best_is_last else 2)
    assert sum(predicted) == len(validations) * len(Split.read(run.folder.split).val)
    assert is_calibrated(run.folder.student)
    assert "<h3>Best" in run.folder.report.read_text() or "<h3>Worst" in run.folder.report.read_text()

"""The last phase of a run, by choice: its finished networks teach one U-Net, on all images, labelled or not."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knowsam import __version__
from knowsam.config import Config
from knowsam.data.augment import weak_augmentation
from knowsam.data.folder import scan_folder
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ScoredVolume, ValidationScores
from knowsam.functional.losses import distillation_loss, segmentation_loss, soft_dice_loss
from knowsam.functional.probabilities import mean_log_probabilities
from knowsam.functional.schedules import linear_decay
from knowsam.inference.forward import predict_all
from knowsam.methods.base import join_halves
from knowsam.networks import SegmentationNetwork, build_network
from knowsam.networks.single_values import normalise_single_values
from knowsam.reliability.of_run import write_calibration
from knowsam.runs import DISTIL_FILE
from knowsam.runs.checkpoint import load_checkpoint, read_progress, save_checkpoint
from knowsam.runs.device import resolve_device
from knowsam.runs.environment import describe_environment
from knowsam.runs.folder import RunFolder
from knowsam.runs.loading import load_steps
from knowsam.runs.lock import folder_lock
from knowsam.runs.result import Distilled
from knowsam.runs.student_file import StudentInfo, find_student, load_student, save_student
from knowsam.storage import checksum, read_json, write_json
from knowsam.training.data import RunData, load_data, step_dataset
from knowsam.training.display import TrainingDisplay
from knowsam.training.finish import said_how_to_go_on
from knowsam.training.interrupt import stop_on_signal
from knowsam.training.log import RunLog
from knowsam.training.memory import keep_freed_memory
from knowsam.training.state import load_trained_method
from knowsam.training.trainer import precision, seed_step
from knowsam.training.validate import score_network
from knowsam.types import SAM, Batch, StepOutput

WARM_UP = 20
"""The learning rate rises over one in so many steps."""
CHECKS = 10
"""Validations of a distillation."""


@dataclass(frozen=True)
class DistilSettings:
    """Settings of a distillation.

    Attributes:
        to: The network that learns: `unet`.
        steps: In all; 0: half of the run's.
        lr: Largest learning rate of AdamW.
    """

    to: str = "unet"
    steps: int = 0
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.to != "unet":
            raise InputError(f"--to: '{self.to}' was found, but expected unet; correct it.")

    def resolved(self, config: Config) -> DistilSettings:
        """With the number of steps for a run of this configuration."""
        return DistilSettings(self.to, self.steps or max(1, config.train.steps // 2), self.lr)


def distil_run(
    run: str | Path,
    settings: DistilSettings | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Distilled:
    """Distil a finished run into one network; the same call goes on with one that was interrupted.

    Args:
        run: The run's folder; `distilled/` in it gets the network and what it measured.
        settings: Of the distillation.
        data: Where the run's data folder is now, if it was moved.
        device: As in `resolve_device`.
        quiet: No progress bar, no text.

    Raises:
        InputError: There is no finished run, another process is at work there, its network is one U-Net already, or
            its data are gone.
    """
    folder = RunFolder(Path(run))
    config = folder.read_config()
    progress = read_progress(folder.checkpoint)
    if progress.step < config.train.steps:
        raise InputError(
            f"{folder.path}: {progress.step} of {config.train.steps} steps are done, but expected a finished run; go on"
            f" with `knowsam train --resume {shlex.quote(str(folder.path))}` first."
        )
    with folder_lock(folder.path):
        return distil_phase(folder, config, settings, None, data, device, quiet)


def distil_phase(
    folder: RunFolder,
    config: Config,
    settings: DistilSettings | None = None,
    read: RunData | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Distilled:
    """As `distil_run`, of a run whose folder is held by this process.

    Args:
        folder: The run.
        config: Its configuration.
        settings: Of the distillation.
        read: Its data, if they were read already.
        data: As in `distil_run`.
        device: As in `distil_run`.
        quiet: As in `distil_run`.
    """
    display = TrainingDisplay(quiet)
    if read is None:
        scanned = scan_folder(Path(data or config.data.path), group_by=config.data.group_by)
        with display.reading() as advance:
            read = load_data(config, scanned, Split.read(folder.split), progress=advance)
    with said_how_to_go_on(folder), folder_lock(folder.distilled.path):
        distillation = Distillation(
            folder, config, (settings or DistilSettings()).resolved(config), read, device, display
        )
        with stop_on_signal() as asked_to_stop, keep_freed_memory():
            return distillation.fit(asked_to_stop)


class Distillation:
    """Teachers, the network that learns, data and optimiser.

    Args:
        run: The run that teaches.
        config: Its configuration.
        settings: Resolved.
        data: What the run trained and validated on.
        device: As in `resolve_device`.
        display: What a person sees.
    """

    def __init__(
        self,
        run: RunFolder,
        config: Config,
        settings: DistilSettings,
        data: RunData,
        device: str | None,
        display: TrainingDisplay,
    ) -> None:
        self.run, self.config, self.settings, self.data, self.display = run, config, settings, data, display
        self.folder = run.distilled
        self.device = torch.device(resolve_device(device))
        self.teacher, self.info = load_student(find_student(run.path), self.device)
        self.teacher.requires_grad_(False)
        self.sam = self._load_sam()
        self.spec = _spec(self.info)
        self.network = initial_network(self.teacher, self.spec, config.train.seed).to(self.device)
        if self.sam is None and _shapes(self.teacher) == _shapes(self.network):
            raise InputError(
                f"{run.student}: that very U-Net was found, and no SAM to teach it, but expected another network to"
                " distil; predict with the run as it is."
            )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, weight_decay=1e-4)
        self._weak = weak_augmentation(config.data.size, data.flip).to(self.device)
        self.position = 0
        self.best: float | None = None
        self.best_step: int | None = None
        self.uses_sam, self.teacher_scores = self._start()
        self.log = RunLog(self.folder, display, writes=True)
        train = config.train.model_copy(update={"steps": settings.steps, "pretrain": 0.0})
        self.batches = step_dataset(config.model_copy(update={"train": train}), data)

    def _load_sam(self) -> Any:
        """The run's SAM as it was trained; None without one."""
        if self.config.sam.name == "none":
            return None
        method, _ = load_trained_method(self.run.path)
        assert method.sam is not None
        return method.sam.to(self.device).requires_grad_(False).eval()

    def _start(self) -> tuple[bool, dict[str, float]]:
        """Begin or go on: whether SAM teaches, and the teachers' validation Dice."""
        path, same = self.folder.path / DISTIL_FILE, {"settings": asdict(self.settings), "teacher": self._teacher()}
        if path.exists():
            found = read_json(path, f"delete {self.folder.path} and repeat the command")
            if found.get("teacher") == same["teacher"] and found.get("settings") != same["settings"]:
                raise InputError(
                    f"{self.folder.path}: a distillation with other settings was found ({found.get('settings')}), but"
                    f" expected {same['settings']}; repeat those, or delete that folder."
                )
            if found.get("teacher") == same["teacher"]:
                if self.folder.checkpoint.exists():
                    self._restore()
                return bool(found["uses_sam"]), found["teacher_dice"]
            self.display.note(f"{self.run.path} has changed since it was distilled; it is distilled once more.")
            for old in (self.folder.checkpoint, self.folder.metrics, self.folder.validation, self.folder.calibration):
                old.unlink(missing_ok=True)
        scores = ValidationScores.of(self._score(self.teacher, self.sam)) if self.data.validation else None
        dice = {} if scores is None else {name: round(scores.mean(name), 5) for name in scores.per_volume}
        used = next(iter(dice.values()), 0.0)
        uses_sam = self.sam is not None and dice.get(SAM, 0.0) > used
        write_json(path, same | {"uses_sam": uses_sam, "teacher_dice": dice, **describe_environment()})
        return uses_sam, dice

    def _teacher(self) -> dict[str, Any]:
        sam_step = None if self.sam is None else read_progress(self.run.checkpoint).step
        return {"student_sha256": checksum(self.run.student), "sam_step": sam_step}

    def _restore(self) -> None:
        state = load_checkpoint(self.folder.checkpoint)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.position, self.best, self.best_step = state["step"], state["best"], state["best_step"]
        self.folder.forget_after(self.position)

    def fit(self, asked_to_stop: Callable[[], bool]) -> Distilled:
        """Do all steps, or stop when asked to, saved."""
        total = self.settings.steps
        every = max(1, total // CHECKS)
        loader = load_steps(self.batches, range(self.position, total), self.config.data.workers)
        if self.position < total:
            who = "the run's network and SAM" if self.uses_sam else "the run's network"
            self.display.note(f"{who} teach{'' if self.uses_sam else 'es'} one U-Net for {total} steps.")
        with self.display.training(total, self.position):
            self.log.start(self.position, tensorboard=False)
            for batch in loader:
                output = self.step(batch)
                last, stopping = self.position == total, asked_to_stop()
                if self.position % self.config.train.log_every == 0 or last:
                    self.log.step(self.position, output, {"student": self.optimiser.param_groups[0]["lr"]})
                self.log.alive(self.position, output)
                if self.position % every == 0 or last:
                    self.check()
                if self.position % every == 0 or last or stopping:
                    self.save()
                if stopping and not last:
                    break
        self.log.close()
        teacher = next(iter(self.teacher_scores.values()), None)
        return Distilled(self.folder, self.position, self.position == total, self.best, teacher, self.uses_sam)

    def step(self, batch: Batch) -> StepOutput:
        """Train on one batch: `L = KL(p_T || p) + soft Dice(p, p_T) + seg(z^l, y)`, the last on labelled images alone.

        The teachers see the augmented images too, so that they answer for what the student sees.
        """
        seed_step(self.config.train.seed, self.position, 0)
        self.network.train()
        batch = batch.to(self.device)
        batch.labelled_image, label = self._weak(batch.labelled_image, batch.label)
        batch.label = label
        if batch.unlabelled_image is not None:
            batch.unlabelled_image = self._weak(batch.unlabelled_image)[0]
        image, label = join_halves(batch)
        image = image.contiguous(memory_format=torch.channels_last)
        in_bf16 = precision(self.config.train.amp, self.device.type == "cuda") == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16):
            with torch.no_grad():
                target = self.teach(image)
            logits = self.network(image)
        terms = {
            "distilled": distillation_loss(logits, target, 1.0),
            "dice": soft_dice_loss(logits, target),
            "sup": segmentation_loss(logits, label),
        }
        loss = terms["distilled"] + terms["dice"] + terms["sup"]
        factor = linear_decay(self.position, self.settings.steps, self.settings.steps // WARM_UP)
        self.optimiser.param_groups[0]["lr"] = self.settings.lr * factor
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.position += 1
        return StepOutput(loss, terms)

    def teach(self, image: Tensor) -> Tensor:
        """What is to be learned: logits `(B, K, H, W)` of the teachers' mean probabilities."""
        outputs = predict_all(self.teacher, image, self.sam if self.uses_sam else None)
        used = next(iter(outputs.values()))
        return mean_log_probabilities([used, outputs[SAM]] if self.uses_sam else [used])

    def _score(self, network: nn.Module, sam: Any = None) -> list[ScoredVolume]:
        volumes, classes = self.data.validation, self.data.coding.classes
        return score_network(network, sam, volumes, classes, self.device, self.display, self.position)

    def check(self) -> None:
        """Validate, and keep the network if it is the best so far; without validation the last one is kept."""
        if not all(bool(weight.isfinite().all()) for weight in self.network.parameters()):
            raise InputError(
                f"{self.folder.path}: at step {self.position} weights were not finite, but expected numbers; lower"
                " --lr."
            )
        if not self.data.validation:
            self._keep({})
            return
        started = time.perf_counter()
        scored = self._score(self.network)
        scores = ValidationScores.of(scored)
        self.log.validation(self.position, scores, time.perf_counter() - started)
        if self.best is None or scores.mean() > self.best:
            self.best, self.best_step = scores.mean(), self.position
            write_calibration(self.folder, self._keep(scores.to_json()), scored)

    def _keep(self, validation: dict[str, Any]) -> StudentInfo:
        info = StudentInfo(
            self.spec, self.info.preprocessing, self.info.class_names, self.position, validation, __version__,
            self.info.mask_values,
        )  # fmt: skip
        save_student(self.folder.student, self.network, info)
        return info

    def save(self) -> None:
        """Write the checkpoint."""
        self.folder.sync_measurements()
        state = {
            "step": self.position, "total": self.settings.steps, "best": self.best, "best_step": self.best_step,
            "network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        save_checkpoint(self.folder.checkpoint, state)


def _spec(info: StudentInfo) -> dict[str, Any]:
    """Name and arguments of the U-Net that takes a student's place."""
    known: dict[str, Any] = {
        name: info.network[name] for name in ("in_channels", "classes", "standardise") if name in info.network
    }
    return {"name": "unet", **known, "dropout": [0.0] * 5}


def initial_network(teacher: SegmentationNetwork, spec: dict[str, Any], seed: int) -> SegmentationNetwork:
    """The network that learns: the teacher's own U-Net where it has one, else a new one."""
    torch.manual_seed(seed)
    network = build_network(**spec)
    inside = teacher.parts().get(spec["name"], teacher)
    if _shapes(inside) == _shapes(network):
        network.load_state_dict(inside.state_dict())
    normalise_single_values(network)
    return network


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}

"""The training loop: accelerate underneath, stateless randomness, checkpoints that continue bit for bit."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn

from knowsam import __version__
from knowsam.config import Config
from knowsam.data.augment import strong_augmentation, weak_augmentation
from knowsam.data.volumes import KnownMaps, VolumeMaps
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ScoredVolume, ValidationScores
from knowsam.functional.schedules import linear_decay
from knowsam.methods import Method
from knowsam.networks import ema_decay, update_ema
from knowsam.networks.class_prior import start_at_class_prior
from knowsam.reliability.of_run import calibrate_run, is_calibrated, write_calibration
from knowsam.runs.checkpoint import CheckpointProgress, save_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.runs.loading import load_steps
from knowsam.runs.result import Run
from knowsam.runs.student_file import StudentInfo, save_student
from knowsam.storage import Background
from knowsam.training.build import build_method, build_optimiser, record_sam_choices
from knowsam.training.cuda_graph import ReplayedSteps
from knowsam.training.data import RunData, read_run_data, step_dataset
from knowsam.training.determinism import repeatable
from knowsam.training.display import TrainingDisplay
from knowsam.training.finish import lacking_students, report_at_end, said_how_to_go_on
from knowsam.training.interrupt import stop_on_signal
from knowsam.training.log import RunLog
from knowsam.training.memory import keep_freed_memory
from knowsam.training.state import restore_state, trainer_state
from knowsam.training.tensorboard import require_tensorboard
from knowsam.training.validate import score_network
from knowsam.types import Batch, Progress, StepOutput


class Trainer:
    """One run: `step` trains on one batch, `fit` does all steps, validates, saves and writes what the run leaves.

    Building it reads the data, builds method and optimisers, and begins or restores the run's folder.

    Attributes:
        config: The resolved configuration.
        folder: The run's files.
        data: What it trains and validates on.
        method: Networks, SAM and loss.
        optimisers: One per parameter group, by its name.
        batches: `batches[i]` is this process's share of the batch of step i, not yet augmented.
        position: Index of the next step.
        best: Best validation Dice so far, None before the first validation.
        best_step: When it was reached.

    Args:
        config: The resolved configuration.
        folder: New or empty; with `resume` that of the run.
        resume: Continue from the folder's checkpoint; a run that was killed before its first one begins once more.
        quiet: No progress bar, no text.
        data: What it trains on, where that was read already; None: what the configuration names.

    Raises:
        InputError: For bad data or configuration, an occupied folder, a checkpoint that does not fit.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        resume: bool = False,
        quiet: bool = False,
        data: RunData | None = None,
    ) -> None:
        self.config, self.folder = config, folder
        if config.train.tensorboard:
            require_tensorboard()
        self.accelerator = Accelerator(
            mixed_precision=precision(config.train.amp, torch.cuda.is_available()),
            # SAM's unused heads and UGDA's late start leave parameters without gradient in some steps.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.display = TrainingDisplay(quiet=quiet or not self.accelerator.is_main_process)
        self.data = read_run_data(config, folder, resume, self.display) if data is None else data
        self.position = 0
        self.best: float | None = None
        self.best_step: int | None = None
        self._kept_scores: list[ScoredVolume] | None = None
        """The validation cases as the network of `student.safetensors` segments them; None where not known here."""
        self._background = Background()
        self._build()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = step_dataset(config, self.data, rank, world)
        # Last of all: what is refused above leaves no half-made run behind.
        if resume and folder.checkpoint.exists():
            restore_state(self)
        elif self.accelerator.is_main_process:
            self._begin(again=resume)
        self.log = RunLog(folder, self.display, self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()

    def _begin(self, again: bool) -> None:
        """Write the files with which a run begins, all or none."""
        try:
            self.folder.create(self.config, None if self.sam_base is None else self.sam_base.to_json(), again)
            self.data.record(self.folder)
        except OSError:
            self.folder.discard_beginning(keep_config=again)
            raise

    def _build(self) -> None:
        """Build method, optimisers and augmentations, on the device."""
        config, device = self.config, self.accelerator.device
        method = build_method(config, self.data.preprocessing.in_channels, self.data.coding.classes)
        self.sam_base = None if method.sam is None else method.sam.teacher.base
        self.config = record_sam_choices(config, method)
        method = method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.data.class_shares is not None:
            start_at_class_prior(method, self.data.class_shares)
        self.groups = method.parameter_groups()
        if method.sam is not None:
            sam_weights = [weight for group in self.groups if group.name == "sam" for weight in group.parameters]
            self.display.sam(method.sam.teacher, sum(weight.numel() for weight in sam_weights))
        self.method: Method = method
        self.optimisers = {group.name: build_optimiser(group, config) for group in self.groups}
        self._wrapped: nn.Module = self.accelerator.prepare(method)
        self._prepared = {name: self.accelerator.prepare(optimiser) for name, optimiser in self.optimisers.items()}
        self.averaged = copy.deepcopy(method.student()).requires_grad_(False) if config.train.ema else None
        self._weak = weak_augmentation(config.data.size, self.data.flip).to(device)
        strong = strong_augmentation(config.data.size, self.data.flip).to(device)
        self._unlabelled_view = self._weak if method.unlabelled_view == "weak" else strong
        self._maps: VolumeMaps | KnownMaps | None = self.data.answers
        if method.labels_volumes and self.data.unlabelled is not None:
            self._maps = VolumeMaps(self.data.unlabelled, lambda image: method.label_volume(image.to(device)))
        self._replayed = self._replay_steps()

    def _replay_steps(self) -> ReplayedSteps | None:
        """What records a step and replays it: on one GPU, without a scaler, if the method allows it."""
        device, config = self.accelerator.device, self.config.train
        single = device.type == "cuda" and self.accelerator.num_processes == 1
        # Passes that are computed twice look at the generators' state, which nothing may do while it is recorded.
        twice = config.checkpointing or self.config.sam.checkpointing
        wanted = config.cuda_graph and self.method.replayable and not twice
        if not (wanted and single and self.accelerator.scaler is None):
            return None
        parameters = [parameter for group in self.groups for parameter in group.parameters]
        return ReplayedSteps(self._gradients, parameters, device)

    def _gradients(self, batch: Batch, progress: Progress) -> StepOutput:
        """Augmentation, forward pass and backward pass of a batch on the device; the values are detached."""
        output: StepOutput = self._wrapped(self.augment(batch), progress)
        self.accelerator.backward(output.loss)
        return StepOutput(output.loss.detach(), output.terms)

    def fit(self) -> Run:
        """Train from `position` to the end, or until a signal asks to stop.

        A run whose steps are done, but which was killed before its last file, gets what it lacks.

        Raises:
            InputError: A term or weight is not finite, or a file cannot be written; the last checkpoint is kept.
        """
        with said_how_to_go_on(self.folder):
            try:
                return self._fit()
            finally:
                self._background.wait()

    def _fit(self) -> Run:
        train, total = self.config.train, self.config.train.steps
        loader = load_steps(self.batches, range(self.position, total), self.config.data.workers)
        finished = True
        deterministic = train.deterministic and self.accelerator.device.type == "cuda"
        with stop_on_signal() as asked_to_stop, self.display.training(total, self.position), keep_freed_memory():
            self.log.start(self.position, train.tensorboard)
            for batch in loader:
                with repeatable(deterministic):
                    output = self.step(batch)
                self._background.check()
                if self.position % train.log_every == 0 or self.position == total:
                    self.record(output)
                self.log.alive(self.position, output)
                stopping = self._any_process(asked_to_stop())
                last = self.position == total
                if self.data.validation and (self.position % train.validation_steps == 0 or last):
                    self.validate()
                if self.position % (train.checkpoint_every or train.validation_steps) == 0 or last or stopping:
                    self.save(wait=False)
                if stopping and not last:
                    finished = False
                    break
        self._background.wait()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if self.position == total:
                self._complete_students()
            self._end(finished)
        return Run(self.folder, self.position, finished, self.best)

    def step(self, batch: Batch) -> StepOutput:
        """Train on one batch: augment, forward, one backward, optimisers, `after_step`, running average.

        Args:
            batch: As `batches` gives it.

        Returns:
            The loss and its unweighted terms, detached.
        """
        config = self.config.train
        progress = Progress(self.position, config.steps)
        batch = self.with_maps(batch, progress)
        seed_step(config.seed, self.position, self.accelerator.process_index)
        self._wrapped.train()
        if self._replayed is None:
            for optimiser in self._prepared.values():
                optimiser.zero_grad(set_to_none=True)
            output = self._gradients(batch.to(self.accelerator.device), progress)
        else:
            output = self._replayed(batch, progress)
        if config.clip is not None:
            for group in self.groups:
                # Not accelerate's own clipping: under fp16 it unscales every optimiser at each call, which torch
                # refuses the second time.
                self.accelerator.unscale_gradients(self._prepared[group.name])
                nn.utils.clip_grad_norm_(group.parameters, config.clip)
        factor = linear_decay(self.position, config.steps, config.warmup)
        for optimiser in self._prepared.values():
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
            optimiser.step()
        self.method.after_step(progress)
        if self.averaged is not None:
            update_ema(self.averaged, self.method.student(), ema_decay(self.position, config.ema))
        self.position += 1
        return output

    def record(self, output: StepOutput) -> None:
        """Write down the terms of the last step, and tell what a person should look at.

        Raises:
            InputError: A term is not finite.
        """
        lr = {name: optimiser.param_groups[0]["lr"] for name, optimiser in self.optimisers.items()}
        self.log.step(self.position, output, lr)
        if self.method.sam is not None and (warning := self.method.sam.take_warning()) is not None:
            self.display.note(warning)
        if self._replayed is not None and (obstacle := self._replayed.take_obstacle()) is not None:
            self.display.note(f"each step is launched kernel by kernel, not replayed as a whole: {obstacle}.")

    def with_maps(self, batch: Batch, progress: Progress) -> Batch:
        """The batch with what the method made of the volumes of its unlabelled slices."""
        changed = self.method.before_step(batch, progress)
        if self._maps is None or batch.unlabelled_image is None:
            return batch
        if changed:
            self._maps.forget()
        return batch.with_tensors({"unlabelled_map": self._maps.of(batch.unlabelled_stems)})

    def augment(self, batch: Batch) -> Batch:
        """The views a method sees: labelled images weakly augmented, unlabelled ones as its `unlabelled_view` says."""
        image, label = self._weak(batch.labelled_image, batch.label)
        assert label is not None  # it was given one
        changed = {"labelled_image": image.contiguous(memory_format=torch.channels_last), "label": label}
        if batch.unlabelled_image is not None:
            # What belongs to the pixels of an unlabelled image travels with it; no method has both.
            name = "unlabelled_label" if batch.unlabelled_label is not None else "unlabelled_map"
            unlabelled, own = self._unlabelled_view(batch.unlabelled_image, getattr(batch, name))
            changed["unlabelled_image"] = unlabelled.contiguous(memory_format=torch.channels_last)
            changed[name] = own
        return batch.with_tensors(changed)

    def student(self) -> nn.Module:
        """The network that is validated and kept: the running average if there is one."""
        return self.method.student() if self.averaged is None else self.averaged

    def validate(self) -> ValidationScores:
        """Score the validation volumes, each process its share; keep the student if it is the best so far."""
        self._require_finite_weights()
        started = time.perf_counter()
        scored = self._score_validation()
        scores = ValidationScores.of(scored)
        mean = scores.mean()
        self.log.validation(self.position, scores, time.perf_counter() - started)
        if self.best is None or mean > self.best:
            self.best, self.best_step, self._kept_scores = mean, self.position, scored
            if self.accelerator.is_main_process:
                info = self._save_student(self.folder.student, scores.to_json())
                write_calibration(self.folder, info, scored)
        return scores

    def _score_validation(self) -> list[ScoredVolume]:
        student, sam = self.student(), self.method.sam
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if world > 1:
            # Each process has its own batch-norm statistics; all must score the network that the first one saves.
            for buffer in [*self.method.buffers(), *(() if self.averaged is None else self.averaged.buffers())]:
                torch.distributed.broadcast(buffer, src=0)
        if sam is not None:
            sam.eval()
        volumes, classes, device = self.data.validation[rank::world], self.data.coding.classes, self.accelerator.device
        scored = score_network(student, sam, volumes, classes, device, self.display, self.position)
        if world == 1:
            return scored
        by_name = {one.name: one for share in gather_object([scored]) for one in share}
        return [by_name[volume.name] for volume in self.data.validation]

    def save(self, wait: bool = True) -> None:
        """Write the checkpoint, and the last student with it, so that an interrupted run can predict too.

        Args:
            wait: Return when they are safe; False: they are made safe while training goes on, and until then the last
                checkpoint stays.
        """
        self._require_finite_weights()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._background.wait()
            self.folder.sync_measurements()
            with self._background.taking():
                save_checkpoint(self.folder.checkpoint, trainer_state(self))
                self._save_student(self.folder.student_last, {})
                if not self.data.validation:
                    self._save_student(self.folder.student, {})
            if wait:
                self._background.wait()
        self.accelerator.wait_for_everyone()

    def _save_student(self, path: Path, validation: dict[str, Any]) -> StudentInfo:
        info = StudentInfo(
            self.method.student_spec(),
            self.data.preprocessing,
            self.data.coding.names,
            self.position,
            validation,
            __version__,
            self.data.coding.mask_values,
        )
        save_student(path, self.student(), info)
        return info

    def _complete_students(self) -> None:
        """Write the students that a run lacks which was killed after its last checkpoint."""
        lacking = lacking_students(self.folder, self._progress(), bool(self.data.validation))
        for path in lacking:
            scores: dict[str, Any] = {}
            if path == self.folder.student and self.data.validation:
                if self.best_step == self.position:
                    scores = self.folder.validation_at(self.position)
                else:
                    self.display.note(
                        f"{path} was lost with the best network, of step {self.best_step}; the last one stands in."
                    )
            self._save_student(path, scores)

    def _progress(self) -> CheckpointProgress:
        return CheckpointProgress(self.position, self.best, self.best_step)

    def _end(self, finished: bool) -> None:
        """Write what a run has when it ends, and say where everything is."""
        self.log.close()
        report = None
        if finished:
            if self.data.validation and not is_calibrated(self.folder.student):
                calibrate_run(self.folder.path, device=str(self.accelerator.device))
            if self.config.train.report:
                scored = None if self._kept_scores is None else (self.data.cases, self._kept_scores)
                report = report_at_end(self.folder, self.display, scored)
        unlabelled = bool(self.data.split.unlabelled)
        self.display.finished(self.config, self.folder, self.position, self.best, report, unlabelled)

    def _require_finite_weights(self) -> None:
        """Before weights are kept: a checkpoint of NaN could not be continued, and would replace one that can."""
        if not all(bool(parameter.isfinite().all()) for group in self.groups for parameter in group.parameters):
            raise InputError(
                f"{self.folder.path}: at step {self.position} weights were not finite, but expected numbers; lower"
                " train.lr or set train.clip=1. The last checkpoint is untouched."
            )

    def _any_process(self, here: bool) -> bool:
        """Whether any process was asked to stop; all must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)


def precision(amp: str, on_gpu: bool) -> str:
    """Accelerate's name for the precision; `auto` is bf16 (else fp16) on a GPU and full precision on a CPU."""
    if amp != "auto":
        return amp
    if not on_gpu:
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step of one process.

    Augmentation and dropout are thereby functions of (seed, step, process): there is no state to save, and a resumed
    run draws what the uninterrupted one would have drawn. The seed is a hash of all three, because torch's CPU
    generator uses the lower 32 bits only.
    """
    words = np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))

"""The only training loop: accelerate underneath, stateless randomness, checkpoints that continue bit for bit."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn
from torch.utils.data import DataLoader

from knowsam import __version__
from knowsam.config import Config
from knowsam.data.augment import strong_augmentation, weak_augmentation
from knowsam.data.dataset import StepDataset
from knowsam.data.folder import scan_folder
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ValidationScores, validate
from knowsam.functional.schedules import linear_decay
from knowsam.inference.forward import predict_all
from knowsam.methods import Method, load_method
from knowsam.networks import ema_decay, update_ema
from knowsam.plugins import absolute
from knowsam.reliability.of_run import write_calibration
from knowsam.runs.checkpoint import load_checkpoint, save_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import StudentInfo, save_student
from knowsam.sam.loading.report import base_record, require_same_base
from knowsam.training.build import build_method, build_optimiser
from knowsam.training.data import RunData, load_data, plan_split
from knowsam.training.display import TrainingDisplay
from knowsam.training.interrupt import stop_on_signal
from knowsam.training.memory import keep_freed_memory
from knowsam.training.seeding import seed_step
from knowsam.training.state import load_trained_state, trained_state
from knowsam.training.tensorboard import TensorBoardLog, require_tensorboard
from knowsam.types import Batch, Progress, StepOutput


@dataclass
class RunResult:
    """What `train` returns.

    Attributes:
        folder: The run's files.
        steps: Steps done in all.
        finished: False if the run was interrupted and saved.
        best: Best validation Dice of the prediction that is used, None without validation.
    """

    folder: RunFolder
    steps: int
    finished: bool
    best: float | None


def train(config: Config, out: str | Path, quiet: bool = False) -> RunResult:
    """Train a new run.

    Args:
        config: A resolved configuration (`knowsam.config.resolve_config`).
        out: A new or empty folder.
        quiet: No progress bar, no text.

    Returns:
        Where everything is.

    Raises:
        InputError: For bad data, configuration or an occupied folder.
    """
    from knowsam.sam.loading.build import absolute_name

    # Absolute paths let the run be continued from any directory.
    data = config.data.model_copy(update={"path": str(Path(config.data.path).resolve())})
    sam = config.sam.model_copy(update={"name": absolute_name(config.sam.name)})
    config = config.model_copy(update={"data": data, "sam": sam, "method": absolute(config.method)})
    return _Run(config, RunFolder(Path(out)), resume=False, quiet=quiet).loop()


def resume(out: str | Path, steps: int | None = None, quiet: bool = False) -> RunResult:
    """Continue a run from its last checkpoint, to the same weights as if it had never stopped.

    Args:
        out: The run's folder.
        steps: New total number of steps, to train longer; the schedules then stretch over the new total.
        quiet: No progress bar, no text.

    Raises:
        InputError: If there is no run, or its checkpoint does not fit.
    """
    folder = RunFolder(Path(out))
    config = folder.read_config()
    if steps is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    return _Run(config, folder, resume=True, quiet=quiet).loop()


class _Run:
    """One run: what is built once, and the loop."""

    def __init__(self, config: Config, folder: RunFolder, resume: bool, quiet: bool) -> None:
        self.config, self.folder, self.resuming = config, folder, resume
        if config.train.tensorboard:
            require_tensorboard()
        self.accelerator = Accelerator(
            mixed_precision=_precision(config.train.amp),
            # SAM's unused heads and UGDA's late start leave parameters without gradient in some steps.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.display = TrainingDisplay(quiet=quiet or not self.accelerator.is_main_process)
        self.data = self._prepare_data()
        self.classes = self.data.coding.classes
        self.use_unlabelled = self.data.unlabelled is not None
        method = build_method(config, self.data.preprocessing.channels, self.classes)
        self.sam_base = None if method.sam is None else method.sam.teacher.base
        method = method.to(self.accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.groups = method.parameter_groups()
        if self.sam_base is not None:
            learning = sum(
                weight.numel() for group in self.groups if group.name == "sam" for weight in group.parameters
            )
            self.display.sam(self.sam_base, learning)
        self.optimisers = {group.name: build_optimiser(group, config) for group in self.groups}
        self.method: Method = method
        self.wrapped: nn.Module = self.accelerator.prepare(method)
        self.prepared = {name: self.accelerator.prepare(optimiser) for name, optimiser in self.optimisers.items()}
        self.averaged = copy.deepcopy(method.student()).requires_grad_(False) if config.train.ema else None
        size = config.data.size
        self.weak = weak_augmentation(size).to(self.accelerator.device)
        strong = strong_augmentation(size).to(self.accelerator.device)
        self.unlabelled_view = self.weak if method.unlabelled_view == "weak" else strong
        self.step = 0
        self.best: float | None = None
        self.batches = self._dataset()
        # Last of all: what is refused above leaves no half-made run behind.
        if resume:
            self._restore()
        elif self.accelerator.is_main_process:
            folder.create(config, None if self.sam_base is None else self.sam_base.to_json())
            self.data.split.write(folder.split)
        self.tensorboard: TensorBoardLog | None = None
        if config.train.tensorboard and self.accelerator.is_main_process:
            self.tensorboard = TensorBoardLog(folder.tensorboard, self.step)
        self.accelerator.wait_for_everyone()

    def loop(self) -> RunResult:
        """Train from `self.step` to the end."""
        train, total = self.config.train, self.config.train.steps
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step, total),
            num_workers=self.config.data.workers,
        )
        finished = True
        with stop_on_signal() as asked_to_stop, self.display.training(total, self.step), keep_freed_memory():
            logged_at = (time.perf_counter(), self.step)
            for batch in loader:
                output = self._train_step(batch)
                self.step += 1
                if self.step % train.log_every == 0 or self.step == total:
                    logged_at = self._log(output, logged_at)
                stopping = self._any_process(asked_to_stop())
                last = self.step == total
                if self.data.validation and (self.step % train.validate_every == 0 or last):
                    self._validate()
                if self.step % (train.checkpoint_every or train.validate_every) == 0 or last or stopping:
                    self._save()
                if stopping and not last:
                    finished = False
                    break
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if finished and self.data.validation:
                write_calibration(self.folder, self.data.validation, self.accelerator.device)
            if self.tensorboard is not None:
                self.tensorboard.close()
            report = self._report() if finished and train.report else None
            unlabelled = bool(self.data.split.unlabelled)
            self.display.finished(self.config, self.folder, self.step, self.best, report, unlabelled)
        return RunResult(self.folder, self.step, finished, self.best)

    def _report(self) -> str:
        """Write `report.html`; the run is done and saved, so that whatever goes wrong here is said and no more."""
        from knowsam.reporting.write import write_report

        try:
            with self.display.reading("drawing the report") as progress:
                written = write_report(self.folder.path, progress=progress)
        except Exception as error:
            reason = str(error) or type(error).__name__
            return f"not written ({reason}); the run itself is whole, try: knowsam report {self.folder.path}"
        return str(written.path) if written.left_out is None else f"{written.path}, without cases: {written.left_out}"

    def _record(self, record: dict[str, Any]) -> None:
        """Keep a measurement."""
        self.folder.append(record)
        if self.tensorboard is not None:
            self.tensorboard.add(record)

    def _train_step(self, batch: Batch) -> StepOutput:
        """One step: augment, forward, one backward, optimisers, `after_step`, EMA."""
        config = self.config.train
        progress = Progress(self.step, config.steps)
        seed_step(config.seed, self.step, self.accelerator.process_index)
        self.wrapped.train()
        output = self.wrapped(self._augment(batch.to(self.accelerator.device)), progress)
        for optimiser in self.prepared.values():
            optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(output.loss)
        if config.clip is not None:
            for group in self.groups:
                # Not accelerate's own clipping: under fp16 it unscales every optimiser at each call, which torch
                # refuses the second time.
                self.accelerator.unscale_gradients(self.prepared[group.name])
                nn.utils.clip_grad_norm_(group.parameters, config.clip)
        factor = linear_decay(self.step, config.steps, config.warmup)
        for optimiser in self.prepared.values():
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
            optimiser.step()
        self.method.after_step(progress)
        if self.averaged is not None:
            update_ema(self.averaged, self.method.student(), ema_decay(self.step, config.ema))
        return output

    def _augment(self, batch: Batch) -> Batch:
        image, label = self.weak(batch.labelled_image, batch.label)
        assert label is not None  # it was given one
        unlabelled = batch.unlabelled_image
        if unlabelled is not None:
            unlabelled = self.unlabelled_view(unlabelled)[0].contiguous(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
        return Batch(image, label, unlabelled, batch.labelled_stems, batch.unlabelled_stems)

    def _prepare_data(self) -> RunData:
        config, folder = self.config, self.folder
        uses_unlabelled = load_method(config.method).uses_unlabelled
        if self.resuming:
            scanned = scan_folder(Path(config.data.path))
            split = Split.read(folder.split)
        else:
            folder.check_free()
            scanned, split = plan_split(config)
        with self.display.reading() as progress:
            data = load_data(config, scanned, split, uses_unlabelled, progress)
        self.display.data(config, data)
        return data

    def _dataset(self) -> StepDataset:
        labelled, unlabelled = self.config.train.batch
        if not self.use_unlabelled:
            labelled, unlabelled = labelled + unlabelled, 0
        return StepDataset(
            self.data.labelled, self.data.unlabelled, (labelled, unlabelled), self.config.train.steps,
            self.config.train.seed, self.accelerator.process_index, self.accelerator.num_processes,
            labelled_only_steps=round(self.config.train.pretrain * self.config.train.steps),
        )  # fmt: skip

    def student(self) -> nn.Module:
        """The network that is validated and kept: the running average if there is one."""
        return self.method.student() if self.averaged is None else self.averaged

    def _validate(self) -> None:
        """Score this process's share of the validation volumes, gather, keep the best student."""
        self._require_finite_weights()
        student, sam = self.student().eval(), self.method.sam
        if self.accelerator.num_processes > 1:
            # Each process has its own batch-norm statistics; all must score the network that the first one saves.
            for buffer in [*self.method.buffers(), *(() if self.averaged is None else self.averaged.buffers())]:
                torch.distributed.broadcast(buffer, src=0)
        if sam is not None:
            sam.eval()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        started = time.perf_counter()
        own = validate(
            lambda image: predict_all(student, image, sam), self.data.validation[rank::world], self.classes,
            self.accelerator.device,
        )  # fmt: skip
        scores = _merge(gather_object([own.per_volume])) if world > 1 else own
        mean = scores.mean()
        if self.accelerator.is_main_process:
            record = {
                "step": self.step,
                "validation": scores.to_json(),
                "seconds": time.perf_counter() - started,
            }
            self._record(record)
            self.display.validated(self.step, scores)
        if self.best is None or mean > self.best:
            self.best = mean
            self._save_student(self.folder.student, scores.to_json())

    def _log(self, output: StepOutput, since: tuple[float, int]) -> tuple[float, int]:
        now = (time.perf_counter(), self.step)
        # One transfer for all terms, and only every `log_every` steps: reading a value waits for the device.
        names = ["loss", *output.terms]
        values = torch.stack(
            [output.loss.detach().float(), *[value.float() for value in output.terms.values()]]
        ).tolist()
        terms = dict(zip(names, values, strict=True))
        if not all(map(_is_finite, values)):
            bad = ", ".join(name for name, value in terms.items() if not _is_finite(value))
            raise InputError(
                f"{self.folder.path}: at step {self.step} the terms {bad} were not finite, but expected numbers; lower"
                " train.lr or set train.clip=1. The last checkpoint is untouched."
            )
        rate = (now[1] - since[1]) / (now[0] - since[0])
        lr = {name: optimiser.param_groups[0]["lr"] for name, optimiser in self.optimisers.items()}
        if self.accelerator.is_main_process:
            self._record({"step": self.step, "terms": terms, "lr": lr, "steps_per_s": round(rate, 4)})
        self.display.step(self.step, terms)
        return now

    def _require_finite_weights(self) -> None:
        """Before weights are kept: a checkpoint of NaN could not be continued, and would replace one that can."""
        if not all(bool(parameter.isfinite().all()) for group in self.groups for parameter in group.parameters):
            raise InputError(
                f"{self.folder.path}: at step {self.step} weights were not finite, but expected numbers; lower"
                " train.lr or"
                " set train.clip=1. The last checkpoint is untouched."
            )

    def _save(self) -> None:
        self._require_finite_weights()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder.checkpoint, self._state())
            # With every checkpoint, so that an interrupted run can predict too.
            self._save_student(self.folder.student_last, {})
            if not self.data.validation:
                self._save_student(self.folder.student, {})
        self.accelerator.wait_for_everyone()

    def _save_student(self, path: Path, validation: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        info = StudentInfo(
            self.method.student_spec(),
            self.data.preprocessing,
            self.data.coding.names,
            self.step,
            validation,
            __version__,
        )
        save_student(path, self.student(), info)

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "total": self.config.train.steps,
            "best": self.best,
            "classes": self.classes,
            "sam": base_record(self.sam_base),
            "method": trained_state(self.method),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _restore(self) -> None:
        path = self.folder.checkpoint
        state = load_checkpoint(path)
        if state["classes"] != self.classes:
            raise InputError(
                f"{path}: a checkpoint of {state['classes']} classes was found, but expected {self.classes} as"
                " in the data;"
                " restore the data, or start a new run."
            )
        total = self.config.train.steps
        if state["step"] >= total:
            raise InputError(
                f"{self.folder.path}: {state['step']} of {total} steps are done; to train longer give a larger"
                " total, e.g."
                f" --steps {2 * state['step']}."
            )
        require_same_base(state.get("sam"), self.sam_base, path)
        load_trained_state(self.method, state["method"], path)
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]
        if self.accelerator.is_main_process:
            self.folder.forget_after(self.step)
            if total != state["total"]:
                self.folder.rewrite_config(self.config)
                self.folder.append({"step": self.step, "event": "extended", "from": state["total"], "to": total})

    def _any_process(self, here: bool) -> bool:
        """Whether any process was asked to stop; all must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)


def _merge(shares: list[dict[str, dict[str, list[float]]]]) -> ValidationScores:
    merged = ValidationScores()
    for share in shares:
        for name, volumes in share.items():
            merged.per_volume.setdefault(name, {}).update(volumes)
    return merged


def _precision(amp: str) -> str:
    """Accelerate's name for the precision; `auto` is bf16 (else fp16) on a GPU and full precision on a CPU."""
    if amp != "auto":
        return amp
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")

"""The loop of `knowsam sam distil`: images, what the teacher says of them, then two phases, with checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsam.errors import InputError
from knowsam.presentation.console import make_bar, make_console
from knowsam.presentation.heartbeat import Heartbeat, Pace
from knowsam.presentation.text import count_text
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.device import resolve_device
from knowsam.runs.environment import describe_environment
from knowsam.runs.folder import RunFolder
from knowsam.runs.loading import load_steps
from knowsam.runs.lock import folder_lock
from knowsam.sam.backbone.interface import interface_of
from knowsam.sam.backbone.tiny import TinySam
from knowsam.sam.distil.cache import TeacherCache
from knowsam.sam.distil.images import DistilImages, read_images
from knowsam.sam.distil.measure import HeldOut
from knowsam.sam.distil.objects import Objects, objects_of_label
from knowsam.sam.distil.phases import map_statistics
from knowsam.sam.distil.report import write_report
from knowsam.sam.distil.settings import TINY, DistilConfig
from knowsam.sam.distil.students import first_weights, make_student
from knowsam.sam.distil.views import DistilStep, DistilSteps, StepPlan, step_generator
from knowsam.sam.loading.build import load_sam
from knowsam.sam.loading.resize import SMALLEST_GRID, resize_input
from knowsam.sam.loading.write import save_progress
from knowsam.sam.pretrain.promptable import PromptableSam
from knowsam.storage import is_unused, read_json, write_json

SETTINGS, CACHE = "distil.json", "cache"
GPU_LOADERS = 12
"""Loader processes at most; on a CPU, which has the network to compute, one."""


def distil(
    config: DistilConfig,
    out: Path,
    quiet: bool = False,
    asked_to_stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
) -> bool:
    """Distil a teacher into a small SAM; the same call on a folder with a checkpoint continues it.

    Args:
        config: All settings.
        out: The folder; gets `config.json` and `model.safetensors` (a directory that the setting `sam` takes),
            `distil.json` (settings, versions, the teacher's sha256, number of weights), `metrics.jsonl`,
            `checkpoint.pt`, and `report.html` at the end.
        quiet: No progress bar.
        asked_to_stop: Called after each step; True saves and ends.
        cache: Where the teacher's embeddings and answers are kept, which may serve several calls; None: `out/cache`.

    Returns:
        Whether all steps are done.

    Raises:
        InputError: If the folder holds something else, another process is at work there, there are no images or no
            objects, or the teacher cannot be used.
    """
    with folder_lock(out):
        run = _Distillation(config, out, cache or out / CACHE, quiet)
        return run.fit(asked_to_stop)


class _Distillation:
    """Student, images, what the teacher says of them, and the step at which it stands."""

    def __init__(self, config: DistilConfig, out: Path, cache: Path, quiet: bool) -> None:
        self.config, self.folder = config, RunFolder(out)
        self.console = make_console(stderr=True, quiet=quiet)
        self.device = resolve_device()
        torch.manual_seed(config.seed)
        teacher, report = load_sam(config.teacher)
        if interface_of(teacher).finer_maps and not isinstance(teacher, TinySam):
            raise InputError(
                f"--teacher: '{config.teacher}' was found, whose decoder reads finer maps than the embedding, but"
                " expected a SAM of the first kind; give lite_medsam, vit_b or a path of one."
            )
        made_for = report.made_for if self.device != "cpu" else report.made_for // 2
        side = config.size or made_for
        resize_input(teacher, (side, side))
        # What can be wrong is looked at before the teacher is asked, which takes long.
        first: Any = first_weights(config.start) if config.student == TINY else None
        patch, view = report.sizes["patch_px"], side
        if first is not None:
            patch, view = first.config.vision_config.patch_size, config.view
        if view % patch or view < SMALLEST_GRID * patch:
            raise InputError(
                f"--view: {view} was found, but expected a multiple of {patch} from {SMALLEST_GRID * patch} on, because"
                f" the small SAM cuts images into patches of {patch} px; correct it."
            )
        self._begin(report.sha256)
        data = read_images(config, side)
        asked = TeacherCache(cache, [str(report.sha256), report.pixels], side, config.answers)
        imitated = config.student != TINY or config.embedding > 0
        self._ask(asked, PromptableSam(teacher, report.pixels), data, imitated)
        objects = self._objects(asked, data, side // 2)
        # The projection of a tiny student has a cell for every 4 px of its view.
        grid = view // 4 if config.student == TINY else 0
        self.embeddings, held_out = (
            asked.embeddings(data.image[part], grid) if imitated else None for part in (~data.held_out, data.held_out)
        )
        statistics = [] if self.embeddings is None else map_statistics(self.embeddings)
        self.student = make_student(config, teacher.cpu(), report, first, statistics, self.device)
        self.plan, measured = (
            StepPlan(
                data.image[part], objects.part(part), imitated, patch, view, config.batch, config.prompts,
                config.drawings, config.seed, config.encoder_steps, self.student.encoder_alone,
            )
            for part in (~data.held_out, data.held_out)
        )  # fmt: skip
        self.held_out = HeldOut(measured, held_out)
        self.step, self.learned = 0, 0
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self._restore()

    def _begin(self, sha256: str | None) -> None:
        """Write the settings of a new folder, or compare those of an old one."""
        path, settings = self.folder.path, json.loads(json.dumps(asdict(self.config)))
        if (path / SETTINGS).exists():
            found = read_json(path / SETTINGS, "restore it, or choose a new folder")
            before = found.get("settings")
            before = before if isinstance(before, dict) else {}
            different = [name for name in settings if before.get(name) != settings[name]]
            different += ["teacher's weights"] * (found.get("teacher_sha256") != sha256)
            if different:
                raise InputError(
                    f"{path}: a distillation with another {', '.join(different)} was found, but expected the same to"
                    " continue it; repeat them, or choose a new folder."
                )
            return
        if not is_unused(path):
            raise InputError(
                f"{path}: files but no distillation were found, but expected a new or empty folder, or that of an"
                " earlier call; choose another."
            )
        write_json(path / SETTINGS, {"settings": settings, "teacher_sha256": sha256, **describe_environment()})

    def _restore(self) -> None:
        """Go on from the checkpoint; without one, forget what was measured before it was to be written."""
        if not self.folder.checkpoint.exists():
            measured = self.folder.read_metrics() if self.folder.metrics.exists() else []
            if (step := max((record["step"] for record in measured), default=0)) > self.config.check_every:
                raise InputError(
                    f"{self.folder.checkpoint}: no checkpoint was found, but expected one of this distillation, which"
                    f" has come to step {step}; restore it, or choose a new folder."
                )
            self.folder.metrics.unlink(missing_ok=True)
            return
        state = load_checkpoint(self.folder.checkpoint)
        self.student.load_state(state)
        self.step = state["step"]
        self.folder.forget_after(self.step)
        self.student.write(self.folder.path)  # it may have been killed after its checkpoint and before this

    def _ask(self, cache: TeacherCache, teacher: PromptableSam, data: DistilImages, embeddings: bool) -> None:
        """Ask the teacher what is not kept yet."""
        teacher = teacher.eval().requires_grad_(False).to(self.device)
        beat = Heartbeat()
        with make_bar(self.console, "asking the teacher", "bar", "count", "elapsed", "left", "remaining") as bar:
            task = bar.add_task("asking the teacher", total=len(data.image))

            def advance(count: int) -> None:
                bar.advance(task, count)
                if not self.console.is_terminal and beat.due():
                    self.console.print(f"asking the teacher: {bar.tasks[0].completed:.0f} of {len(data.image)} images")

            cache.fill(teacher, data.image, ~data.has_mask, embeddings, self.config.amp == "bf16", advance)

    def _objects(self, cache: TeacherCache, data: DistilImages, side: int) -> Objects:
        """The objects of all images."""
        has_mask = data.has_mask.tolist()
        objects = Objects.empty(len(data.image), self.config.answers, side)
        for index, image in enumerate(data.image):
            if has_mask[index]:
                objects.put(index, *objects_of_label(data.label[index], self.config.answers, side))
            else:
                mask, agreement = cache.read_answers(image)
                objects.put(index, mask, agreement, torch.ones(len(mask), dtype=torch.bool))
        with_object = (objects.chance > 0).any(dim=1)
        if not bool(with_object[~data.held_out].any()):
            raise InputError(
                f"--teacher: in none of {count_text(len(data.image), 'image')} did '{self.config.teacher}' see an"
                " object, but expected some; check that it is made for such images and --size not far below what it"
                " was made for."
            )
        known, seen = (int((objects.chance[part] > 0).sum()) for part in (data.has_mask, ~data.has_mask))
        self.console.print(
            f"{count_text(len(data.image), 'image')}, {sum(has_mask)} with a mask; objects: {known} in masks,"
            f" {seen} seen by the teacher"
        )
        return objects

    def fit(self, asked_to_stop: Callable[[], bool]) -> bool:
        """All steps that are left, with measurements, checkpoints and the report."""
        config, beat, pace = self.config, Heartbeat(), Pace(self.config.steps, self.step)
        self.console.print(parameter_line(self.student.model.sam))
        if self.step == 0:
            self.check()
        loaders = 1 if self.device == "cpu" else min(GPU_LOADERS, max(1, (os.cpu_count() or 1) - 1))
        # Bytes go through a pipe; tensors would need shared memory, of which containers have little.
        loader = load_steps(DistilSteps(self.plan), range(self.step, config.steps), loaders, pickle.dumps)
        columns = ("distilling", "bar", "count", "elapsed", "left", "remaining", "{task.fields[score]}")
        with make_bar(self.console, *columns) as bar:
            task = bar.add_task("distilling", total=config.steps, completed=self.step, score="")
            started = time.perf_counter()
            for packed in loader:
                self.take(pickle.loads(packed))
                stopping, last = asked_to_stop(), self.step == config.steps
                bar.update(task, completed=self.step)
                if not self.console.is_terminal and beat.due():
                    self.console.print(f"step {self.step} of {config.steps}{pace.left(self.step)}")
                if self.step % config.check_every == 0 or last:
                    seconds = time.perf_counter() - started
                    bar.update(task, score=score_text(self.check(seconds)))
                    started = time.perf_counter()
                if self.step % config.check_every == 0 or last or stopping:
                    self.save()
                if stopping:
                    break
        if self.step == config.steps:
            line = parameter_line(self.student.model.sam)
            write_report(self.folder, asdict(config), line, self.held_out, self.student.kept(), self.device)
        return self.step == config.steps

    def take(self, data: DistilStep) -> None:
        """Do one step; all that is random is a function of seed and step."""
        maps: list[Tensor] = []
        if data.image is not None and self.embeddings is not None:
            maps = [level.to(self.device) for level in self.embeddings.take(data.chosen)]
        generator = step_generator(self.config.seed, self.step, 2)
        terms = self.student.learn(data.to(self.device), maps, self.step, generator)
        self.step += 1
        self.learned += 1
        for name, value in terms.items():
            total, count = self.sums.get(name, (torch.zeros((), device=self.device), 0))
            self.sums[name] = (total + value, count + 1)

    def check(self, seconds: float = 0.0) -> dict[str, float]:
        """Record the mean terms since the last record and the scores on held-out images."""
        terms = {name: float(total) / count for name, (total, count) in self.sums.items()}
        if any(value != value or abs(value) == float("inf") for value in terms.values()):
            raise InputError(
                f"{self.folder.path}: before step {self.step} the loss was not finite, but expected a number; lower"
                " --lr. The last checkpoint is untouched."
            )
        record: dict[str, Any] = {"step": self.step, "held_out": self.held_out.scores(self.student, self.device)}
        if self.learned:
            record |= {"terms": terms, "ms_per_step": round(1000 * seconds / self.learned, 1)}
        self.folder.append(record)
        self.learned, self.sums = 0, {}
        return record["held_out"]

    def save(self) -> None:
        """Write the checkpoint, and the student as a directory that the setting `sam` takes."""
        save_progress(self.folder, {"step": self.step, **self.student.state()}, [self.student.kept()])
        self.student.write(self.folder.path)


def score_text(scores: dict[str, float]) -> str:
    """Scores in one line."""
    known = {"r2": "R2", "box": "box", "mask": "mask"}
    return ", ".join(f"{word} {scores[name]:.3f}" for name, word in known.items() if name in scores)


def parameter_line(sam: Any) -> str:
    """Number of weights of a SAM, and of its parts."""
    parts = {
        "encoder": sam.vision_encoder, "prompt encoder": sam.prompt_encoder, "decoder": sam.mask_decoder,
    }  # fmt: skip
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
    whole = sum(weight.numel() for weight in sam.parameters())
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"student: {whole:,} parameters ({said})"

"""The loop of `knowsam sam distil`: images and the teacher's embeddings once, then two phases, with checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from knowsam.data.folder import scan_folder
from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from knowsam.functional.schedules import linear_decay
from knowsam.io import read_image
from knowsam.presentation.console import make_bar, make_console
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.device import resolve_device
from knowsam.runs.environment import describe_environment
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.sam.backbone.interface import interface_of
from knowsam.sam.backbone.student import MODEL_TYPE, student_of
from knowsam.sam.distil.phases import decoder_loss, decoder_parameters, encoder_loss, encoder_parameters
from knowsam.sam.distil.settings import DistilConfig
from knowsam.sam.loading.build import load_sam
from knowsam.sam.loading.resize import resize_input
from knowsam.sam.loading.write import save_progress, write_sam
from knowsam.sam.pretrain.promptable import PromptableSam
from knowsam.storage import is_unused, read_json, write_json

SETTINGS = "distil.json"
HELD_OUT_SHARE = 0.1
"""Of the images, at least one: never learned from, measured on."""


def distil(
    config: DistilConfig, out: Path, quiet: bool = False, asked_to_stop: Callable[[], bool] = lambda: False
) -> bool:
    """Distil a teacher into a small SAM; the same call on a folder with a checkpoint continues it.

    Args:
        config: All settings.
        out: The folder; gets `config.json` and `model.safetensors` (a directory that the setting `sam` takes),
            `distil.json` (settings, versions, the teacher's sha256), `metrics.jsonl`, `checkpoint.pt`.
        quiet: No progress bar.
        asked_to_stop: Called after each step; True saves and ends.

    Returns:
        Whether all steps are done.

    Raises:
        InputError: If the folder holds something else, another process is at work there, there are no images, or the
            teacher cannot be used.
    """
    with folder_lock(out):
        return _distil(config, out, quiet, asked_to_stop)


def _distil(config: DistilConfig, out: Path, quiet: bool, asked_to_stop: Callable[[], bool]) -> bool:
    run = _Distillation(config, out)
    console = make_console(stderr=True, quiet=quiet)
    with make_bar(console, "distilling", "bar", "count", "elapsed", "left", "remaining", "{task.fields[score]}") as bar:
        task = bar.add_task("distilling", total=config.steps, completed=run.step, score="")
        while run.step < config.steps:
            run.take()
            stopping, last = asked_to_stop(), run.step == config.steps
            if run.step % config.check_every == 0 or last:
                scores = run.check()
                bar.update(task, score=f"R2 {scores['r2']:.3f}, IoU {scores['agreement']:.3f}")
            if run.step % config.check_every == 0 or last or stopping:
                run.save()
            bar.update(task, completed=run.step)
            if stopping:
                break
    return run.step == config.steps


class _Distillation:
    """Teacher, student, images, embeddings; step, optimisers."""

    def __init__(self, config: DistilConfig, out: Path) -> None:
        self.config, self.folder = config, RunFolder(out)
        self.device = resolve_device()
        torch.manual_seed(config.seed)
        teacher, report = load_sam(config.teacher)
        if interface_of(teacher).learns_whole:
            raise InputError(
                f"--teacher: '{config.teacher}' was found, whose decoder reads finer maps than the embedding, but"
                " expected a published SAM; give lite_medsam, vit_b or a path of one."
            )
        made_for = report.made_for if self.device != "cpu" else report.made_for // 2
        self.side = config.size or made_for
        resize_input(teacher, (self.side, self.side))
        self._begin(report.sha256)
        student = student_of(teacher, config.student, report.pixels)
        self.teacher = PromptableSam(teacher, report.pixels).eval().requires_grad_(False).to(self.device)
        self.student = PromptableSam(student, report.pixels).to(self.device)
        self.images = read_images(config.images, self.side)
        self.embeddings = self._embed()
        held_out = max(1, round(HELD_OUT_SHARE * len(self.images)))
        self.learned, self.held_out = (
            range(len(self.images) - held_out),
            range(len(self.images) - held_out, len(self.images)),
        )
        known = self.embeddings[: len(self.learned)].float()
        deviation, mean = torch.std_mean(known, dim=(0, 2, 3))
        self.student.sam.vision_encoder.start_at(mean.to(self.device), deviation.to(self.device))
        self.variance = float(deviation.square().mean())
        self.optimisers = [
            torch.optim.AdamW(parameters(self.student), lr=config.lr, weight_decay=config.weight_decay)
            for parameters in (encoder_parameters, decoder_parameters)
        ]
        self.step = 0
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
        self.student.load_state_dict(state["student"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.step = state["step"]
        self.folder.forget_after(self.step)
        self._write()  # it may have been killed after its checkpoint and before this

    @torch.no_grad()
    def _embed(self) -> Tensor:
        """The teacher's embedding of every image, once, in half precision: `(N, dim, g, g)`."""
        return torch.cat(
            [self.teacher.encode(self._pixels([index]))[0].half().cpu() for index in range(len(self.images))]
        )

    def _pixels(self, chosen: list[int]) -> Tensor:
        return self.images[chosen].to(self.device).float() / 255

    def take(self) -> None:
        """Do one step: phase A, then phase B; all that is random is a function of seed and step."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        chosen = torch.randint(len(self.learned), (config.batch,), generator=generator).tolist()
        image, target = self._pixels(chosen), self.embeddings[chosen].to(self.device).float()
        in_encoder = self.step < config.encoder_steps
        optimiser = self.optimisers[0 if in_encoder else 1]
        done = self.step if in_encoder else self.step - config.encoder_steps
        total = config.encoder_steps if in_encoder else config.steps - config.encoder_steps
        for group in optimiser.param_groups:
            group["lr"] = config.lr * linear_decay(done, total, total // 20)
        self.student.train()
        if in_encoder:
            loss = encoder_loss(self.student, image, target, self.variance)
        else:
            loss, _ = decoder_loss(self.teacher, self.student, image, target, config.prompts, generator)
        if not bool(loss.isfinite()):
            raise InputError(
                f"{self.folder.path}: at step {self.step} the loss was not finite, but expected a number; lower --lr."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        self.step += 1

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Measure R^2 of the embedding and agreement of the answers to boxes (IoU) on held-out images."""
        self.student.eval()
        errors, agreements = [], []
        for index in self.held_out:
            image, target = self._pixels([index]), self.embeddings[[index]].to(self.device).float()
            errors.append(float(encoder_loss(self.student, image, target, self.variance)))
            generator = torch.Generator().manual_seed(index)
            agreements.append(float(decoder_loss(self.teacher, self.student, image, target, 8, generator)[1]))
        scores = {"r2": 1 - sum(errors) / len(errors), "agreement": sum(agreements) / len(agreements)}
        self.folder.append({"step": self.step, "held_out": scores})
        return scores

    def save(self) -> None:
        """Write the checkpoint, and the student as a directory that the setting `sam` takes."""
        state = {
            "step": self.step, "student": self.student.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }  # fmt: skip
        save_progress(self.folder, state, [self.student])
        self._write()

    def _write(self) -> None:
        write_sam(self.student.sam, self.folder.path, MODEL_TYPE, torch.float32)


def read_images(folders: tuple[str, ...], side: int) -> Tensor:
    """All images of some data folders, every slice of a volume: `(N, 3, side, side)` uint8. No mask is opened.

    Raises:
        InputError: If a folder is none, or there are fewer than two images.
    """
    preprocessing = Preprocessing((side, side), 3)
    found = [
        (preprocessing.slices(read_image(case.image)) * 255).round().byte()
        for folder in folders
        for case in scan_folder(folder).cases.values()
    ]
    images = torch.cat(found) if found else torch.zeros(0, 3, side, side, dtype=torch.uint8)
    if len(images) < 2:
        raise InputError(
            f"--images: {len(images)} images were found in {', '.join(folders)}, but expected at least 2; add more."
        )
    return images

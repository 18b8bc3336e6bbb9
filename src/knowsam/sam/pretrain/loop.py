"""The pretraining loop of the small SAM: from drawn scenes to a directory that the setting `sam` takes.

Each step encodes B images once and asks for P objects of each, with a corrupted mask, a mask and a point, a box or a
point as prompt; then for one object of each image again, with the model's own mask and a point where it is wrong, as
SAM was trained (Kirillov et al., 2023, appendix A). For the first half of the run the encoder is also asked for all
outlines, a dense task that needs no prompt.

A loop of its own, because it has neither labels, nor students, nor validation images. It is built of the parts that the
training of a run uses too: the learning rate (`functional.schedules`), the running average (`networks.ema`), the
checkpoint, the folder and the record of the environment (`runs`), whole files (`storage`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.functional.schedules import linear_decay
from knowsam.networks.ema import ema_copy, ema_decay, update_ema
from knowsam.presentation.console import make_bar, make_console
from knowsam.presentation.heartbeat import Heartbeat, Pace
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.device import resolve_device
from knowsam.runs.environment import describe_environment
from knowsam.runs.folder import RunFolder
from knowsam.runs.loading import load_steps
from knowsam.runs.lock import folder_lock
from knowsam.sam.backbone.tiny import MODEL_TYPE, TinySam, read_config, tiny_sam
from knowsam.sam.loading.build import TINY, build_sam
from knowsam.sam.loading.hub import CONFIG, silent_transformers
from knowsam.sam.loading.resize import SMALLEST_GRID
from knowsam.sam.loading.write import save_progress, write_sam, write_sam_config
from knowsam.sam.pretrain.promptable import PromptableSam, step_losses
from knowsam.sam.pretrain.steps import DrawnStep, PretrainConfig, PretrainSteps, draw_step
from knowsam.storage import is_own, is_unused, read_json, write_json

SETTINGS = "pretrain.json"
STORED = torch.float16
"""Precision of the weights of the directory."""
HELD_OUT_SEED = 2**31
"""Added to the seed of drawn scenes that are not trained on."""


def pretrain(
    config: PretrainConfig,
    out: Path,
    quiet: bool = False,
    asked_to_stop: Callable[[], bool] = lambda: False,
    device: str | torch.device | None = None,
) -> bool:
    """Pretrain the small SAM; the same call on a folder with a checkpoint continues it, to the same weights.

    Args:
        config: All settings.
        out: The folder; gets `config.json` and `model.safetensors` (the running average, in half precision: a directory
            that the setting `sam` takes), `pretrain.json` (settings, versions, sha256 of the weights it began with),
            `metrics.jsonl`, `checkpoint.pt`.
        quiet: No progress bar.
        asked_to_stop: Called after each step; True saves and ends.
        device: Where to compute, e.g. `"cuda"`; None: on a GPU where there is one, else on the CPU. Initial weights and
            data are drawn on the CPU and the same everywhere, and a run may go on on another device.

    Returns:
        Whether all steps are done.

    Raises:
        InputError: If the folder holds another run, another process is at work there, or settings do not fit the SAM.
    """
    device = resolve_device(None if device is None else str(device))
    with folder_lock(out):
        return _pretrain(config, out, quiet, asked_to_stop, device)


def _pretrain(config: PretrainConfig, out: Path, quiet: bool, asked_to_stop: Callable[[], bool], device: str) -> bool:
    torch.manual_seed(config.seed)
    sam, started = _first_weights(config.start, RunFolder(out))
    patch = sam.config.vision_config.patch_size
    if wrong := [side for side in config.sizes if side % patch or side < SMALLEST_GRID * patch]:
        raise InputError(
            f"--sizes: {wrong[0]} was found, but expected multiples of {patch} from {SMALLEST_GRID * patch} on, because"
            f" this SAM cuts images into patches of {patch} px; correct it."
        )
    # For the decoder: on a CPU torch's fused attention makes a step a tenth slower at these sizes.
    with silent_transformers():
        sam.set_attn_implementation("eager")
    run = _Pretraining(config, out, PromptableSam(sam).to(device), started)
    run.restore()
    loader = load_steps(PretrainSteps(config, patch), range(run.step, config.steps), workers=1)
    columns = ("pretraining", "bar", "count", "elapsed", "left", "remaining", "{task.fields[iou]}")
    console, beat, pace = make_console(stderr=True, quiet=quiet), Heartbeat(), Pace(config.steps, run.step)
    with make_bar(console, *columns) as bar:
        task = bar.add_task("pretraining", total=config.steps, completed=run.step, iou="")
        for data in loader:
            run.take(data)
            bar.update(task, completed=run.step)
            if not console.is_terminal and beat.due():
                console.print(f"step {run.step} of {config.steps}{pace.left(run.step)}")
            stopping = asked_to_stop()
            if run.step % config.check_every == 0 or run.step == config.steps:
                held_out = run.check(patch)
                bar.update(task, iou=f"IoU {held_out['iou_given_mask']:.3f} -> {held_out['iou_mask']:.3f}")
                run.save()
            elif stopping:
                run.save()
            if stopping:
                break
    return run.step == config.steps


def _first_weights(start: str, run: RunFolder) -> tuple[Any, str | None]:
    """The small SAM with random weights or those of `start`, and their sha256; a run that goes on reads no `start`."""
    if run.checkpoint.exists():
        return tiny_sam(read_config(run.path)), None
    config = read_config(TINY)
    if not start:
        return tiny_sam(config), None
    sam, report = build_sam(start, (config["vision_config"]["image_size"],) * 2)
    if type(sam) is not TinySam:
        raise InputError(
            f"--start: '{start}' holds a {type(sam).__name__}, but expected the small SAM of this package; give 'tiny'"
            " or a directory that `knowsam sam pretrain` wrote."
        )
    return sam, report.sha256


class _Pretraining:
    """The state of a run: model, running average, optimiser, step, sums of the terms since the last record."""

    def __init__(self, config: PretrainConfig, out: Path, model: PromptableSam, started: str | None) -> None:
        self.config, self.folder, self.model = config, RunFolder(out), model
        self.settings = out / SETTINGS
        self.started = started
        self.average = cast(PromptableSam, ema_copy(model))
        self.optimiser = build_optimiser(model, config)
        self.device = next(model.parameters()).device
        self.step = 0
        self.sums: dict[str, float] = {}

    def take(self, data: DrawnStep) -> None:
        """Do one step."""
        terms = _train_step(self.config, self.model, self.optimiser, data.to(self.device), self.step)
        update_ema(self.average, self.model, ema_decay(self.step, self.config.ema))
        self.step += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def check(self, patch: int) -> dict[str, float]:
        """Record the mean terms since the last record, and measure the running average on held-out scenes."""
        if not math.isfinite(self.sums["loss"]):
            raise InputError(
                f"{self.folder.path}: before step {self.step} the loss was not finite, but expected a number; lower"
                " --lr. The last checkpoint is untouched."
            )
        count = (self.step - 1) % self.config.check_every + 1
        held_out = held_out_scores(self.config, self.average, patch)
        terms = {name: value / count for name, value in self.sums.items()}
        self.sums = {}
        self.folder.append({"step": self.step, "terms": terms, "held_out": held_out})
        return held_out

    def save(self) -> None:
        """Write the checkpoint, and the running average as a directory that the setting `sam` takes."""
        state = {
            "step": self.step, "sums": self.sums, "model": self.model.state_dict(),
            "average": self.average.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        save_progress(self.folder, state, (self.model, self.average))
        write_sam(self.average.sam, self.folder.path, MODEL_TYPE, STORED)

    def restore(self) -> None:
        """Continue from the folder's checkpoint, or begin: in an empty folder, or where there is no checkpoint yet."""
        settings = json.loads(json.dumps(asdict(self.config)))
        saved = self.folder.checkpoint.exists()
        if not saved and not self._may_begin():
            raise InputError(
                f"{self.folder.path}: files but no checkpoint of a pretraining were found, but expected a new or"
                " empty folder, or that of an earlier call; choose another."
            )
        if not saved and not self.settings.exists():
            record = {"settings": settings, "start_sha256": self.started, **describe_environment()}
            write_json(self.settings, record)
        found = read_json(self.settings, "restore it, or choose a new folder").get("settings")
        found = found if isinstance(found, dict) else {}
        if different := [name for name in settings if found.get(name) != settings[name]]:
            raise InputError(
                f"{self.folder.path}: a pretraining with another {', '.join(different)} was found, but expected the"
                " same settings to continue it; repeat them, or choose a new folder."
            )
        if not saved:
            self.folder.metrics.unlink(missing_ok=True)
            # What describes the network: a call that goes on builds it from this.
            write_sam_config(self.average.sam, self.folder.path, MODEL_TYPE, STORED)
            return
        state = load_checkpoint(self.folder.checkpoint)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.sums = state["step"], state["sums"]
        self.folder.forget_after(self.step)
        # It may have been killed after its checkpoint and before these.
        write_sam(self.average.sam, self.folder.path, MODEL_TYPE, STORED)

    def _may_begin(self) -> bool:
        """Whether a folder without a checkpoint holds nothing, or only what is written before the first one."""
        first = {self.settings.name, CONFIG, self.folder.metrics.name}
        if is_unused(self.folder.path):
            return True
        others = [one for one in self.folder.path.iterdir() if one.name not in first and not is_own(one.name)]
        if others or not self.settings.exists():
            return False
        steps = [record["step"] for record in self.folder.read_metrics()] if self.folder.metrics.exists() else []
        return max(steps, default=0) <= self.config.check_every


def _train_step(
    config: PretrainConfig, model: PromptableSam, optimiser: torch.optim.Optimizer, data: DrawnStep, step: int
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    with torch.autocast(data.image.device.type, dtype=torch.bfloat16, enabled=config.amp == "bf16"):
        terms = step_losses(model, data, generator)
    fading = max(0.0, 1 - step / (config.outline_until * config.steps))
    outline = terms["outline_coarse"] + terms["outline_fine"]
    loss = (terms["first"] + terms["second"]) / 2 + 0.5 * fading * outline
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    factor = linear_decay(step, config.steps, round(config.warmup * config.steps))
    for group in optimiser.param_groups:
        group["lr"] = config.lr * factor
    optimiser.step()
    return {name: term.detach() for name, term in {"loss": loss, **terms}.items()}


@torch.no_grad()
def held_out_scores(config: PretrainConfig, model: PromptableSam, patch: int, steps: int = 6) -> dict[str, float]:
    """Measure the mean IoU on drawn scenes that are not trained on, for all kinds of prompts, in full precision."""
    model.eval()
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    for step in range(config.steps, config.steps + steps):
        data = draw_step(config, patch, step, config.seed + HELD_OUT_SEED, (0.0, 1.0)).to(device)
        terms = step_losses(model, data, torch.Generator().manual_seed(step))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) / steps
    return sums


def build_optimiser(model: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW over everything that learns; vectors and positions are not decayed."""
    learning = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in learning if weight.ndim > 1 and "embed" not in name]
    others = [weight for name, weight in learning if weight.ndim <= 1 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))

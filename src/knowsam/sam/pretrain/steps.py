"""The data of a pretraining step: settings, and drawn images with one prompt for each object asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from knowsam.sam.backbone.decode import MASK_PROMPT_SCALE
from knowsam.sam.corruption import corrupt
from knowsam.sam.pretrain.scenes import draw_scenes
from knowsam.sam.pretrain.targets import boxes_of, choose_targets, jitter_boxes, points_in

MASK, MASK_AND_POINT, BOX, POINT = range(4)
"""Kinds of prompt."""
SHARES = (0.5, 0.08, 0.34, 0.08)
"""How often each kind is drawn."""
SEVERITY = (0.0, 0.8)
"""Range of the severity with which mask prompts are corrupted; above it too little is left to answer."""


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pretraining run.

    Attributes:
        steps: Optimiser steps in all.
        images: Images per step.
        prompts: Objects asked for per image.
        sizes: Image sides in pixels; each step draws one.
        lr: Learning rate of AdamW after the warm-up; it falls linearly to 0.
        warmup: Share of the run over which it rises.
        weight_decay: Of weight matrices; vectors and positions have none.
        ema: Decay of the running average that is kept.
        outline_until: Share of the run with the loss of all outlines.
        amp: `"bf16"` or `"no"`.
        seed: Of initial weights and scenes.
        check_every: Steps between measurements on held-out scenes and checkpoints.
        start: First weights: `"tiny"`, or a directory of an earlier pretraining; empty: random.
    """

    steps: int = 4500
    images: int = 6
    prompts: int = 4
    sizes: tuple[int, ...] = (96, 96, 128)
    lr: float = 2e-3
    warmup: float = 0.03
    weight_decay: float = 0.05
    ema: float = 0.998
    outline_until: float = 0.5
    amp: str = "no"
    seed: int = 0
    check_every: int = 250
    start: str = ""


@dataclass
class DrawnStep:
    """The data of one step, drawn on the CPU.

    Attributes:
        image: `(B, 3, H, W)` float32 in [0, 1].
        target: `(B * P, H, W)` float32, 0 or 1.
        weight: `(B * P,)`, 0 where there is nothing to ask for.
        outline: `(B, 1, h, w)` float32, 1 where two layers meet, at the size of the mask prompt.
        logits: Corrupted mask prompts `(B * P, h, w)`.
        kind: `(B * P,)`, one of the four kinds.
        box: `(B * P, 4)` x0, y0, x1, y1 in [0, 1].
        point: `(B * P, 2)` x, y in [0, 1], inside the target.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    outline: Tensor
    logits: Tensor
    kind: Tensor
    box: Tensor
    point: Tensor

    def to(self, device: torch.device | str) -> DrawnStep:
        """The same step on another device."""
        return DrawnStep(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw_step(config: PretrainConfig, patch: int, step: int, seed: int, severity: tuple[float, float]) -> DrawnStep:
    """The data of a step: a function of the seed and the step alone."""
    words = np.random.SeedSequence((seed, step)).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
    side = config.sizes[int(torch.randint(len(config.sizes), (), generator=generator))]
    scenes = draw_scenes(config.images, (side, side), generator)
    kind = torch.multinomial(
        torch.tensor(SHARES), config.images * config.prompts, replacement=True, generator=generator
    )
    one_piece = ((kind == BOX) | (kind == POINT)).view(config.images, config.prompts)
    targets = choose_targets(scenes, one_piece, generator)
    target, scale = targets.mask.flatten(0, 1), patch // MASK_PROMPT_SCALE
    small, neighbour = (F.avg_pool2d(mask, scale).flatten(0, 1) for mask in (targets.mask, targets.neighbour))
    return DrawnStep(
        scenes.image,
        target,
        targets.weight.flatten(),
        outlines(scenes.layer, scale),
        corrupt(small, neighbour, generator, severity),
        kind,
        jitter_boxes(boxes_of(target), generator) / side,
        points_in(target, generator) / side,
    )


def outlines(layer: Tensor, scale: int) -> Tensor:
    """Where neighbouring pixels of `(B, H, W)` differ, as `(B, 1, H / scale, W / scale)` float."""
    edge = torch.zeros_like(layer, dtype=torch.float32)
    edge[:, 1:] += layer[:, 1:] != layer[:, :-1]
    edge[:, :, 1:] += layer[:, :, 1:] != layer[:, :, :-1]
    return F.max_pool2d(edge.clamp(max=1).unsqueeze(1), scale)


class PretrainSteps(Dataset[DrawnStep]):
    """Drawn steps by number."""

    def __init__(self, config: PretrainConfig, patch: int) -> None:
        self.config, self.patch = config, patch

    def __getitem__(self, step: int) -> DrawnStep:
        return draw_step(self.config, self.patch, step, self.config.seed, SEVERITY)

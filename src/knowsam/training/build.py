"""From a configuration to a method and its optimisers."""

from __future__ import annotations

from typing import Any

import torch

from knowsam.config import Config, SamSettings
from knowsam.methods import Method, MethodContext, load_method
from knowsam.types import ParameterGroup

SAM_OPTIMISER_BETAS = (0.9, 0.999)


def build_method(config: Config, in_channels: int, classes: int) -> Method:
    """Method, networks and SAM of a configuration, with initial weights that depend on the seed alone."""
    torch.manual_seed(config.train.seed)
    sam = build_distillation(config.sam, config.data.size, classes)
    # Students are seeded on their own: the same seed gives the same students with and without SAM.
    torch.manual_seed(config.train.seed + 1)
    method_class: Any = load_method(config.method)  # each method takes its own Options
    options = method_class.Options.model_validate(config.options)
    return method_class(options, MethodContext(in_channels, classes, sam))


def build_distillation(config: SamSettings, size: tuple[int, int], classes: int) -> Any:
    """The distillation object of a configuration, or None for `sam: none`."""
    if config.name == "none":
        return None
    from knowsam.sam.backbone.tiny import TinySam
    from knowsam.sam.distillation import SamDistillation
    from knowsam.sam.loading.build import build_sam
    from knowsam.sam.teacher import SamTeacher

    sam, base = build_sam(config.name, size, config.pretrained)
    mode = config.train
    if mode == "auto":
        mode = "adapters" if base.pretrained and not isinstance(sam, TinySam) else "all"
    teacher = SamTeacher(sam, classes, mode, config.adapter_init, config.normalise, base)
    return SamDistillation(
        teacher,
        config.temperature,
        config.kd_weight,
        config.prompt_spoil,
        config.kd_resolution,
        config.kd_ramp,
    )


def build_optimiser(group: ParameterGroup, config: Config) -> torch.optim.Optimizer:
    """SGD or AdamW for the students, Adam for SAM (KnowSAM, section 5)."""
    train = config.train
    if group.name == "sam":
        return torch.optim.Adam(group.parameters, lr=config.sam.lr, betas=SAM_OPTIMISER_BETAS)
    if train.optimiser == "adamw":
        return torch.optim.AdamW(group.parameters, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.SGD(
        group.parameters, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay, foreach=True
    )

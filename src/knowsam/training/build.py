"""From a configuration to a method and its optimisers."""

from __future__ import annotations

from typing import Any

import torch

from knowsam.config import Config
from knowsam.methods import Method, MethodContext, load_method
from knowsam.networks.checkpointing import compute_again
from knowsam.networks.single_values import normalise_single_values
from knowsam.types import ParameterGroup

SAM_OPTIMISER_BETAS = (0.9, 0.999)


def build_method(config: Config, in_channels: int, classes: int) -> Method:
    """Method, networks and SAM of a configuration, with initial weights that depend on the seed alone."""
    torch.manual_seed(config.train.seed)
    sam = None
    if config.sam.name != "none":
        from knowsam.sam import SamDistillation

        settings = config.sam.model_dump(exclude={"lr", "size"})
        sam = SamDistillation.from_name(
            size=config.data.size, classes=classes, sam_size=config.sam.size, context=config.data.context, **settings
        )
    # Students are seeded on their own: the same seed gives the same students with and without SAM.
    torch.manual_seed(config.train.seed + 1)
    method_class: Any = load_method(config.method)  # each method takes its own Options
    options = method_class.Options.model_validate(config.options)
    context = MethodContext(in_channels, classes, sam, config.train.pretrain, config.data.context)
    method: Method = method_class(options, context)
    normalise_single_values(method)
    if config.train.checkpointing:
        student = method.student()
        compute_again(student, getattr(student, "one_pass", "forward"))
    return method


def record_sam_choices(config: Config, method: Method) -> Config:
    """Return the configuration with what `auto` meant for its SAM here, so that the run goes on like that anywhere."""
    if method.sam is None:
        return config
    teacher = method.sam.teacher
    size = "image" if teacher.size in (None, config.data.size) else max(teacher.size)
    chosen = {"size": size, "normalise": teacher.normalise}
    return config.model_copy(update={"sam": config.sam.model_copy(update=chosen)})


def build_optimiser(group: ParameterGroup, config: Config) -> torch.optim.Optimizer:
    """SGD or AdamW for the students, Adam for SAM (docs/method.md, section 5)."""
    train = config.train
    # On a GPU one kernel updates many tensors; on a CPU torch's own choice stays.
    fused = True if group.parameters[0].device.type == "cuda" else None
    if group.name == "sam":
        return torch.optim.Adam(group.parameters, lr=config.sam.lr, betas=SAM_OPTIMISER_BETAS, fused=fused)
    if train.optimiser == "adamw":
        return torch.optim.AdamW(group.parameters, lr=train.lr, weight_decay=train.weight_decay, fused=fused)
    return torch.optim.SGD(
        group.parameters, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay,
        foreach=not fused, fused=fused,
    )  # fmt: skip

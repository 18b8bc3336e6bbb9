"""What a checkpoint holds of a run: everything that learns, but not SAM's frozen weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from knowsam.errors import InputError
from knowsam.methods import Method
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import StudentInfo, load_student
from knowsam.sam.loading.report import base_record, require_same_base
from knowsam.training.build import build_method
from knowsam.training.finish import steps_are_done

if TYPE_CHECKING:
    from knowsam.training.trainer import Trainer


def trainer_state(trainer: Trainer) -> dict[str, Any]:
    """The state of a trainer as tensors and plain values, for `restore_state`."""
    scaler = trainer.accelerator.scaler
    return {
        "step": trainer.position,
        "total": trainer.config.train.steps,
        "best": trainer.best,
        "best_step": trainer.best_step,
        "classes": trainer.data.coding.classes,
        "sam": base_record(trainer.sam_base),
        "method": trained_state(trainer.method),
        "averaged": None if trainer.averaged is None else trainer.averaged.state_dict(),
        "optimisers": {name: optimiser.state_dict() for name, optimiser in trainer.optimisers.items()},
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def restore_state(trainer: Trainer) -> None:
    """Bring a trainer to where its folder's checkpoint stands, and drop what was measured after it.

    Raises:
        InputError: If there is no checkpoint, or it is of other classes, another SAM or more steps.
    """
    folder, config = trainer.folder, trainer.config
    path, total = folder.checkpoint, config.train.steps
    state = load_checkpoint(path)
    if state["classes"] != trainer.data.coding.classes:
        raise InputError(
            f"{path}: a checkpoint of {state['classes']} classes was found, but expected"
            f" {trainer.data.coding.classes} as in the data; restore the data, or start a new run."
        )
    if state["step"] > total:
        raise steps_are_done(folder, state["step"], total)
    require_same_base(state.get("sam"), trainer.sam_base, path)
    load_trained_state(trainer.method, state["method"], path)
    if trainer.averaged is not None:
        trainer.averaged.load_state_dict(state["averaged"])
    for name, optimiser in trainer.optimisers.items():
        optimiser.load_state_dict(state["optimisers"][name])
    if trainer.accelerator.scaler is not None and state["scaler"] is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.position, trainer.best, trainer.best_step = state["step"], state["best"], state.get("best_step")
    if trainer.accelerator.is_main_process:
        folder.forget_after(trainer.position)
        if total != state["total"]:
            folder.rewrite_config(config)
            event = {"step": trainer.position, "event": "extended", "from": state["total"], "to": total}
            if event not in folder.read_metrics():  # it was killed before the next checkpoint
                folder.append(event)


def trained_state(method: Method) -> dict[str, torch.Tensor]:
    """A method's state without SAM's frozen weights, which its base file holds already."""
    frozen = _frozen_sam(method)
    return {name: value for name, value in method.state_dict().items() if name not in frozen}


def load_trained_state(method: Method, state: dict[str, torch.Tensor], path: Path) -> None:
    """Inverse of `trained_state`: every trained key must be there, none may be left over.

    Raises:
        InputError: Naming the first keys that do not fit.
    """
    frozen = _frozen_sam(method)
    missing, unused = method.load_state_dict(state, strict=False)
    missing = [name for name in missing if name not in frozen]
    if missing or unused:
        raise InputError(
            f"{path}: missing keys {missing[:3]} and unused keys {unused[:3]} were found, but expected the weights of"
            " this run's method; resume with the configuration the run was made with."
        )


def load_trained_method(out: str | Path) -> tuple[Method, StudentInfo]:
    """The whole trained method of a run, for looking at what prediction does not need: single students, SAM.

    Args:
        out: The run's folder.

    Returns:
        The method in evaluation mode, on the CPU, with the weights of the last checkpoint (its student is the running
        average where the run keeps one); and what belongs to the run's student.

    Raises:
        InputError: If there is no run, or its checkpoint does not fit.
    """
    folder = RunFolder(Path(out))
    config, state = folder.read_config(), load_checkpoint(folder.checkpoint)
    info = load_student(folder.student)[1]
    method = build_method(config, info.preprocessing.in_channels, len(info.class_names))
    require_same_base(state.get("sam"), None if method.sam is None else method.sam.teacher.base, folder.checkpoint)
    load_trained_state(method, state["method"], folder.checkpoint)
    if state["averaged"] is not None:
        method.student().load_state_dict(state["averaged"])
    return method.eval(), info


def _frozen_sam(method: Method) -> set[str]:
    """All names of SAM's frozen weights, under whatever attribute a method holds it; some have two."""
    if method.sam is None:
        return set()
    frozen = {id(parameter) for parameter in method.sam.parameters() if not parameter.requires_grad}
    named = method.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if id(parameter) in frozen}

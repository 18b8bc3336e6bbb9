"""What a checkpoint holds of a method: everything but SAM's frozen weights."""

from __future__ import annotations

from pathlib import Path

import torch

from knowsam.errors import InputError
from knowsam.methods import Method
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import StudentInfo, load_student
from knowsam.sam.loading.report import require_same_base
from knowsam.training.build import build_method


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


def load_method_of_run(out: str | Path) -> tuple[Method, StudentInfo]:
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
    method = build_method(config, info.preprocessing.channels, len(info.class_names))
    require_same_base(state.get("sam"), None if method.sam is None else method.sam.teacher.base, folder.checkpoint)
    load_trained_state(method, state["method"], folder.checkpoint)
    if state["averaged"] is not None:
        method.student().load_state_dict(state["averaged"])
    return method.eval(), info


def _frozen_sam(method: Method) -> set[str]:
    """All names of SAM's frozen weights; one of its weights has two."""
    named = method.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if name.startswith("sam.") and not parameter.requires_grad}

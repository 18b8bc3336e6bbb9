"""The checkpoint of a run: tensors and plain values, written whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from knowsam.errors import InputError
from knowsam.storage import reason_of, whole_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run atomically: a kill at any moment leaves the last checkpoint whole."""
    # Into an open file: given a path, torch hides the cause of a failed write, such as a full disk.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


@dataclass(frozen=True)
class CheckpointProgress:
    """How far a run had come at its checkpoint.

    Attributes:
        step: Steps done.
        best: Best validation Dice so far, None without validation.
        best_step: When it was reached; None without validation and in checkpoints that do not say.
    """

    step: int
    best: float | None
    best_step: int | None


def read_progress(path: Path) -> CheckpointProgress:
    """How far a run had come, without reading the weights.

    Raises:
        InputError: If the file is missing, broken, or not of a run.
    """
    # torch maps no file whose name is not UTF-8.
    state = load_checkpoint(path, mmap=str(path).isprintable())
    step, best, best_step = (state.get(name) for name in ("step", "best", "best_step"))
    if not isinstance(step, int):
        raise InputError(f"{path}: a checkpoint without a step was found, but expected that of a run; restore it.")
    return CheckpointProgress(
        step, best if isinstance(best, float) else None, best_step if isinstance(best_step, int) else None
    )


def load_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read the state of a run; tensors and plain values only, no code.

    Args:
        path: The file.
        mmap: Leave tensors on the disk until they are used.

    Raises:
        InputError: If the file is missing or broken.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(state, dict):
            raise ValueError(f"{type(state).__name__} instead of names and values")
        return state
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no checkpoint was found, but expected one to resume from; start the run anew into an"
            " empty folder."
        ) from error
    except Exception as error:  # torch has many errors for a file that is no checkpoint, IndexError among them
        raise InputError(
            f"{path}: a broken checkpoint was found ({reason_of(error)}); restore it or start the run anew."
        ) from error

"""The checkpoint of a run: tensors and plain values, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from knowsam.errors import InputError
from knowsam.storage import whole_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run atomically: a kill at any moment leaves the last checkpoint whole."""
    # Into an open file: given a path, torch hides the cause of a failed write, such as a full disk.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state of a run; tensors and plain values only, no code.

    Raises:
        InputError: If the file is missing or broken.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no checkpoint was found, but expected one to resume from; start the run anew into an"
            " empty folder."
        ) from error
    except Exception as error:  # torch has many errors for a file that is no checkpoint, IndexError among them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: a broken checkpoint was found ({reason}); restore it or start the run anew."
        ) from error

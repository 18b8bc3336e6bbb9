"""A SAM of this package written as a directory that the setting `sam` takes; `hub.py` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knowsam.errors import InputError
from knowsam.runs.checkpoint import save_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.sam.loading.hub import CONFIG
from knowsam.storage import not_finite, write_json, write_safetensors

TIED = ("prompt_encoder.shared_embedding.positional_embedding",)
"""A second name of `shared_image_embedding.positional_embedding`."""


def save_progress(folder: RunFolder, state: dict[str, Any], networks: Iterable[nn.Module]) -> None:
    """Write the checkpoint of a command that makes a SAM, after all that it measured.

    Args:
        folder: Where it is made.
        state: All that going on needs, with its `step`.
        networks: Those in it whose weights must be numbers.

    Raises:
        InputError: One is not finite; the last checkpoint is untouched.
    """
    for network in networks:
        if name := not_finite(network.state_dict()):
            raise InputError(
                f"{folder.path}: at step {state['step']} the weight {name} was not finite, but expected numbers; lower"
                " --lr. The last checkpoint is untouched."
            )
    folder.sync_measurements()
    save_checkpoint(folder.checkpoint, state)


def write_sam(sam: Any, out: Path, model_type: str, dtype: torch.dtype) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all.

    Args:
        sam: The network.
        out: The folder.
        model_type: Its kind, by which it is read again.
        dtype: Of the weights in the file.

    Raises:
        InputError: A weight is not finite.
    """
    weights = {name: value.to(dtype).cpu().contiguous() for name, value in sam.state_dict().items() if name not in TIED}
    write_safetensors(out / "model.safetensors", weights, {"format": "pt"})
    write_sam_config(sam, out, model_type, dtype)


def write_sam_config(sam: Any, out: Path, model_type: str, dtype: torch.dtype) -> None:
    """Write `config.json` alone: enough to build the network. Arguments as above."""
    kind = {"model_type": model_type, "architectures": [type(sam).__name__], "dtype": str(dtype).removeprefix("torch.")}
    write_json(out / CONFIG, {**sam.config.to_diff_dict(), **kind})

"""Start a run, or continue one."""

from __future__ import annotations

from pathlib import Path

from knowsam.config import Config
from knowsam.plugins import absolute
from knowsam.runs.folder import RunFolder
from knowsam.runs.result import Run
from knowsam.training.trainer import Trainer


def train(config: Config, out: str | Path, quiet: bool = False) -> Run:
    """Train a new run.

    Args:
        config: A resolved configuration (`knowsam.config.resolve_config`).
        out: A new or empty folder.
        quiet: No progress bar, no text.

    Raises:
        InputError: For bad data, configuration or an occupied folder.
    """
    from knowsam.sam.loading.build import absolute_name

    # Absolute paths let the run be continued from any directory.
    data = config.data.model_copy(update={"path": str(Path(config.data.path).resolve())})
    sam = config.sam.model_copy(update={"name": absolute_name(config.sam.name)})
    config = config.model_copy(update={"data": data, "sam": sam, "method": absolute(config.method)})
    return Trainer(config, RunFolder(Path(out)), quiet=quiet).fit()


def resume(out: str | Path, steps: int | None = None, quiet: bool = False) -> Run:
    """Continue a run from its last checkpoint, to the same weights as if it had never stopped.

    Args:
        out: The run's folder.
        steps: New total number of steps, to train longer; the schedules then stretch over the new total.
        quiet: No progress bar, no text.

    Raises:
        InputError: If there is no run, or its checkpoint does not fit.
    """
    folder = RunFolder(Path(out))
    config = folder.read_config()
    if steps is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    return Trainer(config, folder, resume=True, quiet=quiet).fit()

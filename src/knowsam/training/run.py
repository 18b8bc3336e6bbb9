"""Start a run, or continue one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from knowsam.config import Config
from knowsam.data.folder import scan_folder
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.methods import load_method
from knowsam.plugins import absolute
from knowsam.runs.checkpoint import read_progress
from knowsam.runs.data_record import changed_files, file_hashes
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.runs.result import Run
from knowsam.training.data import hidden_masks_setting, other_files
from knowsam.training.finish import is_distilled, lacking_files, steps_are_done
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
    from knowsam.sam.loading.build import settled_name

    # Absolute paths let the run be continued from any directory.
    data = config.data.model_copy(update={"path": str(Path(config.data.path).resolve())})
    sam = config.sam.model_copy(update={"name": settled_name(config.sam.name)})
    config = config.model_copy(update={"data": data, "sam": sam, "method": absolute(config.method)})
    folder = RunFolder(Path(out))
    folder.check_free()
    with _alone(folder):
        return _fit(Trainer(config, folder, quiet=quiet), quiet)


def _fit(trainer: Trainer, quiet: bool) -> Run:
    """Train to the end, and distil by choice; of several processes the first one distils."""
    run, config = trainer.fit(), trainer.config
    if not run.finished or config.train.distil == "none" or not trainer.accelerator.is_main_process:
        return run
    from knowsam.training.distillation import DistilSettings, distil_phase

    if is_distilled(run.folder):
        return run
    settings = DistilSettings(config.train.distil)
    device = str(trainer.accelerator.device)
    # A method that never looked at unlabelled images has not read them; a distillation wants them.
    data = trainer.data if trainer.data.unlabelled is not None or not trainer.data.split.unlabelled else None
    done = distil_phase(run.folder, config, settings, data, None, device, quiet)
    return replace(run, finished=done.finished)


def resume(
    out: str | Path,
    steps: int | None = None,
    quiet: bool = False,
    data: str | Path | None = None,
    accept_changes: bool = False,
) -> Run:
    """Continue a run from its last checkpoint, to the same weights as if it had never stopped.

    One that was killed before its first checkpoint begins once more; one that was killed after its last step gets the
    files it lacks.

    Args:
        out: The run's folder.
        steps: New total number of steps, to train longer; the schedules then stretch over the new total.
        quiet: No progress bar, no text.
        data: Where its data folder is now, if that was moved; the run remembers it.
        accept_changes: Go on although images or masks are not those the run began with, and remember the new ones.

    Raises:
        InputError: If there is no run, nothing is left to do, another process is at work there, its data are gone or
            changed, or its checkpoint does not fit.
    """
    folder = RunFolder(Path(out))
    folder.read_config()
    with _alone(folder):
        return _resume(folder, steps, quiet, data, accept_changes)


@contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Hold the run's folder; of several processes of one training, the first one does."""
    with folder_lock(folder.path) if PartialState().is_main_process else nullcontext():
        yield


def _resume(folder: RunFolder, steps: int | None, quiet: bool, data: str | Path | None, accept_changes: bool) -> Run:
    config = folder.read_config()
    if steps is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    was, now = config.data.path, str(Path(data or config.data.path).resolve())
    if not Path(now).is_dir():
        raise InputError(
            f"{now}: no folder was found, but expected the data of {folder.path}; say where they are now with"
            f" `knowsam train --resume {shlex.quote(str(folder.path))} --data DATA`."
        )
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": now})})
    if not folder.checkpoint.exists():
        folder.check_never_saved(config)
        return _fit(Trainer(config, folder, resume=True, quiet=quiet), quiet)
    split, progress = Split.read(folder.split), read_progress(folder.checkpoint)
    if progress.step >= config.train.steps and not lacking_files(folder, config, progress, bool(split.val)):
        raise steps_are_done(folder, progress.step, config.train.steps)
    uses_unlabelled, opens_hidden = load_method(config.method).uses_unlabelled, bool(hidden_masks_setting(config))
    hashes = file_hashes(scan_folder(Path(now)), split, uses_unlabelled, opens_hidden)
    changed = changed_files(folder, hashes)
    if changed and not accept_changes:
        command = f"knowsam train --resume {shlex.quote(str(folder.path))} --accept-changes"
        raise other_files(now, folder, changed, f"or go on with what is there now: `{command}`.")
    trainer = Trainer(config, folder, resume=True, quiet=quiet)
    if trainer.accelerator.is_main_process:
        if now != was:
            folder.rewrite_config(config)
            folder.append({"step": trainer.position, "event": "data moved", "from": was, "to": now})
        if changed:
            trainer.data.record_files(folder, hashes)
            folder.append({"step": trainer.position, "event": "data changed", "files": changed})
    return _fit(trainer, quiet)

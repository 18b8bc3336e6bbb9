"""One cell of the grid: train or continue its run, measure what it cost, score it once, write down how it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knowsam.comparison.outcome import COST_FILE, LOG_FILE, MEMORY_FILE, Outcome
from knowsam.errors import InputError
from knowsam.presentation.console import escape_unprintable
from knowsam.runs.lock import clear_lock, folder_lock
from knowsam.runs.parent import wait_for_parent
from knowsam.storage import write_json

INTERRUPTED = 130
ASK_AGAIN_S = 1.0
TOLD_AGAIN = 1.05
"""A cell at work tells its peak memory anew when it has grown by so much."""


@dataclass(frozen=True)
class Registered:
    """What a process must be told before it knows a user's own method or network by name.

    Attributes:
        methods: Name -> entry of `METHODS.registered`.
        networks: Name -> entry of `NETWORKS.registered`.
    """

    methods: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CellJob:
    """What a process needs to do one cell; plain values, and the classes that are the user's own.

    Attributes:
        config: The run's configuration, as nested plain values.
        run: The run's folder.
        cell: The folder of the outcome.
        registered: Of its method and network.
    """

    config: dict[str, Any]
    run: Path
    cell: Path
    registered: Registered = Registered()


def do_cell(job: CellJob, quiet: bool = False) -> bool:
    """Train (or continue) and score one cell in this process, and write its outcome.

    Returns:
        False if the run was interrupted and saved.

    Raises:
        InputError: For whatever is wrong with data, settings or files.
    """
    from knowsam.comparison.scores import score_run
    from knowsam.config import resolve_config
    from knowsam.evaluation.result import write_scores
    from knowsam.methods import METHODS
    from knowsam.networks import NETWORKS
    from knowsam.runs.folder import RunFolder
    from knowsam.runs.record import read_run
    from knowsam.runs.student_file import load_student
    from knowsam.types import SAM

    METHODS.update(job.registered.methods)
    NETWORKS.update(job.registered.networks)
    run = RunFolder(job.run)
    if not _train(resolve_config(job.config), run, job.cell, quiet):
        return False
    scored = score_run(run)
    write_scores(scored.result, job.cell)
    record = read_run(run.path)
    best = record.best
    own = [validation.dice[SAM] for validation in record.validations if SAM in validation.dice]
    network, info = load_student(run.student)
    cost = json.loads((job.cell / COST_FILE).read_text()) if (job.cell / COST_FILE).exists() else {}
    Outcome(
        "done", part=scored.part, class_names=scored.result.class_names, unit=scored.result.unit, groups=scored.groups,
        notes=scored.result.notes, dice=scored.result.summary.mean["dice"],
        validation_dice=None if best is None else best.score, best_step=None if best is None else best.step,
        sam_best=max(own, default=None), sam_last=own[-1] if own else None, seconds=record.seconds,
        network=info.network["name"], parameters=sum(parameter.numel() for parameter in network.parameters()),
        device=record.environment["device"], masks_judged=record.masks_judged, **cost,
    ).write(job.cell)  # fmt: skip
    return True


def _train(config: Any, run: Any, cell: Path, quiet: bool) -> bool:
    """Start, continue, complete or leave alone: whatever the run needs. False if it was interrupted and saved."""
    from knowsam.data.split import Split
    from knowsam.runs.checkpoint import read_progress
    from knowsam.training.finish import lacking_files
    from knowsam.training.run import resume, train

    if not run.checkpoint.exists():
        # Nothing to continue from: a run killed before its first checkpoint starts again.
        if run.path.exists():
            shutil.rmtree(run.path)
        result = train(config, run.path, quiet=quiet)
    else:
        progress, split = read_progress(run.checkpoint), Split.read(run.split)
        done = progress.step >= config.train.steps
        if done and not lacking_files(run, run.read_config(), progress, bool(split.val)):
            clear_lock(run.path)
            return True
        result = resume(run.path, quiet=quiet)
        if done:  # killed between the last step and the scores: what that cost is not known
            return True
    if result.finished:
        write_json(cell / COST_FILE, measure_memory())
    return result.finished


def measure_memory() -> dict[str, float | None]:
    """Peak memory of this process so far, and of the GPU, in MB."""
    import torch

    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return {"peak_mb": peak_memory_mb(), "gpu_peak_mb": gpu}


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MB."""
    # Linux's ru_maxrss survives exec: a child would report what its parent held when it was started.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def work(job: CellJob, wait_for_parent: Callable[[], bool] = wait_for_parent) -> None:
    """What the process of one cell does: exit code 0 done, 1 failed (the outcome says why), 130 interrupted.

    Args:
        job: What to do.
        wait_for_parent: Returns when the process that started this one is gone; False if there is none to wait for.
    """
    # Ctrl-C reaches the whole group; the loop passes it on as SIGTERM. While it trains, the run listens to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_without_parent, args=(wait_for_parent,), daemon=True).start()
    job.cell.mkdir(parents=True, exist_ok=True)
    with (job.cell / LOG_FILE).open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    escape_unprintable()
    try:
        with folder_lock(job.cell, wait=True):
            with _memory_told(job.cell / MEMORY_FILE):
                done = do_cell(job)
            sys.exit(0 if done else INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        Outcome("failed", failure(error, job.cell)).write(job.cell)
        sys.exit(1)


def failure(error: Exception, cell: Path) -> str:
    """Why a cell failed, in one sentence."""
    if isinstance(error, InputError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}{f': {first}' if first else ''}; the traceback is in {cell / LOG_FILE}."


@contextmanager
def _memory_told(path: Path) -> Iterator[None]:
    """Within the block, write down what this process has taken so far: the next cell may need as much."""
    ended = threading.Event()

    def tell() -> None:
        told: dict[str, float | None] = {}
        while True:
            # Not imported here: what a process has not begun to use costs nothing yet.
            now = measure_memory() if "torch" in sys.modules else {"peak_mb": peak_memory_mb(), "gpu_peak_mb": None}
            if any((value or 0) > TOLD_AGAIN * (told.get(name) or 0) for name, value in now.items()):
                write_json(path, now)
                told = now
            if ended.wait(ASK_AGAIN_S):
                return

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def _stop_without_parent(wait_for_parent: Callable[[], bool]) -> None:
    """Save and stop when the process that started this one is gone, or a later call would meet two writers."""
    while wait_for_parent():
        # While training this asks to stop after the step; at any other moment it ends the process.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ASK_AGAIN_S)

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from knowsam.errors import InputError
from knowsam.files import write_json

OUTCOME_FILE, COST_FILE, LOG_FILE = "outcome.json", "cost.json", "log.txt"
INTERRUPTED = 130
ASK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        status: `"done"`: trained and scored. `"failed"`: see `reason`.
        reason: One sentence, empty if done.
        part: On which images it was scored: `"test"` or `"validation"`.
        class_names: Background first.
        unit: Of distances, `"mm"` or `"px"`.
        groups: Case -> group.
        notes: About the scores.
        dice: Mean Dice over cases and foreground classes.
        validation_dice: Best validation Dice, which chose the network; None without validation.
        best_step: After so many steps.
        sam_best: Largest mean validation Dice of SAM itself over the run, None without SAM.
        sam_last: The same at the last validation.
        seconds: Training and validation, resumed parts added up, start and reading left out.
        peak_mb: Peak resident memory of the training process, MB of 2^20 bytes.
        gpu_peak_mb: Peak memory allocated on the GPU, None without one.
        network: Name of the network that was scored.
        parameters: Its number of parameters.
        device: Where it was trained.
    """

    status: Literal["done", "failed"]
    reason: str = ""
    part: str = ""
    class_names: tuple[str, ...] = ()
    unit: str = ""
    groups: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dice: float | None = None
    validation_dice: float | None = None
    best_step: int | None = None
    sam_best: float | None = None
    sam_last: float | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    gpu_peak_mb: float | None = None
    network: str = ""
    parameters: int | None = None
    device: str = ""

    def write(self, folder: Path) -> None:
        """Keep it."""
        write_json(folder / OUTCOME_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What `write` wrote, None where there is nothing yet.

        Raises:
            InputError: If the file is broken.
        """
        path = folder / OUTCOME_FILE
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {entry.name for entry in fields(cls)}
            tuples = {key: tuple(values[key]) for key in ("class_names", "notes")}
            return cls(**{key: value for key, value in values.items() if key in known} | tuples)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: no outcome could be read ({error}), but expected what `knowsam compare` wrote; delete this"
                " file and repeat the command."
            ) from error


@dataclass(frozen=True)
class Registered:
    """What a process must be told before it knows a user's own method or network by name.

    Attributes:
        methods: Name -> entry of `METHODS`.
        networks: Name -> entry of `REGISTERED`.
    """

    methods: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
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


def do_cell(order: Order, quiet: bool = False) -> bool:
    """Train (or continue) and score one cell in this process, and write its outcome.

    Returns:
        False if the run was interrupted and saved.

    Raises:
        InputError: For whatever is wrong with data, settings or files.
    """
    from knowsam.checkpoint import load_student
    from knowsam.compare.scores import score_run
    from knowsam.config import resolve_config
    from knowsam.evaluate import write_scores
    from knowsam.methods.base import METHODS
    from knowsam.networks import REGISTERED
    from knowsam.report.records import SAM, read_run
    from knowsam.run_folder import RunFolder

    METHODS.update(order.registered.methods)
    REGISTERED.update(order.registered.networks)
    run = RunFolder(order.run)
    if not _train(resolve_config(order.config), run, order.cell, quiet):
        return False
    scored = score_run(run)
    write_scores(scored.result, order.cell)
    record = read_run(run.path)
    best = record.best
    own = [validation.dice[SAM] for validation in record.validations if SAM in validation.dice]
    network, info = load_student(run.student)
    cost = json.loads((order.cell / COST_FILE).read_text()) if (order.cell / COST_FILE).exists() else {}
    Outcome(
        "done", part=scored.part, class_names=scored.result.class_names, unit=scored.result.unit, groups=scored.groups,
        notes=scored.result.notes, dice=scored.result.summary.mean["dice"],
        validation_dice=None if best is None else best.score, best_step=None if best is None else best.step,
        sam_best=max(own, default=None), sam_last=own[-1] if own else None, seconds=record.seconds,
        network=info.network["name"], parameters=sum(parameter.numel() for parameter in network.parameters()),
        device=record.environment["device"], **cost,
    ).write(order.cell)  # fmt: skip
    return True


def _train(config: Any, run: Any, cell: Path, quiet: bool) -> bool:
    """Start, continue or leave alone: whatever the run needs. False if it was interrupted and saved."""
    from knowsam.calibrate import calibrate_run
    from knowsam.checkpoint import load_checkpoint
    from knowsam.train import resume, train

    if not run.checkpoint.exists():
        # Nothing to continue from: a run killed before its first checkpoint starts again.
        if run.path.exists():
            shutil.rmtree(run.path)
        result = train(config, run.path, quiet=quiet)
    elif load_checkpoint(run.checkpoint)["step"] < config.train.steps:
        result = resume(run.path, quiet=quiet)
    else:
        # Killed between the last step and the scores; the calibration is what training writes after its last step.
        if not run.calibration.exists() and json.loads(run.split.read_text())["val"]:
            calibrate_run(run.path)
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


def work(order: Order) -> None:
    """What the process of one cell does: exit code 0 done, 1 failed (the outcome says why), 130 interrupted."""
    # Ctrl-C reaches the whole group; the loop passes it on as SIGTERM. While it trains, the run listens to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    order.cell.mkdir(parents=True, exist_ok=True)
    with (order.cell / LOG_FILE).open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        with only_one(order.cell):
            sys.exit(0 if do_cell(order) else INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        Outcome("failed", failure(error, order.cell)).write(order.cell)
        sys.exit(1)


def failure(error: Exception, cell: Path) -> str:
    """Why a cell failed, in one sentence."""
    if isinstance(error, InputError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}{f': {first}' if first else ''}; the traceback is in {cell / LOG_FILE}."


def _stop_without_parent() -> None:
    """Save and stop when the process that started this one is gone, or a later call would meet two writers."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is None:
        return
    parent.join()
    while True:
        # While training this asks to stop after the step; at any other moment it ends the process.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ASK_AGAIN_S)


@contextmanager
def only_one(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold a folder: at most one process at a time is within this block.

    Args:
        folder: Exists.
        wait: Wait for the other one to leave; False raises `BlockingIOError`.
    """
    import fcntl

    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield

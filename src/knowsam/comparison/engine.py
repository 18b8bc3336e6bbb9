"""What does the cells of a grid: processes of this machine, one or several side by side."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_any
from typing import Protocol

from knowsam.comparison.cell import INTERRUPTED, CellJob, work
from knowsam.comparison.memory import Free, Memory, Room
from knowsam.runs.waiting import wait_briefly

THREADS = "OMP_NUM_THREADS"


class RunningCell(Protocol):
    """A cell that was handed to an engine."""

    def at_work(self) -> bool:
        """Whether it has been begun; a cluster may let it wait."""

    def ended(self) -> int | str | None:
        """0 done, 1 failed, 130 interrupted and saved, below 0 ended by that signal, or a sentence; None at work."""

    def stop(self) -> None:
        """Ask it to save and end; asked again about once a second."""

    def kill(self) -> None:
        """End it at once."""


class Engine(Protocol):
    """Does cells.

    Attributes:
        slots: How many it takes at a time.
        checks_memory: Whether it asks what a cell needs before it begins one beside others.
    """

    slots: int
    checks_memory: bool

    def start(self, job: CellJob, need: Memory | None, beside: Mapping[RunningCell, Memory]) -> RunningCell:
        """Begin a cell.

        Args:
            job: What to do.
            need: What it will take; None if nothing is beside it.
            beside: What those at work will take.

        Raises:
            MemoryError: There is no room for it beside the others; says what is lacking.
        """

    def wait(self, seconds: float) -> None:
        """Wait until a cell has ended, at most so long."""

    def close(self) -> None:
        """Nothing more will be asked."""


class LocalEngine:
    """Each cell in a new process of this machine, so that its memory is measured alone and freed at its end.

    Args:
        jobs: How many at a time; they share the processor's cores, unless `OMP_NUM_THREADS` is set.
        room: Decides whether there is memory for one more.
    """

    checks_memory = True

    def __init__(self, jobs: int = 1, room: Room | None = None) -> None:
        self.slots = jobs
        # Of one job nobody asks, and nothing is touched: looking at a GPU takes some of its memory.
        self._room = room or (Room() if jobs > 1 else Room(lambda: Free(None)))
        self._running: list[LocalCell] = []

    def start(self, job: CellJob, need: Memory | None, beside: Mapping[RunningCell, Memory]) -> LocalCell:
        """See `Engine.start`."""
        gpu = self._room.place(need, [(memory, getattr(cell, "gpu", None)) for cell, memory in beside.items()])
        # spawn: a forked torch with running threads may hang, and would start with this process's memory.
        process = multiprocessing.get_context("spawn").Process(target=work, args=(job,))
        with _environment(environment_of_one(self.slots, gpu, os.environ)):
            process.start()
        cell = LocalCell(process, gpu)
        self._running.append(cell)
        return cell

    def wait(self, seconds: float) -> None:
        """See `Engine.wait`."""
        self._running = [cell for cell in self._running if cell.ended() is None]
        wait_for_any([cell.process.sentinel for cell in self._running], seconds)

    def close(self) -> None:
        """Nothing is left open."""


class LocalCell:
    """A process of this machine.

    Args:
        process: Started already.
        gpu: Index of its GPU; None without a choice.
    """

    def __init__(self, process: multiprocessing.process.BaseProcess, gpu: int | None) -> None:
        self.process, self.gpu = process, gpu

    def at_work(self) -> bool:
        """At once."""
        return True

    def ended(self) -> int | None:
        """See `RunningCell.ended`."""
        if self.process.is_alive():
            return None
        self.process.join()
        return INTERRUPTED if self.process.exitcode is None else self.process.exitcode

    def stop(self) -> None:
        """A process that reads data or scores ends at once, one that trains saves first."""
        if self.process.is_alive():
            self.process.terminate()

    def kill(self) -> None:
        """See `RunningCell.kill`."""
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def environment_of_one(jobs: int, gpu: int | None, here: Mapping[str, str]) -> dict[str, str]:
    """What the process of one cell gets in its environment beside what it inherits.

    Args:
        jobs: How many run side by side.
        gpu: Index of its GPU among those that this process sees.
        here: The environment of this process.
    """
    changed = dict(here)
    wait_briefly(changed)
    if jobs > 1 and not here.get(THREADS):
        changed[THREADS] = str(max(1, available_cores() // jobs))
    if jobs > 1 and gpu is not None:
        visible = here.get("CUDA_VISIBLE_DEVICES")
        changed["CUDA_VISIBLE_DEVICES"] = str(gpu) if visible is None else visible.split(",")[gpu].strip()
    return {name: value for name, value in changed.items() if here.get(name) != value}


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Within the block, the environment that a process inherits; multiprocessing takes it from nowhere else."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""The open cells of a grid and those at work: what is started when, and what becomes of each."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from knowsam.comparison.cell import INTERRUPTED, CellJob, Registered
from knowsam.comparison.display import GridDisplay, Shown, expected_seconds, last_step, seconds_left
from knowsam.comparison.engine import Engine, RunningCell
from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.grid import Cell, Grid
from knowsam.comparison.memory import Memory, expected_memory, largest
from knowsam.comparison.outcome import LOG_FILE, MEMORY_FILE, OUTCOME_FILE, Outcome, read_memory
from knowsam.runs.lock import clear_lock

POLL_S = 1.0


@dataclass(eq=False)
class _AtWork:
    """A cell that was started."""

    shown: Shown
    job: CellJob
    handle: RunningCell
    metrics: Path
    started: float | None = None
    """When it was begun; None while a cluster lets it wait."""


class CellQueue:
    """Does the cells of a grid that are not done.

    Args:
        folder: Of the comparison.
        grid: The cells asked for.
        entries: What the process of a method must be told.
        display: Shows how far it is.
        engine: Does the cells.
    """

    def __init__(
        self, folder: CompareFolder, grid: Grid, entries: Mapping[str, Registered], display: GridDisplay, engine: Engine
    ) -> None:
        self.folder, self.grid, self.entries = folder, grid, entries
        self.display, self.engine = display, engine
        self.waiting: list[Cell] = []
        self.at_work: list[_AtWork] = []
        self.took: dict[Cell, float] = {}
        self.peaks: dict[Cell, Memory] = {}
        for cell in grid.cells:
            outcome = Outcome.read(folder.cell(cell))
            if outcome is None or outcome.status == "failed":
                self.waiting.append(cell)
            else:
                clear_lock(folder.cell(cell))  # of a process that was killed after its last file
                self._learn(cell, outcome, outcome.seconds)
        self.total = len(grid.cells)
        self.done = self.total - len(self.waiting)
        self._number = self.done
        self._said_no_room = False

    def work(self, asked_to_stop: Callable[[], bool]) -> bool:
        """Do them; True if interrupted.

        Args:
            asked_to_stop: True lets those at work save and end.
        """
        self.display.start(self.total, self.done)
        stopping = interrupted = False
        try:
            with self.display.running():
                while self.at_work or (self.waiting and not stopping):
                    stopping = stopping or asked_to_stop()
                    if stopping:
                        for one in self.at_work:
                            one.handle.stop()
                    else:
                        self._start_what_has_room()
                    interrupted = self._collect(asked_to_stop) or interrupted
                    stopping = stopping or interrupted
                    self._show()
                    if self.at_work and all(one.handle.ended() is None for one in self.at_work):
                        self.engine.wait(POLL_S)
        except KeyboardInterrupt:  # a second Ctrl-C
            for one in self.at_work:
                one.handle.kill()
            interrupted = True
        interrupted = interrupted or bool(self.waiting)
        if interrupted:
            self.display.stopped(self.done, self.total)
        return interrupted

    def _start_what_has_room(self) -> None:
        while self.waiting and len(self.at_work) < self.engine.slots:
            cell, beside = self.waiting[0], {one.handle: self._expected(one) for one in self.at_work}
            known = {handle: memory for handle, memory in beside.items() if memory is not None}
            if self.engine.checks_memory and len(known) < len(beside):
                return  # what those at work take is not known yet: they have not done a step
            need = expected_memory(cell, self.peaks) or largest([*known.values(), *self.peaks.values()])
            try:
                self._start(cell, need, known)
            except MemoryError as error:
                if not self._said_no_room:
                    count = f"{len(self.at_work)} of {self.engine.slots} runs at a time"
                    self.display.notes([f"{count}: {error}; it waits for one to end."])
                self._said_no_room = True
                return
            del self.waiting[0]

    def _start(self, cell: Cell, need: Memory | None, beside: Mapping[RunningCell, Memory]) -> None:
        config, run, path = self.grid.config(cell), self.folder.run(cell), self.folder.cell(cell)
        for name in (OUTCOME_FILE, MEMORY_FILE):
            (path / name).unlink(missing_ok=True)
        job = CellJob(config.model_dump(mode="json"), run.path, path, self.entries[cell.method])
        handle = self.engine.start(job, need, beside)
        steps = config.train.steps
        shown = Shown(cell, self._number + 1, steps, last_step(run.metrics) / steps)
        self._number += 1
        self.at_work.append(_AtWork(shown, job, handle, run.metrics))

    def _expected(self, one: _AtWork) -> Memory | None:
        """What a cell at work will take: known of its kind, or judged by what it took; None before its first step."""
        if (known := expected_memory(one.shown.cell, self.peaks)) is not None:
            return known
        measured = read_memory(one.job.cell)
        stepped = last_step(one.metrics) > one.shown.first * one.shown.steps
        return measured.grown() if measured is not None and stepped else None

    def _collect(self, asked_to_stop: Callable[[], bool]) -> bool:
        """Take in what has ended; True if something was interrupted."""
        interrupted = False
        for one in list(self.at_work):
            if (code := one.handle.ended()) is None:
                continue
            self._begin_to_show(one)
            self.at_work.remove(one)
            interrupted = self._take_in(one, code, asked_to_stop()) or interrupted
        return interrupted

    def _take_in(self, one: _AtWork, code: int | str, stopping: bool) -> bool:
        cell, path = one.shown.cell, one.job.cell
        outcome = Outcome.read(path)
        if outcome is None and (code == INTERRUPTED or stopping):
            self.display.gone(one.shown)
            return True
        if outcome is None:
            outcome = Outcome("failed", code if isinstance(code, str) else _ended_by(code, path))
            path.mkdir(parents=True, exist_ok=True)
            outcome.write(path)
        assert one.started is not None
        seconds = time.monotonic() - one.started
        self.done += 1
        if outcome.status == "done":
            self._learn(cell, outcome, seconds if one.shown.first == 0 else outcome.seconds or seconds)
        self.display.ended(one.shown, self.total, outcome, seconds, self._left())
        return False

    def _learn(self, cell: Cell, outcome: Outcome, seconds: float | None) -> None:
        """Remember what a finished cell took."""
        if seconds is not None:
            self.took[cell] = seconds
        if outcome.peak_mb is not None:
            self.peaks[cell] = Memory(outcome.peak_mb, outcome.gpu_peak_mb)

    def _begin_to_show(self, one: _AtWork) -> None:
        if one.started is None:
            one.started = time.monotonic()
            self.display.began(one.shown, self.total)

    def _show(self) -> None:
        for one in self.at_work:
            if one.started is None and one.handle.at_work():
                self._begin_to_show(one)
            if one.started is not None:
                one.shown.step, one.shown.elapsed = last_step(one.metrics), time.monotonic() - one.started
        self.display.steps([one.shown for one in self.at_work if one.started is not None], self._left())

    def _left(self) -> float | None:
        """Seconds until all is done; None as long as nothing is known."""
        begun = [one.shown for one in self.at_work if one.started is not None]
        later = [*(one.shown.cell for one in self.at_work if one.started is None), *self.waiting]
        side_by_side = max(1, len(begun))
        if not begun:
            return sum(expected_seconds(cell, self.took) or 0.0 for cell in later) if self.took else None
        return seconds_left(begun, later, self.took, side_by_side)


def _ended_by(code: int, cell: Path) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed (SIGKILL), probably because memory ran out; take a smaller --batch or --size, fewer"
            " --jobs, or lower data.cache_mb, and repeat the command."
        )
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}; its output is in {cell / LOG_FILE}."
    return f"its process ended with exit code {code}; its output is in {cell / LOG_FILE}."

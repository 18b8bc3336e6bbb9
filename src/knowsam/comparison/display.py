"""The terminal while the grid runs: the current run, its step, and the time left for all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsam.comparison.grid import Cell
from knowsam.comparison.outcome import Outcome
from knowsam.presentation.console import make_bar, make_console, print_note
from knowsam.presentation.heartbeat import Clock, Heartbeat
from knowsam.presentation.text import count_text, duration_text

if TYPE_CHECKING:
    from rich.progress import Progress

TAIL_BYTES = 4096
EARLY = 0.05
"""Share of a run up to which the time of similar runs predicts better than its own speed."""


def expected_seconds(cell: Cell, took: Mapping[Cell, float]) -> float | None:
    """How long a run will take: the mean of runs of the same method and SAM, else of the same SAM, else of all.

    Args:
        cell: The run.
        took: Seconds of finished runs.

    Returns:
        Seconds; None as long as no run is finished.
    """
    alike = (
        [seconds for other, seconds in took.items() if (other.method, other.sam) == (cell.method, cell.sam)],
        [seconds for other, seconds in took.items() if other.sam == cell.sam],
        list(took.values()),
    )
    return next((sum(group) / len(group) for group in alike if group), None)


def seconds_left(
    cell: Cell, later: Sequence[Cell], took: Mapping[Cell, float], elapsed: float, share: float, began: float = 0.0
) -> float | None:
    """Seconds until the grid is done; None as long as nothing is known.

    Args:
        cell: The current run.
        later: The runs after it.
        took: Seconds of finished runs.
        elapsed: Seconds since the current run was started (or continued).
        share: Of the current run's steps that are done, in [0, 1].
        began: Share that was done when the run was continued; 0 for a new one.
    """
    known = expected_seconds(cell, took)
    measured = elapsed / (share - began) if share - began > EARLY else None
    if measured is None and known is None:
        return None
    whole = measured if measured is not None else known
    assert whole is not None
    rest = whole * (1 - share) if measured is not None else max(0.0, whole * (1 - began) - elapsed)
    return rest + sum(expected_seconds(other, {**took, cell: whole}) or 0.0 for other in later)


def last_step(metrics: Path) -> int:
    """The last step in a run's `metrics.jsonl`, 0 where there is none; reads its end alone."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # cut at its start, or being written
            continue
    return 0


class GridDisplay:
    """A bar on a terminal, lines elsewhere, at least one each minute, nothing when quiet.

    On stderr, since tables go to stdout.
    """

    def __init__(self, quiet: bool = False, clock: Clock = time.monotonic) -> None:
        self.console = make_console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._task: Any = None
        self._beat, self._current = Heartbeat(clock), ""

    def notes(self, sentences: Iterable[str]) -> None:
        """What is unusual about the data, said once for all cells."""
        for sentence in sentences:
            print_note(self.console, sentence)

    def start(self, cells: int, done: int) -> None:
        """Say how many runs there are."""
        before = f", {done} of them done before" if done else ""
        self.console.print(f"{count_text(cells, 'run')}{before}")

    @contextmanager
    def running(self, number: int, cells: int, cell: Cell, steps: int) -> Iterator[None]:
        """The bar of one run, within the block."""
        if not self.console.is_terminal:
            self.console.print(f"[{number}/{cells}] {cell}", markup=False)
        self._current = f"[{number}/{cells}] {cell}: step {{}} of {steps}"
        self._beat.said()
        from rich.markup import escape

        columns = ("{task.description}", "step", "count", "bar", "{task.fields[left]}")
        with make_bar(self.console, *columns, width=16, transient=True) as bar:
            self._bar = bar
            self._task = bar.add_task(escape(f"[{number}/{cells}] {cell}"), total=steps, left="")
            yield
        self._bar = None

    def step(self, step: int, left: float | None) -> None:
        """Advance the bar; without a terminal a line at least each minute."""
        text = "" if left is None else f"all: {duration_text(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, left=text)
        if not self.console.is_terminal and self._beat.due():
            rest = f"; {text}" if text else ""
            self.console.print(self._current.format(step) + rest, markup=False)

    def ended(self, number: int, cells: int, cell: Cell, outcome: Outcome, seconds: float, left: float | None) -> None:
        """Say how a run ended."""
        rest = "" if left is None or number == cells else f"; all: {duration_text(left)} left"
        if outcome.status == "failed":
            self.console.print(f"[{number}/{cells}] {cell}: failed: {outcome.reason}", markup=False)
            return
        dice = "" if outcome.dice is None else f"Dice {outcome.dice:.3f}, "
        self.console.print(f"[{number}/{cells}] {cell}: {dice}{duration_text(seconds)}{rest}", markup=False)

    def stopped(self, done: int, cells: int) -> None:
        """Say how to go on."""
        self.console.print(f"stopped with {done} of {cells} runs done; repeat the command to continue")

"""The terminal while the grid runs: the current run, its step, and the time left for all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass
class Shown:
    """A run at work, as it is shown.

    Attributes:
        cell: Which.
        number: Its number in the order in which runs were started.
        steps: Of the whole run.
        first: Share of them that was done when it was continued; 0 for a new one.
        step: The last one that is known.
        elapsed: Seconds since it was started or continued.
    """

    cell: Cell
    number: int
    steps: int
    first: float = 0.0
    step: int = 0
    elapsed: float = 0.0

    @property
    def share(self) -> float:
        """Of its steps that are done, in [0, 1]."""
        return self.step / self.steps

    def whole(self, took: Mapping[Cell, float]) -> tuple[float, float] | None:
        """Seconds of the whole run, and those that are left of it; None as long as nothing is known."""
        if self.share - self.first > EARLY:
            whole = self.elapsed / (self.share - self.first)
            return whole, whole * (1 - self.share)
        known = expected_seconds(self.cell, took)
        return None if known is None else (known, max(0.0, known * (1 - self.first) - self.elapsed))


def seconds_left(
    current: Sequence[Shown], later: Sequence[Cell], took: Mapping[Cell, float], side_by_side: int = 1
) -> float | None:
    """Seconds until the grid is done; None as long as nothing is known.

    Args:
        current: The runs at work.
        later: The runs after them.
        took: Seconds of finished runs.
        side_by_side: How many runs are done at a time.
    """
    judged = {one.cell: whole for one in current if (whole := one.whole(took)) is not None}
    if not judged:
        return None
    likely = {**took, **{cell: whole for cell, (whole, _) in judged.items()}}
    # A run of which nothing is known takes as long as the others.
    lefts = [
        judged[one.cell][1] if one.cell in judged else expected_seconds(one.cell, likely) or 0.0 for one in current
    ]
    ahead = sum(expected_seconds(cell, likely) or 0.0 for cell in later)
    return max(max(lefts), (sum(lefts) + ahead) / side_by_side)


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
    """A bar for each run at work on a terminal, lines elsewhere, at least one each minute, nothing when quiet.

    On stderr, since tables go to stdout.
    """

    def __init__(self, quiet: bool = False, clock: Clock = time.monotonic) -> None:
        self.console = make_console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._tasks: dict[int, Any] = {}
        self._beat, self._cells = Heartbeat(clock), 0

    def notes(self, sentences: Iterable[str]) -> None:
        """What is unusual about data or machine, said once for all cells."""
        for sentence in sentences:
            print_note(self.console, sentence)

    def start(self, cells: int, done: int) -> None:
        """Say how many runs there are."""
        before = f", {done} of them done before" if done else ""
        self.console.print(f"{count_text(cells, 'run')}{before}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """The bars, within the block."""
        columns = ("{task.description}", "step", "count", "bar", "{task.fields[left]}")
        with make_bar(self.console, *columns, width=16, transient=True) as bar:
            self._bar = bar
            yield
        self._bar = None

    def began(self, run: Shown, cells: int) -> None:
        """A run was begun or continued."""
        self._cells = cells
        title = self._title(run)
        if not self.console.is_terminal:
            self.console.print(title, markup=False)
        elif self._bar is not None:
            from rich.markup import escape

            self._tasks[run.number] = self._bar.add_task(escape(title), total=run.steps, left="")
        self._beat.said()

    def steps(self, runs: Sequence[Shown], left: float | None) -> None:
        """Advance the bars; without a terminal a line for each run at least each minute."""
        text = "" if left is None else f"all: {duration_text(left)} left"
        for place, run in enumerate(runs):
            if self._bar is not None and run.number in self._tasks:
                self._bar.update(self._tasks[run.number], completed=run.step, left="" if place else text)
        if not self.console.is_terminal and runs and self._beat.due():
            rest = f"; {text}" if text else ""
            for run in runs:
                last = rest if run is runs[-1] else ""
                self.console.print(f"{self._title(run)}: step {run.step} of {run.steps}{last}", markup=False)

    def gone(self, run: Shown) -> None:
        """Take away the bar of a run."""
        if self._bar is not None and run.number in self._tasks:
            self._bar.remove_task(self._tasks.pop(run.number))

    def ended(self, run: Shown, cells: int, outcome: Outcome, seconds: float, left: float | None) -> None:
        """Say how a run ended."""
        self.gone(run)
        self._cells = cells
        if outcome.status == "failed":
            self.console.print(f"{self._title(run)}: failed: {outcome.reason}", markup=False)
            return
        rest = f"; all: {duration_text(left)} left" if left else ""
        dice = "" if outcome.dice is None else f"Dice {outcome.dice:.3f}, "
        self.console.print(f"{self._title(run)}: {dice}{duration_text(seconds)}{rest}", markup=False)

    def stopped(self, done: int, cells: int) -> None:
        """Say how to go on."""
        self.console.print(f"stopped with {done} of {cells} runs done; repeat the command to continue")

    def _title(self, run: Shown) -> str:
        return f"[{run.number}/{self._cells}] {run.cell}"

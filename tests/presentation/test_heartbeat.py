"""Where there is no terminal, a line at least each minute: with a clock that the tests turn."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from knowsam.comparison.display import GridDisplay, Shown
from knowsam.comparison.grid import Cell
from knowsam.evaluation.scoring import ValidationScores
from knowsam.presentation.console import progress_bar
from knowsam.presentation.heartbeat import Heartbeat, Pace
from knowsam.training.display import TrainingDisplay

Capture = pytest.CaptureFixture[str]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def longest_silence(times: list[float], start: float, end: float) -> float:
    moments = [start, *times, end]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))


def test_a_line_is_due_well_before_the_minute_is_over() -> None:
    clock = Clock()
    beat, said = Heartbeat(clock), []
    for _ in range(600):  # of 4 s each
        clock.now += 4
        if beat.due():
            said.append(clock.now)
    assert longest_silence(said, 1000, clock.now) <= 60
    assert len(said) <= 2400 / 40


def test_the_time_left_is_that_of_the_steps_done_here() -> None:
    clock = Clock()
    pace = Pace(100, 40, clock)
    assert pace.left(40) == ""
    clock.now += 30
    assert pace.per_second(50) == pytest.approx(1 / 3)
    assert pace.left(50) == ", 2 min left"


def test_training_in_a_batch_log_says_step_loss_and_time_left(capsys: Capture) -> None:
    clock = Clock()
    display = TrainingDisplay(clock=clock)
    said = []
    with display.training(200, 0):
        for step in range(1, 201):  # the walk that said nothing for 14 minutes
            clock.now += 4.2
            if display.line_due():
                display.line(step, 0.5321)
                said.append(clock.now)
    assert longest_silence(said, 1000, clock.now) <= 60
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert lines[0] == "step 11 of 200: loss 0.532, 0.24 steps/s, 13 min left"


def test_validating_says_how_far_it_is_and_a_result_counts_as_a_line(capsys: Capture) -> None:
    clock = Clock()
    display = TrainingDisplay(clock=clock)

    def scored() -> Iterator[int]:
        for volume in range(6):
            clock.now += 30
            yield volume

    assert list(display.validating(scored(), 20, 6)) == [0, 1, 2, 3, 4, 5]
    assert capsys.readouterr().out.splitlines() == [
        "step 20: validating, 2 of 6 volumes",
        "step 20: validating, 4 of 6 volumes",
    ]
    display.validated(20, ValidationScores({"fused": {"a": [0.5]}}))
    assert not display.line_due()


def test_quiet_says_nothing() -> None:
    clock = Clock()
    display = TrainingDisplay(quiet=True, clock=clock)
    clock.now += 3600
    assert not display.line_due()


@contextmanager
def reading(clock: Clock, terminal: bool) -> Iterator[tuple[io.StringIO, object]]:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, soft_wrap=True, highlight=False)
    with progress_bar("reading", console, clock=clock) as start:
        yield written, start(40)


def test_reading_files_says_how_far_it_is_where_there_is_no_terminal() -> None:
    clock = Clock()
    with reading(clock, terminal=False) as (written, advance):
        for _ in range(40):
            clock.now += 10
            advance()  # type: ignore[operator]
    assert written.getvalue().splitlines()[0] == "reading: 5 of 40, 6 min left"
    assert len(written.getvalue().splitlines()) == 8
    with reading(clock, terminal=True) as (written, advance):
        clock.now += 100
        advance()  # type: ignore[operator]
    assert "reading: " not in written.getvalue()


def test_a_comparison_says_how_far_its_runs_are(capsys: Capture) -> None:
    clock = Clock()
    display = GridDisplay(clock=clock)
    runs = [Shown(Cell("supervised", "none", "all", seed), 2 + seed, 600) for seed in (0, 1)]
    with display.running():
        for run in runs:
            display.began(run, 6)
        for second in range(100):
            clock.now += 1
            runs[0].step = runs[1].step = second
            display.steps(runs, 1200.0)
    titles = [f"[2/6] {runs[0].cell}", f"[3/6] {runs[1].cell}"]
    assert capsys.readouterr().err.splitlines() == [
        *titles,
        f"{titles[0]}: step 44 of 600", f"{titles[1]}: step 44 of 600; all: 20 min left",
        f"{titles[0]}: step 89 of 600", f"{titles[1]}: step 89 of 600; all: 20 min left",
    ]  # fmt: skip

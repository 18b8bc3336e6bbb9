"""Cells side by side: as many as the engine takes, none lost, none begun before the memory of the others is known."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from knowsam.comparison.cell import CellJob
from knowsam.comparison.engine import RunningCell
from knowsam.comparison.loop import compare
from knowsam.comparison.memory import Memory, Room
from knowsam.comparison.outcome import MEMORY_FILE
from knowsam.comparison.results import Results
from knowsam.errors import InputError
from support.comparisons import write_cell
from support.folders import make_folder

SETTINGS = {"train": {"steps": 4, "batch": "2+2"}, "data": {"size": 32}}


class Cells:
    """An engine whose cells end when they are told to: each call of `wait` is one turn.

    Args:
        turns: What each cell does, turn by turn.
    """

    checks_memory = True

    def __init__(self, slots: int, turns: Callable[[Cells, Running], None], room: Room | None = None) -> None:
        self.slots, self.turns, self.room = slots, turns, room
        self.running: list[Running] = []
        self.started: list[str] = []
        self.at_once: list[int] = []
        self.needs: list[Memory | None] = []
        self.closed = False

    def start(self, job: CellJob, need: Memory | None, beside: dict[RunningCell, Memory]) -> Running:
        if self.room is not None:
            self.room.place(need, [(memory, None) for memory in beside.values()])
        cell = Running(job)
        self.running.append(cell)
        self.started.append(job.cell.name)
        self.needs.append(need)
        return cell

    def wait(self, seconds: float) -> None:
        self.at_once.append(len(self.running))
        for cell in list(self.running):
            cell.turn += 1
            self.turns(self, cell)
            if cell.code is not None:
                self.running.remove(cell)

    def close(self) -> None:
        self.closed = True


class Running:
    def __init__(self, job: CellJob) -> None:
        self.job, self.turn, self.stopped, self.killed = job, 0, 0, False
        self.code: int | str | None = None

    def at_work(self) -> bool:
        return True

    def ended(self) -> int | str | None:
        return self.code

    def stop(self) -> None:
        self.stopped += 1

    def kill(self) -> None:
        self.killed, self.code = True, -9

    def finish(self, **measured: object) -> None:
        write_cell(self.job.cell, {"a": [(0.5, 2.0)]}, ["heart"], **measured)
        self.code = 0

    def step(self, number: int, peak_mb: float) -> None:
        self.job.run.mkdir(parents=True, exist_ok=True)
        self.job.cell.mkdir(parents=True, exist_ok=True)
        (self.job.run / "metrics.jsonl").write_text(json.dumps({"step": number}) + "\n")
        (self.job.cell / MEMORY_FILE).write_text(json.dumps({"peak_mb": peak_mb, "gpu_peak_mb": None}))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=8, n_masks=6)


def do(data: Path, engine: Cells, seeds: int = 4, quiet: bool = True) -> Results:
    out, names = data.parent / "out", list(range(seeds))
    results = compare(data, out, ["supervised"], ["none"], [2], names, SETTINGS, quiet, engine=engine)
    assert engine.closed
    return results


def test_as_many_as_there_are_slots_are_at_work_until_all_are_done(data: Path) -> None:
    def turns(engine: Cells, cell: Running) -> None:
        cell.step(cell.turn, 100.0)
        if cell.turn == 2:
            cell.finish()

    engine = Cells(2, turns)
    results = do(data, engine, seeds=5)
    assert (results.missing, results.failed, results.interrupted) == ((), {}, False)
    # The first alone, until it has done a step; from then on two, to the end.
    assert engine.at_once[0] == 1
    assert max(engine.at_once) == 2
    assert engine.started == [f"supervised_sam-none_labelled-2_seed-{seed}" for seed in range(5)]
    # Judged by what the first took so far, then known from those that are done.
    assert engine.needs[:2] == [None, Memory(200.0)]
    assert engine.needs[-1] == Memory(1536.0)


def test_a_cell_without_room_waits_for_one_to_end_and_that_is_said_once(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from knowsam.comparison.memory import Free

    def turns(engine: Cells, cell: Running) -> None:
        cell.step(cell.turn, 400.0)
        if cell.turn == 3:
            cell.finish(peak_mb=600.0)

    engine = Cells(3, turns, Room(lambda: Free(1000.0)))
    assert do(data, engine, quiet=False).missing == ()
    assert max(engine.at_once) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("1 of 3 runs at a time: the next needs about 800 MB, of which 100 are left; it waits") == 1


def test_a_signal_lets_all_at_work_save_and_the_next_call_does_the_rest(data: Path) -> None:
    def turns(engine: Cells, cell: Running) -> None:
        cell.step(1, 10.0)
        if cell.turn == 2 and cell.job.cell.name.endswith("seed-0"):
            os.kill(os.getpid(), signal.SIGTERM)
        if cell.stopped:
            cell.code = 130

    engine = Cells(2, turns)
    results = do(data, engine)
    assert results.interrupted
    assert len(results.missing) == 4
    assert len(engine.started) == 2
    again = Cells(2, lambda engine, cell: cell.finish())
    assert not do(data, again).interrupted
    assert len(again.started) == 4


def test_a_second_interrupt_ends_all_at_once(data: Path) -> None:
    seen: list[Running] = []

    def turns(engine: Cells, cell: Running) -> None:
        cell.step(1, 10.0)
        if len(engine.running) == 2:
            seen[:] = engine.running
            raise KeyboardInterrupt

    assert do(data, Cells(2, turns)).interrupted
    assert [cell.killed for cell in seen] == [True, True]


def test_one_that_fails_stops_no_other_and_may_say_why(data: Path) -> None:
    def turns(engine: Cells, cell: Running) -> None:
        cell.step(1, 10.0)
        if cell.job.cell.name.endswith("seed-1"):
            cell.code = "its worker was lost several times."
        elif cell.turn == 2:
            cell.finish()

    results = do(data, Cells(2, turns), seeds=3)
    assert list(results.failed.values()) == ["its worker was lost several times."]
    assert len(results.rows[0].done) == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"jobs": 0}, "--jobs: 0 was found, but expected a number from 1"),
        ({"jobs": 2, "scheduler": "tcp://nowhere:1"}, "--jobs and --scheduler were both found"),
    ],
)
def test_senseless_numbers_of_runs_are_refused(data: Path, given: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        compare(data, data.parent / "out", ["supervised"], ["none"], [2], [0], SETTINGS, True, **given)
    assert not (data.parent / "out").exists()


@pytest.mark.slow
@pytest.mark.subprocess
def test_two_at_a_time_give_the_bits_of_one_at_a_time(data: Path) -> None:
    settings = {"train": {"steps": 3, "batch": "2+2", "log_every": 1}, "data": {"size": 32}}
    given = (data, ["supervised"], ["none"], [2], [0, 1], settings, True)
    outs = [data.parent / "one", data.parent / "two"]
    for jobs, out in enumerate(outs, 1):
        results = compare(given[0], out, *given[1:], jobs=jobs)  # type: ignore[arg-type]
        assert (results.failed, results.missing) == ({}, ())
    for run in (outs[0] / "runs").iterdir():
        assert (run / "student.safetensors").read_bytes() == (
            outs[1] / "runs" / run.name / "student.safetensors"
        ).read_bytes()

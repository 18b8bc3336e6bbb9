"""The loop over the grid: one cell after the other, each in a process of its own, which may fail or be interrupted."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsam.comparison.cell import INTERRUPTED, LOG_FILE, CellJob, Registered, work
from knowsam.comparison.display import GridDisplay, expected_seconds, last_step, seconds_left
from knowsam.comparison.folder import CompareFolder, as_it_began, join_grids
from knowsam.comparison.grid import Cell, Grid, plan_grid, plan_splits
from knowsam.comparison.outcome import OUTCOME_FILE, Outcome
from knowsam.comparison.results import Results, read_results
from knowsam.comparison.scores import cases_to_score
from knowsam.data.folder import DataFolder
from knowsam.data.leaks import leak_warnings
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.runs.lock import clear_lock, folder_lock

POLL_S = 1.0
Runner = Callable[[CellJob, Callable[[], bool], Callable[[], None]], int]
"""Does one cell. Arguments: the job, a function that says whether to stop, one to call about once a second. Returns the
exit code of the process."""


def in_own_process(job: CellJob, asked_to_stop: Callable[[], bool], on_poll: Callable[[], None]) -> int:
    """Do a cell in a new process, so that its memory is measured alone and freed at its end.

    Args:
        job: What to do.
        asked_to_stop: True asks the process to save and end.
        on_poll: Called about once a second.

    Returns:
        0 done, 1 failed, 130 interrupted and saved, below 0 ended by that signal.
    """
    # spawn: a forked torch with running threads may hang, and would start with this process's memory.
    process = multiprocessing.get_context("spawn").Process(target=work, args=(job,))
    process.start()
    try:
        while process.is_alive():
            process.join(POLL_S)
            on_poll()
            if asked_to_stop():
                # Every second: a process that reads data or scores ends at once, one that trains saves first.
                process.terminate()
    finally:
        if process.is_alive():  # a second Ctrl-C
            process.kill()
            process.join()
    return INTERRUPTED if process.exitcode is None else process.exitcode


def compare(
    data: str | Path,
    out: str | Path,
    methods: Sequence[str],
    sam: Sequence[str] = ("none", "tiny"),
    labelled: Sequence[int | float | str | Path | None] = (None,),
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
    runner: Runner = in_own_process,
) -> Results:
    """Train every combination of methods, SAMs, labelled subsets and seeds, and score each once.

    Finished runs are kept, interrupted runs are continued, failed runs are tried again.

    Args:
        data: The data folder.
        out: A new folder, or that of an earlier call with the same settings; methods, SAMs, labelled subsets and seeds
            may be added.
        methods: Names that `load_method` knows: those of this package and of installed ones, `PATH.py:CLASS`, and what
            was given to `register_method`. A registered class must stand at the top of a module, and a script that
            calls this needs `if __name__ == "__main__":`, because every run imports both again. The same holds for
            what was given to `register_network`.
        sam: `"none"` for the methods alone, names of SAMs, paths.
        labelled: Groups that stay labelled: a number, a share, a list file; None for all masks.
        seeds: Whole numbers from 0.
        settings: Settings of all runs, nested as in a configuration, and under the name of a method those of its runs
            alone: `{"train": {"steps": 600}, "knowsam": {"options": {"ugda_start": 0.3}}}`.
        quiet: No progress, no text.
        runner: How one cell is done.

    Returns:
        Everything measured, also of earlier calls; `comparison.output.write_tables` writes it. Its `interrupted`
        says whether cells are left to do, its `failed` which could not be done and why.

    Raises:
        InputError: For bad settings or data, or a folder that holds something else; nothing was trained then.
    """
    folder = CompareFolder(out)
    asked, former = as_it_began(folder, plan_grid(data, methods, sam, labelled, seeds, settings))
    entries = {method: _registered(method, config.options) for method, config in asked.settings.items()}
    scanned, splits = plan_splits(asked)
    for split in splits.values():
        cases_to_score(scanned, split)
    join_grids(folder, asked)
    with folder_lock(folder.path):
        grid = join_grids(folder, asked)
        _check_splits(folder, grid, scanned, splits)
        folder.write(grid)
        display = GridDisplay(quiet)
        if former:
            kept = ", ".join(former)
            display.notes([f"this comparison goes on with what it began with, which is no longer the default: {kept}."])
        display.notes(dict.fromkeys(note for split in splits.values() for note in leak_warnings(scanned, split)))
        interrupted = _do_cells(folder, asked, entries, display, runner)
        return read_results(folder, interrupted)


def _registered(method: str, options: Mapping[str, Any]) -> Registered:
    """The registered method and network, which a new process must be able to import."""
    from knowsam.methods import METHODS
    from knowsam.networks import NETWORKS

    network = options.get("network")
    return Registered(METHODS.picklable(method), {} if network is None else NETWORKS.picklable(network))


def _check_splits(
    folder: CompareFolder, grid: Grid, scanned: DataFolder, splits: Mapping[tuple[str, int], Split]
) -> None:
    """Make sure that earlier runs were trained on the same split as new ones will be."""
    for cell in grid.cells:
        planned, run = splits.get((cell.labelled, cell.seed)), folder.run(cell)
        if planned is not None and run.split.exists() and Split.read(run.split) != planned:
            raise InputError(
                f"{scanned.root}: the images have changed since {run.path} was trained (its split is another), but"
                " expected the same data for all runs; restore the data or choose another --out."
            )


def _do_cells(
    folder: CompareFolder, grid: Grid, entries: Mapping[str, Registered], display: GridDisplay, runner: Runner
) -> bool:
    """Do the cells that are not done; True if interrupted."""
    from knowsam.training.interrupt import stop_on_signal

    took: dict[Cell, float] = {}
    open_cells: list[Cell] = []
    for cell in grid.cells:
        outcome = Outcome.read(folder.cell(cell))
        if outcome is None or outcome.status == "failed":
            open_cells.append(cell)
            continue
        clear_lock(folder.cell(cell))
        if outcome.seconds is not None:
            took[cell] = outcome.seconds
    total, done = len(grid.cells), len(grid.cells) - len(open_cells)
    display.start(total, done)
    with stop_on_signal() as asked_to_stop:
        for position, cell in enumerate(open_cells):
            config, later = grid.config(cell), open_cells[position + 1 :]
            steps, metrics = config.train.steps, folder.run(cell).metrics
            (folder.cell(cell) / OUTCOME_FILE).unlink(missing_ok=True)
            job = CellJob(
                config.model_dump(mode="json"), folder.run(cell).path, folder.cell(cell), entries[cell.method]
            )
            started, first = time.monotonic(), last_step(metrics) / steps

            def on_poll(
                cell: Cell = cell,
                later: Sequence[Cell] = later,
                steps: int = steps,
                metrics: Path = metrics,
                started: float = started,
                first: float = first,
            ) -> None:
                step, elapsed = last_step(metrics), time.monotonic() - started
                display.step(step, seconds_left(cell, later, took, elapsed, step / steps, first))

            number = done + position + 1
            try:
                with display.running(number, total, cell, steps):
                    code = runner(job, asked_to_stop, on_poll)
            except KeyboardInterrupt:
                code = INTERRUPTED
            outcome = Outcome.read(job.cell)
            if outcome is None and (code == INTERRUPTED or asked_to_stop()):
                display.stopped(number - 1, total)
                return True
            if outcome is None:
                outcome = Outcome("failed", _ended_by(code, job.cell))
                job.cell.mkdir(parents=True, exist_ok=True)
                outcome.write(job.cell)
            seconds = time.monotonic() - started
            if outcome.status == "done":
                took[cell] = seconds if first == 0 else outcome.seconds or seconds
            left = sum(expected_seconds(other, took) or 0.0 for other in later) if took else None
            display.ended(number, total, cell, outcome, seconds, left)
            if asked_to_stop() and later:
                display.stopped(number, total)
                return True
    return False


def _ended_by(code: int, cell: Path) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed (SIGKILL), probably because memory ran out; take a smaller --batch or --size, or"
            " lower data.cache_mb, and repeat the command."
        )
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}; its output is in {cell / LOG_FILE}."
    return f"its process ended with exit code {code}; its output is in {cell / LOG_FILE}."

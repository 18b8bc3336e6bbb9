"""A comparison from plan to results: the grid, what it goes on from, and who does its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from knowsam.comparison.cell import Registered
from knowsam.comparison.display import GridDisplay
from knowsam.comparison.engine import Engine, LocalEngine
from knowsam.comparison.folder import CompareFolder, as_it_began, join_grids
from knowsam.comparison.grid import Grid, plan_grid, plan_splits
from knowsam.comparison.queue import CellQueue
from knowsam.comparison.results import Results, read_results
from knowsam.comparison.scores import cases_to_score
from knowsam.data.folder import DataFolder
from knowsam.data.leaks import leak_warnings
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.runs.lock import folder_lock


def compare(
    data: str | Path,
    out: str | Path,
    methods: Sequence[str],
    sam: Sequence[str] = ("none", "tiny"),
    labelled: Sequence[int | float | str | Path | None] = (None,),
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
    jobs: int = 1,
    scheduler: str | None = None,
    engine: Engine | None = None,
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
        jobs: Runs side by side on this machine, each begun only if there is memory for it beside the others.
        scheduler: Address of a Dask cluster that does the runs instead; its workers share `out` and `data`.
        engine: What does the cells, in place of both.

    Returns:
        Everything measured, also of earlier calls; `comparison.output.write_tables` writes it. Its `interrupted`
        says whether cells are left to do, its `failed` which could not be done and why.

    Raises:
        InputError: For bad settings or data, or a folder that holds something else; nothing was trained then.
    """
    if jobs < 1:
        raise InputError(f"--jobs: {jobs} was found, but expected a number from 1; correct it.")
    if scheduler is not None and jobs != 1:
        raise InputError(
            "--jobs and --scheduler were both found, but expected one: the cluster's workers say how many run at a"
            " time; leave --jobs out."
        )
    from knowsam.training.interrupt import stop_on_signal

    folder = CompareFolder(out)
    asked, former = as_it_began(folder, plan_grid(data, methods, sam, labelled, seeds, settings))
    entries = {method: _registered(method, config.options) for method, config in asked.settings.items()}
    scanned, splits = plan_splits(asked)
    for split in splits.values():
        cases_to_score(scanned, split)
    join_grids(folder, asked)
    if engine is None:
        engine = LocalEngine(jobs) if scheduler is None else _cluster(scheduler)
    with closing(engine), folder_lock(folder.path):
        grid = join_grids(folder, asked)
        _check_splits(folder, grid, scanned, splits)
        folder.write(grid)
        display = GridDisplay(quiet)
        if former:
            kept = ", ".join(former)
            display.notes([f"this comparison goes on with what it began with, which is no longer the default: {kept}."])
        display.notes(dict.fromkeys(note for split in splits.values() for note in leak_warnings(scanned, split)))
        with stop_on_signal() as asked_to_stop:
            interrupted = CellQueue(folder, asked, entries, display, engine).work(asked_to_stop)
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


def _cluster(scheduler: str) -> Engine:
    from knowsam.comparison.cluster import ClusterEngine

    return ClusterEngine(scheduler)

"""Outcomes and scores of all cells, summed up in one row per method, SAM and labelled subset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.grid import Cell, Grid
from knowsam.comparison.outcome import Outcome
from knowsam.comparison.scores import SCORES_FILE, case_value, read_scores
from knowsam.comparison.statistics import Interval, OverSeeds, bootstrap_interval, over_seeds, paired_differences
from knowsam.errors import InputError
from knowsam.evaluation.metrics import ClassScore, Summary, summarise
from knowsam.storage import without_nan

MEAN = "mean"
"""Stands for the mean over classes, in the place of the name of a class."""
SHOWN_METRICS = ("dice", "hd95")

Scores = Mapping[str, tuple[ClassScore, ...]]


@dataclass(frozen=True)
class Row:
    """One method with one SAM (or none) and one labelled subset, over its seeds.

    Attributes:
        method: A key of `METHODS`.
        sam: `"none"`, a name or a path.
        labelled: As in `Cell`.
        seeds: The seeds that were asked for.
        done: The seeds that are trained and scored.
        scores: Metric -> class name or `MEAN` -> mean and SD over seeds of the mean over cases.
        by_seed: Metric -> seed -> mean over classes of the mean over cases: what the figure shows.
        undefined: HD95 that are undefined because one of the two masks is empty, over all seeds, cases and classes.
        scored: Number of all HD95, undefined ones included.
        difference: Metric -> class name or `MEAN` -> what SAM changes: this row minus the one without SAM, paired by
            seed and case. Empty without SAM and without a counterpart.
        left_out: Metric -> pairs of the mean that could not be compared, because a value is undefined.
        validation_dice: Over seeds, of the network that was kept.
        sam_best: SAM's own best validation Dice over the run, over seeds.
        sam_last: Its last.
        seconds: Over seeds.
        peak_mb: Largest over seeds; None where no run was measured.
        gpu_peak_mb: The same on the GPU.
        network: Name of the network that is scored.
        parameters: Its number of parameters.
        masks_judged: Number of masks of unlabelled images that a run read for a judge, the largest over seeds.
    """

    method: str
    sam: str
    labelled: str
    seeds: tuple[int, ...]
    done: tuple[int, ...]
    scores: dict[str, dict[str, OverSeeds]]
    by_seed: dict[str, dict[int, float]]
    undefined: int
    scored: int
    difference: dict[str, dict[str, Interval]]
    left_out: dict[str, int]
    validation_dice: OverSeeds
    sam_best: OverSeeds
    sam_last: OverSeeds
    seconds: OverSeeds
    peak_mb: float | None
    gpu_peak_mb: float | None
    network: str
    parameters: int | None
    masks_judged: int = 0

    @property
    def complete(self) -> bool:
        """Whether every seed is done."""
        return len(self.done) == len(self.seeds)

    @property
    def ranked_text(self) -> str:
        """What stands behind the labelled subset: `" + 12 ranked"`, empty where no further mask was read."""
        return f" + {self.masks_judged} ranked" if self.masks_judged else ""


@dataclass(frozen=True)
class Results:
    """A comparison, finished or not.

    Attributes:
        folder: Its files.
        grid: What was asked for.
        rows: By labelled subset, then method, then SAM, in the order given.
        class_names: Foreground classes; empty as long as no cell is done.
        unit: Of HD95.
        part: `"test"` or `"validation"`: what the scores are of.
        cases: Number of scored cases of a run.
        drawn_by_seed: Whether runs were scored on different cases: validation drawn by the seed.
        failed: Cell -> why, in one sentence.
        missing: Cells that are neither done nor failed.
        devices: Where the runs were trained.
        notes: About the scores.
        interrupted: Whether the call that made this was interrupted.
    """

    folder: CompareFolder
    grid: Grid
    rows: tuple[Row, ...]
    class_names: tuple[str, ...]
    unit: str
    part: str
    cases: int
    drawn_by_seed: bool
    failed: dict[Cell, str]
    missing: tuple[Cell, ...]
    devices: tuple[str, ...]
    notes: tuple[str, ...]
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, None for undefined."""
        values = {
            "data": str(self.grid.data),
            "scored_on": self.part,
            "cases": self.cases,
            "drawn_by_seed": self.drawn_by_seed,
            "unit": self.unit,
            "classes": list(self.class_names),
            "rows": [asdict(row) | {"complete": row.complete} for row in self.rows],
            "failed": {cell.name: reason for cell, reason in self.failed.items()},
            "missing": [cell.name for cell in self.missing],
            "devices": list(self.devices),
            "settings": {name: config.model_dump(mode="json") for name, config in self.grid.settings.items()},
        }
        plain: dict[str, Any] = without_nan(values)
        return plain


def read_results(folder: CompareFolder, interrupted: bool = False) -> Results:
    """Read the outcomes of all cells, finished or not, and sum them up.

    Raises:
        InputError: If there is no comparison, a file is broken, or its cells were not scored alike.
    """
    grid = folder.read()
    outcomes = {cell: outcome for cell in grid.cells if (outcome := Outcome.read(folder.cell(cell))) is not None}
    done = {cell: outcome for cell, outcome in outcomes.items() if outcome.status == "done"}
    scores = {cell: read_scores(folder.cell(cell) / SCORES_FILE) for cell in done}
    _check_alike(folder, done)
    first = next(iter(done.values()), None)
    notes = dict.fromkeys(note for outcome in done.values() for note in outcome.notes)
    return Results(
        folder,
        grid,
        summarise_rows(grid, done, scores),
        first.class_names[1:] if first else (),
        first.unit if first else "px",
        first.part if first else "",
        max((len(cases) for cases in scores.values()), default=0),
        len({tuple(sorted(cases)) for cases in scores.values()}) > 1,
        {cell: outcome.reason for cell, outcome in outcomes.items() if outcome.status == "failed"},
        tuple(cell for cell in grid.cells if cell not in outcomes),
        tuple(dict.fromkeys(outcome.device for outcome in done.values())),
        tuple(notes),
        interrupted,
    )


def _check_alike(folder: CompareFolder, done: Mapping[Cell, Outcome]) -> None:
    for what in ("part", "class_names", "unit"):
        found: dict[Any, Cell] = {}
        for cell, outcome in done.items():
            found.setdefault(getattr(outcome, what), cell)
        if len(found) > 1:
            (one, cell), (other, other_cell) = list(found.items())[:2]
            raise InputError(
                f"{folder.path}: {cell.name} was scored with {what.replace('_', ' ')} {one} and {other_cell.name} with"
                f" {other}, but expected the same for all; delete their folders under cells/ and runs/ and repeat the"
                " command."
            )


def summarise_rows(grid: Grid, done: Mapping[Cell, Outcome], scores: Mapping[Cell, Scores]) -> tuple[Row, ...]:
    """One row per method, SAM and labelled subset.

    Args:
        grid: What was asked for.
        done: The outcomes of finished cells.
        scores: Their scores.
    """
    by_row: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in grid.cells:
        by_row.setdefault((cell.labelled, cell.method, cell.sam), []).append(cell)
    subsets, methods, teachers = (_rank(row[part] for row in by_row) for part in range(3))
    ordered = sorted(by_row, key=lambda row: (subsets(row[0]), methods(row[1]), row[2] != "none", teachers(row[2])))
    return tuple(_row(by_row[key], by_row.get((key[0], key[1], "none"), []), done, scores) for key in ordered)


def _rank(names: Iterable[str]) -> Callable[[str], int]:
    """Position of each name in order of first appearance."""
    return list(dict.fromkeys(names)).index


def _row(
    cells: Sequence[Cell], alone: Sequence[Cell], done: Mapping[Cell, Outcome], scores: Mapping[Cell, Scores]
) -> Row:
    finished = [cell for cell in cells if cell in done]
    outcomes = [done[cell] for cell in finished]
    names = outcomes[0].class_names[1:] if outcomes else ()
    summaries = {cell.seed: summarise(s for case in scores[cell].values() for s in case) for cell in finished}
    values = {metric: _by_class(summaries, metric, names) for metric in SHOWN_METRICS}
    difference: dict[str, dict[str, Interval]] = {}
    left_out: dict[str, int] = {}
    if cells[0].sam != "none" and finished:
        difference, left_out = _what_sam_changes(finished, [cell for cell in alone if cell in done], done, scores)
    return Row(
        method=cells[0].method,
        sam=cells[0].sam,
        labelled=cells[0].labelled,
        seeds=tuple(cell.seed for cell in cells),
        done=tuple(cell.seed for cell in finished),
        scores={
            metric: {name: over_seeds(list(seeds.values())) for name, seeds in by.items()}
            for metric, by in values.items()
        },
        by_seed={metric: by.get(MEAN, {}) for metric, by in values.items()},
        undefined=sum(summary.n_undefined["hd95"] for summary in summaries.values()),
        scored=sum(entry.n_cases for summary in summaries.values() for entry in summary.classes),
        difference=difference,
        left_out=left_out,
        validation_dice=_measured(outcomes, "validation_dice"),
        sam_best=_measured(outcomes, "sam_best"),
        sam_last=_measured(outcomes, "sam_last"),
        seconds=_measured(outcomes, "seconds"),
        peak_mb=_largest(outcomes, "peak_mb"),
        gpu_peak_mb=_largest(outcomes, "gpu_peak_mb"),
        network=outcomes[0].network if outcomes else "",
        parameters=outcomes[0].parameters if outcomes else None,
        masks_judged=max((outcome.masks_judged for outcome in outcomes), default=0),
    )


def _what_sam_changes(
    with_sam: Sequence[Cell], without: Sequence[Cell], done: Mapping[Cell, Outcome], scores: Mapping[Cell, Scores]
) -> tuple[dict[str, dict[str, Interval]], dict[str, int]]:
    """`Row.difference` and `Row.left_out`."""
    difference: dict[str, dict[str, Interval]] = {}
    left_out: dict[str, int] = {}
    if not {cell.seed for cell in with_sam} & {cell.seed for cell in without}:
        return difference, left_out
    group_of = {case: group for cell in with_sam for case, group in done[cell].groups.items()}
    for metric in SHOWN_METRICS:
        for index, name in enumerate((MEAN, *done[with_sam[0]].class_names[1:])):
            first, second = (
                {cell.seed: _by_case(scores[cell], metric, index or None) for cell in side}
                for side in (with_sam, without)
            )
            found = paired_differences(first, second)
            groups = [group_of.get(case, case) for case in found.by_case]
            difference.setdefault(metric, {})[name] = bootstrap_interval(list(found.by_case.values()), groups)
            if name == MEAN:
                left_out[metric] = found.left_out
    return difference, left_out


def _by_class(summaries: Mapping[int, Summary], metric: str, names: Sequence[str]) -> dict[str, dict[int, float]]:
    """Class name or `MEAN` -> seed -> mean over cases."""
    values: dict[str, dict[int, float]] = {}
    for seed, summary in summaries.items():
        values.setdefault(MEAN, {})[seed] = summary.mean[metric]
        for name, entry in zip(names, summary.classes, strict=True):
            values.setdefault(name, {})[seed] = entry[metric].mean
    return values


def _by_case(scores: Scores, metric: str, class_index: int | None) -> dict[str, float]:
    return {case: case_value(records, metric, class_index) for case, records in scores.items()}


def _measured(outcomes: Sequence[Outcome], name: str) -> OverSeeds:
    found = [getattr(outcome, name) for outcome in outcomes]
    return over_seeds([math.nan if value is None else value for value in found])


def _largest(outcomes: Sequence[Outcome], name: str) -> float | None:
    return max((value for outcome in outcomes if (value := getattr(outcome, name)) is not None), default=None)

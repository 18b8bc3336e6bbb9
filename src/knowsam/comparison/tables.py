"""The numbers of a comparison as three tables of text, the same for Markdown, LaTeX and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from knowsam.comparison.grid import ALL, short_name
from knowsam.comparison.results import MEAN, Results, Row
from knowsam.comparison.statistics import CONFIDENCE_LEVEL, DRAWS, Interval, OverSeeds
from knowsam.evaluation.metrics import METRICS
from knowsam.presentation.text import count_text, duration_text

NOTHING = "\N{EN DASH}"
UNDEFINED = "undefined"
DIFFERENCE = "SAM's difference"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class TextTable:
    """A table of finished texts.

    Attributes:
        title: What its numbers are.
        headings: One per column.
        rows: The cells.
        left: Number of first columns that hold names; the others hold numbers.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int


def all_tables(results: Results) -> list[TextTable]:
    """The tables of Dice, of HD95 and of costs."""
    return [score_table(results, "dice"), score_table(results, "hd95"), cost_table(results)]


def score_table(results: Results, metric: str) -> TextTable:
    """One metric: mean over classes, every class, and what SAM changes.

    Args:
        results: The comparison.
        metric: `"dice"` or `"hd95"`.
    """
    names = results.class_names
    headings = ["method", "SAM", "labelled", "seeds", "mean", *names]
    if metric == "hd95":
        headings.append(UNDEFINED)
    rows = []
    for row in results.rows:
        cells = [*_name(row), _seeds(row)]
        cells += [spread_text(row.scores[metric].get(name), metric) for name in (MEAN, *names)]
        if metric == "hd95":
            cells.append(f"{row.undefined} of {row.scored}" if row.done else NOTHING)
        rows.append((*cells, difference_text(row.difference.get(metric, {}).get(MEAN), metric)))
    return TextTable(
        f"{METRICS[metric].title(results.unit)}, mean ± SD over seeds",
        (*headings, f"{DIFFERENCE} [{CONFIDENCE_LEVEL:.0%}]"),
        tuple(rows),
        3,
    )


def cost_table(results: Results) -> TextTable:
    """Validation Dice, SAM's own, the network, time and memory of a run."""
    headings = ["method", "SAM", "labelled", "validation Dice", "SAM's own: best", "last", "network", "time", "memory"]
    on_gpu = any(row.gpu_peak_mb is not None for row in results.rows)
    rows = []
    for row in results.rows:
        cells = [*_name(row)]
        cells += [spread_text(value, "dice") for value in (row.validation_dice, row.sam_best, row.sam_last)]
        cells.append(f"{row.network}, {row.parameters / 1e6:.2f} M" if row.parameters is not None else NOTHING)
        cells.append(NOTHING if math.isnan(row.seconds.mean) else duration_text(row.seconds.mean))
        cells.append(memory_text(row.peak_mb))
        rows.append((*cells, memory_text(row.gpu_peak_mb)) if on_gpu else tuple(cells))
    title = "Validation Dice of the network kept, SAM's own validation Dice, and the cost of one run"
    return TextTable(title, (*headings, "GPU memory") if on_gpu else tuple(headings), tuple(rows), 3)


def _name(row: Row) -> tuple[str, str, str]:
    labelled = short_name(row.labelled) + row.ranked_text
    return short_name(row.method), NOTHING if row.sam == "none" else short_name(row.sam), labelled


def _seeds(row: Row) -> str:
    return str(len(row.seeds)) if row.complete else f"{len(row.done)} of {len(row.seeds)}, incomplete"


def spread_text(value: OverSeeds | None, metric: str) -> str:
    """`"0.743 ± 0.012"`; without SD for a single seed."""
    if value is None or not value.seeds:
        return NOTHING
    if math.isnan(value.mean):
        return NOTHING if metric == "dice" else UNDEFINED
    digits = METRICS[metric].digits
    return f"{value.mean:.{digits}f}" + ("" if math.isnan(value.sd) else f" ± {value.sd:.{digits}f}")


def difference_text(value: Interval | None, metric: str) -> str:
    """`"+0.012 [−0.004, +0.028]"`."""
    if value is None:
        return NOTHING
    if math.isnan(value.mean):
        return UNDEFINED
    mean, low, high = (_signed(number, METRICS[metric].digits) for number in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]" if not math.isnan(value.low) else mean


def _signed(number: float, digits: int) -> str:
    """A number with its sign, or without one where it rounds to 0."""
    text = f"{number:+.{digits}f}".replace("-", MINUS)
    return text if any(digit in "123456789" for digit in text) else text[1:]


def memory_text(megabytes: float | None) -> str:
    """`"1.3 GB"`."""
    return NOTHING if megabytes is None else f"{megabytes / 1024:.1f} GB"


def footnotes(results: Results) -> list[str]:
    """What a reader must know to understand the numbers, one sentence or more each."""
    notes = [_scored_on(results)] if results.part else []
    if any(row.seeds != row.done for row in results.rows):
        undone = len(results.failed) + len(results.missing)
        notes.append(f"Incomplete: {undone} of {len(results.grid.cells)} runs are not done; rows may change.")
    if all(len(row.done) < 2 for row in results.rows):
        notes.append("One seed: no standard deviation, and no telling how much of a difference is chance in training.")
    else:
        notes.append("SD: over seeds, divided by their number less one; none for a single seed.")
    if any(row.difference for row in results.rows):
        notes.append(
            f"{DIFFERENCE}: with SAM minus without, mean over classes, paired by seed and case, averaged over seeds;"
            f" in brackets the {CONFIDENCE_LEVEL:.0%} bootstrap interval over cases ({DRAWS:,} draws, the cases of"
            f" a group drawn together). It speaks of other cases, not of other trainings."
            f" {_left_out(results.rows)}".rstrip()
        )
    notes.append(
        "HD95 is undefined where one of the two masks is empty: counted, left out of the mean over cases; the mean of a"
        " class without a defined case, and of its row, is undefined."
    )
    notes += _shared(results)
    if any(row.seconds.seeds for row in results.rows):
        notes.append(
            "Time: training and validation of one run, mean over seeds, start and reading left out. Memory: largest"
            f" resident memory of a run's process. Trained on: {', '.join(results.devices)}."
        )
    notes += results.notes
    notes += [f"{cell.name} failed: {reason}" for cell, reason in results.failed.items()]
    return notes


def _scored_on(results: Results) -> str:
    if results.part == "test":
        return (
            f"Test numbers: {count_text(results.cases, 'case')} of test.txt, scored once, at native size, with the"
            " network that was best on validation."
        )
    drawn = " They are drawn anew for each seed." if results.drawn_by_seed else ""
    return (
        "VALIDATION NUMBERS, no test numbers: there is no test.txt with masks, so these are scores of the"
        f" {count_text(results.cases, 'case')} on which the best checkpoint of each run was chosen, and flatter every"
        f" row.{drawn}"
    )


def _left_out(rows: Sequence[Row]) -> str:
    number = sum(row.left_out.get("hd95", 0) for row in rows)
    return f"Left out because an HD95 is undefined: {count_text(number, 'pair')}." if number else ""


def _shared(results: Results) -> list[str]:
    grid = results.grid
    settings = next((grid.settings[name] for name in grid.settings if name not in grid.own), None)
    settings = settings or next(iter(grid.settings.values()))
    height, width = settings.data.size
    notes = [
        "All runs share data, split, augmentation and"
        f" {settings.train.steps:,} steps of {settings.train.batch[0]}+{settings.train.batch[1]} images at"
        f" {height}x{width}, optimiser {settings.train.optimiser} with learning rate {settings.train.lr:g}."
    ]
    for name in grid.settings:
        said = grid.footnotes.get(name, "")
        own = ", ".join(f"{key}={value}" for key, value in grid.own.get(name, {}).items())
        parts = [said, f"with settings of its own: {own}" if own else ""]
        if any(parts):
            notes.append(f"{short_name(name)}: {'; '.join(part for part in parts if part)}.")
    for row in results.rows:
        if row.masks_judged:
            notes.append(
                f"{short_name(row.method)}, {short_name(row.labelled)}: {count_text(row.masks_judged, 'mask')} of"
                " unlabelled images read for ranking; other methods did not see them."
            )
    if any(row.labelled == ALL for row in results.rows):
        notes.append("Labelled all: every training mask is used.")
    return notes

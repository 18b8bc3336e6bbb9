"""From records to HTML: what stands where. The words around the numbers are in `page.html.j2`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from knowsam.evaluation.scoring import ScoredVolume
from knowsam.presentation import html
from knowsam.presentation.pictures import class_colour, css_colour
from knowsam.reporting import figures
from knowsam.reporting.advice import advise, gain_over
from knowsam.reporting.baseline import Baseline, is_plain_baseline
from knowsam.reporting.cases import DataRecord, view_slice
from knowsam.reporting.panels import CONFUSED, EXTRA, MISSED, Panel, entropy_scale, panels
from knowsam.reporting.terms import prediction_name
from knowsam.runs.next_steps import NextCommand, baseline_command, next_commands
from knowsam.runs.record import RunRecord
from knowsam.runs.student_file import StudentInfo

MOST_ROWS = 200
"""Of the table of all cases; the worst are shown."""
MOST_GROUPS = 60


@dataclass(frozen=True)
class ClassRow:
    """One foreground class over the validation cases; the spread is None where the cases could not be read."""

    name: str
    colour: str
    spread: dict[str, float] | None
    kept: float | None
    """Mean Dice when the network was kept, from the log."""
    baseline: float | None


@dataclass(frozen=True)
class ShownCase:
    """A case with its pictures."""

    rank: str
    result: ScoredVolume
    panels: list[Panel]
    radiological: bool


@dataclass(frozen=True)
class KeptNetwork:
    """The network of a run's student file: what travels with it, and its number of weights."""

    info: StudentInfo
    parameters: int


def render(
    run: RunRecord,
    baseline: Baseline | None,
    network: KeptNetwork | None,
    data: DataRecord | None,
    left_out: str | None,
) -> str:
    """The page as text.

    Args:
        run: The run.
        baseline: The supervised run beside it.
        network: Its network; None where there is none yet.
        data: Its data folder and validation cases; None where they could not be read.
        left_out: The sentence about why.
    """
    cases = () if data is None else data.cases
    names = class_names(run, network, data)
    return html.render(
        "reporting/page.html.j2",
        prediction=partial(prediction_name, run.config.method),
        run=run,
        baseline=baseline,
        gain=gain_over(run, baseline),
        is_baseline=is_plain_baseline(run.config),
        left_out=left_out,
        labels=label_facts(run, data),
        overall=spread([case.mean for case in cases]) if cases else None,
        validation=figures.validation_figure(run, baseline),
        terms=figures.term_figures(run),
        classes=class_rows(run, baseline, names, cases),
        class_spread=figures.spread_figure(names, np.array([case.dice for case in cases])) if cases else None,
        shown=shown_cases(network, data),
        worst_first=sorted(cases, key=lambda case: case.mean)[:MOST_ROWS],
        cases=cases,
        data=data,
        most_groups=MOST_GROUPS,
        leaks=leaks(data),
        class_colours=[css_colour(class_colour(index + 1)) for index in range(len(names))],
        error_colours={
            "missed": css_colour(MISSED),
            "too much": css_colour(EXTRA),
            "wrong class": css_colour(CONFUSED),
        },
        entropy_scale=entropy_scale(),
        advice=advise(run, baseline, names, cases),
        commands=commands(run, baseline),
        network=None if network is None else network.info,
        parameters=None if network is None else network.parameters,
    )


def class_names(run: RunRecord, network: KeptNetwork | None, data: DataRecord | None) -> list[str]:
    """Names of classes 1..K-1, from whatever knows them."""
    if data is not None:
        return list(data.coding.names[1:])
    if network is not None:
        return list(network.info.class_names[1:])
    if run.best is None:
        return []
    return [f"class {index}" for index in range(1, len(run.best.per_class[run.best.used]) + 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, population standard deviation, smallest, median and largest value."""
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values)),
        "min": float(np.min(values)),
        "median": float(np.median(values)),
        "max": float(np.max(values)),
    }


def class_rows(
    run: RunRecord, baseline: Baseline | None, names: Sequence[str], cases: Sequence[ScoredVolume]
) -> list[ClassRow]:
    """One row per foreground class."""
    kept = run.best.per_class[run.best.used] if run.best is not None else [None] * len(names)
    beside: list[Any] = [None] * len(names)
    if baseline is not None and baseline.comparable:
        other = baseline.score.per_class[baseline.score.used]
        beside = other if len(other) == len(names) else beside
    return [
        ClassRow(
            name,
            css_colour(class_colour(index + 1)),
            spread([case.dice[index] for case in cases]) if cases else None,
            kept[index],
            beside[index],
        )
        for index, name in enumerate(names)
    ]


def label_facts(run: RunRecord, data: DataRecord | None) -> dict[str, int | None]:
    """Images and groups by set; groups are known only where the folder could be read."""
    groups = {} if data is None else {one.name: len(one.groups) for one in data.sets}
    volumes = {} if data is None else {one.name: one.volumes for one in data.sets}
    return {
        "labelled": len(run.split.labelled),
        "labelled_groups": groups.get("labelled"),
        "unlabelled": len(run.split.unlabelled),
        "validation": len(run.split.val),
        "validation_volumes": volumes.get("validation"),
        "test": len(run.split.test),
        "judged": run.masks_judged,
    }


def leaks(data: DataRecord | None) -> list[str]:
    """Groups that are validated on and trained on, which a folder with guessed groups may have."""
    groups = {} if data is None else {one.name: one.groups for one in data.sets}
    trained = {*groups.get("labelled", ()), *groups.get("unlabelled", ())}
    return [group for group in groups.get("validation", ()) if group in trained]


def shown_cases(network: KeptNetwork | None, data: DataRecord | None) -> list[ShownCase]:
    """Best, median and worst case with their pictures; fewer where there are fewer cases."""
    if network is None or data is None or not data.cases:
        return []
    order = sorted(data.cases, key=lambda case: (case.mean, case.name))
    picks = {"Best": order[-1], "Median": order[(len(order) - 1) // 2], "Worst": order[0]}
    shown: list[ShownCase] = []
    for rank, result in picks.items():
        if all(result is not other.result for other in shown):
            view = view_slice(result, network.info.preprocessing, data.coding)
            pictures = panels(view, f"{rank} case, {result.name}")
            shown.append(ShownCase(rank, result, pictures, view.radiological))
    return shown


def commands(run: RunRecord, baseline: Baseline | None) -> list[NextCommand]:
    """What to type next."""
    config = run.config
    found = next_commands(run.folder.path, config.data.path, run.steps, bool(run.split.unlabelled))
    if baseline is None and not is_plain_baseline(config):
        found.append(baseline_command(run.folder.path, config))
    return found

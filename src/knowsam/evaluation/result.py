"""The result of an evaluation: records, CSV and JSON files, a table on the terminal."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsam.errors import InputError
from knowsam.evaluation.metrics import METRICS, ClassScore, Spread, Summary
from knowsam.presentation.console import make_console, make_table, printed
from knowsam.storage import without_nan, write_csv, write_json

if TYPE_CHECKING:
    from rich.console import Console


def definitions() -> dict[str, str]:
    """What the numbers mean; travels with them in scores.json."""
    by_kind = {
        kind: {name: metric.definition for name, metric in METRICS.items() if metric.kind == kind}
        for kind in ("share", "distance")
    }
    return {
        **by_kind["share"],
        "surface": "mask minus its erosion by the face-connected cross; voxels at the array border belong to it",
        **by_kind["distance"],
        "both_empty": "Dice 1, Jaccard 1, distances 0",
        "missed": "truth only: Dice 0, Jaccard 0, distances undefined, counted, left out of their mean",
        "false_alarm": "prediction only: as missed",
        "mean": "of the per-class means, background left out; undefined where a class has no defined case",
        "std": "over cases, divided by their number",
    }


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        case: Stem of the file, or name of the volume whose slices were stacked.
        unit: `"mm"` or `"px"`, of its distances.
        scores: One record per foreground class.
    """

    case: str
    unit: str
    scores: tuple[ClassScore, ...]


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` found.

    Attributes:
        cases: The scored cases, in natural order.
        class_names: One per class, the background first.
        unit: Unit of all distances, `"mm"` or `"px"`.
        summary: Per class and over classes.
        truth_without_prediction: Stems of truth files that were not scored.
        prediction_without_truth: Stems of predictions that were not scored.
        notes: Sentences that a reader of the scores must know.
    """

    cases: tuple[CaseScores, ...]
    class_names: tuple[str, ...]
    unit: str
    summary: Summary
    truth_without_prediction: tuple[str, ...]
    prediction_without_truth: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return printed(lambda console: print_table(self, console))


def write_scores(result: EvaluationResult, out: Path) -> None:
    """Write `scores.csv` and `scores.json`; each appears whole or not at all.

    Args:
        result: What `evaluate` returned.
        out: The folder; made if it does not exist. Undefined is an empty field in CSV, null in JSON.

    Raises:
        InputError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: this is a file; expected a folder for the scores; give another name.")
    rows = (
        {"case": case.case, "class": score.class_index, "name": result.class_names[score.class_index]}
        | {metric: _six_decimals(score[metric]) for metric in METRICS}
        | {"unit": case.unit, "status": score.status}
        for case in result.cases
        for score in case.scores
    )
    write_csv(out / "scores.csv", ["case", "class", "name", *METRICS, "unit", "status"], rows)
    write_json(out / "scores.json", scores_json(result))


def _six_decimals(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def scores_json(result: EvaluationResult) -> dict[str, Any]:
    """The content of scores.json and of `evaluate --json`: plain values, None for undefined.

    Args:
        result: What `evaluate` returned.
    """
    per_class = []
    for entry in result.summary.classes:
        record = asdict(entry)
        head = {"class": record.pop("class_index"), "name": result.class_names[entry.class_index]}
        spreads = record.pop("spreads")
        per_class.append(head | record | spreads)
    values = {
        "n_cases": len(result.cases),
        "unit": result.unit,
        "mean": result.summary.mean,
        "n_undefined": result.summary.n_undefined,
        "classes": per_class,
        "definitions": definitions(),
        "notes": list(result.notes),
        "n_truth_without_prediction": len(result.truth_without_prediction),
        "n_prediction_without_truth": len(result.prediction_without_truth),
        "truth_without_prediction": list(result.truth_without_prediction),
        "prediction_without_truth": list(result.prediction_without_truth),
    }
    plain: dict[str, Any] = without_nan(values)
    return plain


def print_table(result: EvaluationResult, console: Console | None = None) -> None:
    """Print mean and standard deviation over cases for each class, the mean of the classes, and the notes.

    Args:
        result: What `evaluate` returned.
        console: Where to print; None for the terminal.
    """
    console = console or make_console()
    summary = result.summary
    table = make_table(
        ("class", *(metric.title(result.unit) for metric in METRICS.values()), "undefined"),
        [
            (
                result.class_names[entry.class_index],
                *(_cell(name, entry[name]) for name in METRICS),
                f"{entry['hd95'].n_undefined} of {entry.n_cases}",
            )
            for entry in summary.classes
        ],
        title=f"Mean ± standard deviation; number of cases: {len(result.cases)}",
        total=(
            "mean",
            *(_number(name, summary.mean[name]) for name in METRICS),
            f"{summary.n_undefined['hd95']} of {sum(entry.n_cases for entry in summary.counted)}",
        ),
    )
    console.print(table)
    for note in result.notes:
        console.print(note, markup=False, highlight=False)


def _cell(metric: str, spread: Spread) -> str:
    mean = _number(metric, spread.mean)
    return f"{mean} ±{_number(metric, spread.std)}" if spread.n_defined else mean


def _number(metric: str, value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.{METRICS[metric].digits}f}"

"""The estimated Dice of every predicted case: `cases.csv` and the table of the worst."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knowsam.data.folder import volume_names
from knowsam.functional.uncertainty import CaseSums
from knowsam.inference.files import PredictedFile
from knowsam.io import case_stem
from knowsam.presentation.console import make_console, make_table
from knowsam.reliability.calibration import Estimate, estimate_without_calibration
from knowsam.reliability.of_run import CalibrationStatus
from knowsam.storage import without_nan, write_csv

if TYPE_CHECKING:
    from rich.console import Console

CASES_FILE = "cases.csv"
CASE_COLUMNS = (
    "case",
    "files",
    "case_dice",
    "class",
    "name",
    "dice",
    "low",
    "high",
    "status",
    "confidence",
    "expected_dice",
    "consensus_dice",
    "mean_entropy",
    "uncertain_share",
    "predicted_px",
)
SHOWN = 5


@dataclass(frozen=True)
class CaseQuality:
    """The estimated quality of a prediction.

    Attributes:
        case: Stem of the file, or name of the volume whose slices were put together.
        files: Number of files.
        estimates: Of classes 1..K-1.
        sums: What they were computed from.
    """

    case: str
    files: int
    estimates: tuple[Estimate, ...]
    sums: CaseSums

    @property
    def dice(self) -> float:
        """Mean of the estimates over the classes, by which cases are sorted."""
        return float(np.mean([estimate.dice for estimate in self.estimates]))


def estimate_case(case: str, parts: Sequence[CaseSums], basis: CalibrationStatus) -> CaseQuality:
    """The estimate of one case from the sums of its files."""
    sums = reduce(add, parts)
    confidence, predicted = sums.confidence()[1:].tolist(), (sums.predicted_px[1:] > 0).tolist()
    calibration = basis.calibration
    estimates = (
        estimate_without_calibration(confidence, predicted)
        if calibration is None
        else calibration.estimate(confidence, predicted)
    )
    return CaseQuality(case, len(parts), tuple(estimates), sums)


def _by_folder(predicted: Iterable[PredictedFile]) -> dict[Path, list[PredictedFile]]:
    """Predicted files by the subfolder they lie in."""
    found: dict[Path, list[PredictedFile]] = {}
    for item in predicted:
        found.setdefault(item.folder, []).append(item)
    return found


def estimate_cases(predicted: Iterable[PredictedFile], basis: CalibrationStatus) -> list[CaseQuality]:
    """Estimates for files that were predicted with their uncertainty, worst case first.

    Slices of one volume are one case, as in `knowsam evaluate`.
    """
    parts: dict[str, list[CaseSums]] = {}
    for folder, items in _by_folder(predicted).items():
        volumes = volume_names([case_stem(item.image) for item in items], items[0].image.parent)
        for item in items:
            if item.sums is not None:
                # Files of one name in two subfolders are two cases.
                case = (folder / volumes[case_stem(item.image)]).as_posix()
                parts.setdefault(case, []).append(item.sums)
    return sorted((estimate_case(case, sums, basis) for case, sums in parts.items()), key=lambda case: case.dice)


def case_rows(cases: Sequence[CaseQuality], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The table as plain values by column, one row per case and class; what is not known is None.

    Args:
        cases: In the order of the rows.
        class_names: Background first.
    """
    rows = []
    for case in cases:
        sums = case.sums
        measured = {
            "confidence": sums.confidence(),
            "expected_dice": sums.expected_dice(),
            "consensus_dice": sums.consensus_dice(),
            "mean_entropy": sums.mean_entropy(),
            "uncertain_share": sums.uncertain_share(),
        }
        for k, estimate in enumerate(case.estimates, start=1):
            rows.append(
                {
                    "case": case.case,
                    "files": case.files,
                    "case_dice": round(case.dice, 4),
                    "class": k,
                    "name": class_names[k],
                    "dice": round(estimate.dice, 4),
                    "low": round(estimate.low, 4),
                    "high": round(estimate.high, 4),
                    "status": estimate.status,
                    **{name: round(float(values[k]), 4) for name, values in measured.items()},
                    "predicted_px": int(sums.predicted_px[k]),
                }
            )
    return without_nan(rows)


def write_cases(cases: Sequence[CaseQuality], class_names: Sequence[str], path: Path) -> None:
    """Write `cases.csv`, the rows of `case_rows`; what is not known is an empty field.

    Args:
        cases: In the order of the rows.
        class_names: Background first.
        path: The file; it appears whole or not at all.
    """
    rows = case_rows(cases, class_names)
    rounded = (
        {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    write_csv(path, CASE_COLUMNS, rounded)


def print_worst(
    cases: Sequence[CaseQuality], class_names: Sequence[str], basis: CalibrationStatus, console: Console | None = None
) -> None:
    """Print the worst cases, what their estimates rest on, and which of them are unreliable."""
    console = console or make_console()
    rows = []
    for case in cases[:SHOWN]:
        k, worst = min(enumerate(case.estimates, start=1), key=lambda pair: pair[1].dice)
        rows.append((case.case, f"{case.dice:.2f}", class_names[k], f"{worst.dice:.2f}", interval_text(worst)))
    headings = ("case", "mean", "worst class", "Dice", "interval")
    extent = "" if len(cases) <= SHOWN else f", {SHOWN} worst of {len(cases)}"
    console.print(make_table(headings, rows, f"Estimated Dice{extent}", names=(0, 2)))
    console.print(basis.sentence(), markup=False, soft_wrap=True)
    for status, words in (
        ("extrapolated", "less sure than any validation case: their estimates are extrapolated"),
        ("not_predicted", "without any pixel: their Dice is 1 or 0, and the estimate is the chance of 1"),
    ):
        number = sum(estimate.status == status for case in cases for estimate in case.estimates)
        if number:
            text = f"{number} of {sum(len(case.estimates) for case in cases)} predicted classes are {words}."
            console.print(text, markup=False, soft_wrap=True)


def interval_text(estimate: Estimate) -> str:
    """`"0.31 to 0.62"`; `"0 or 1"` for a class without pixels, `"none"` without calibration."""
    if estimate.status == "not_predicted":
        return "0 or 1"
    return "none" if math.isnan(estimate.low) else f"{estimate.low:.2f} to {estimate.high:.2f}"

"""How good is the estimated Dice? Measured on the validation cases of finished runs, and on the masks they never saw.

For each run: every validation group is estimated by a calibration without it (cross-fitting); then, where the run hid
masks from training (`--labelled`), the calibration from all validation cases estimates those unlabelled cases.

    python benchmarks/quality.py runs/a runs/b --out quality.json
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from knowsam.evaluation.scoring import score_cases
from knowsam.inference.forward import predict_all
from knowsam.reliability.assessment import Assessment, assess, cross_fit
from knowsam.reliability.calibration import CalibrationCase, estimate_without_calibration, fit_calibration
from knowsam.reliability.of_run import calibration_cases
from knowsam.runs.cases import Part, open_cases
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from knowsam.storage import without_nan, write_json

COLUMNS = ("cases", "rank, case", "rank, class", "error", "bias", "coverage", "width", "worst fifth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--out", type=Path, help="JSON file for every number")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    table = Table(title="Estimated against true Dice")
    table.add_column("run, cases")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    report = {}
    for run in arguments.runs:
        report[run.name] = assess_run(run, arguments.device)
        for name, (number, assessment) in report[run.name].items():
            table.add_row(f"{run.name}, {name}", str(number), *cells(assessment))
        table.add_section()
    console.print(table)
    if arguments.out:
        as_json = {
            run: {name: {"cases": n} | asdict(a) for name, (n, a) in rows.items()} for run, rows in report.items()
        }
        write_json(arguments.out, without_nan(as_json))


def assess_run(run: Path, device: str) -> dict[str, tuple[int, Assessment]]:
    """Name of an assessment -> number of cases, assessment."""
    validation = measure_part(run, "val", device)
    truth = [case.dice for case in validation]
    raw = [estimate_without_calibration(case.confidence, case.predicted) for case in validation]
    rows = {"validation, not calibrated": (len(validation), assess(raw, truth))}
    estimates = cross_fit(validation)
    if estimates is not None:
        rows["validation, cross-fitted"] = (len(validation), assess(estimates, truth))
    calibration, hidden = fit_calibration(validation), measure_part(run, "unlabelled", device)
    if calibration is not None and hidden:
        foretold = [calibration.estimate(case.confidence, case.predicted) for case in hidden]
        rows["hidden masks"] = (len(hidden), assess(foretold, [case.dice for case in hidden]))
    return rows


def measure_part(run: Path, part: Part, device: str) -> list[CalibrationCase]:
    """Confidence and true Dice of the validation or unlabelled cases of a run; none where a mask is missing."""
    folder = RunFolder(run)
    student, info = load_student(folder.student, device)
    opened = open_cases(folder, len(info.class_names))
    cases = opened.of(part)
    if any(case.label is None for case in cases):
        return []
    scored = score_cases(partial(predict_all, student), cases, info.preprocessing, opened.coding, device)
    return calibration_cases(list(scored))


def cells(found: Assessment) -> list[str]:
    """One row of the table."""
    ranks = " ".join(f"{rank:.2f}" for rank in found.rank_class)
    interval = ["none", "none"] if np.isnan(found.width) else [f"{found.coverage:.0%}", f"{found.width:.2f}"]
    share = f"{found.worst_fifth:.0%} of {found.worst_fifth_best:.0%} ({found.worst_fifth_random:.0%})"
    return [f"{found.rank_case:.2f}", ranks, f"{found.error:.3f}", f"{found.bias:+.3f}", *interval, share]


if __name__ == "__main__":
    main()

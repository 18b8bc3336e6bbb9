"""`report.html`: one self-contained page about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knowsam.errors import InputError
from knowsam.inference.predictor import Predictor
from knowsam.presentation.console import ProgressStart
from knowsam.reporting.baseline import find_baseline, given_baseline
from knowsam.reporting.cases import DataRecord, read_data
from knowsam.reporting.page import render
from knowsam.runs.record import read_run
from knowsam.storage import write_text


@dataclass(frozen=True)
class WrittenReport:
    """What `write_report` did.

    Attributes:
        path: The page.
        left_out: Why the parts that need the data folder are missing, one sentence; None where nothing is missing.
    """

    path: Path
    left_out: str | None


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    baseline: str | Path | None = None,
    progress: ProgressStart | None = None,
) -> WrittenReport:
    """Write the page about a run, finished or not.

    Args:
        run: The run's folder.
        out: The file to write, by default `report.html` in the run's folder.
        baseline: The supervised run to stand beside it; by default the one `find_baseline` finds in the same folder.
        progress: Called with the number of validation files; returns what to call after each.

    Returns:
        Where the page is, and what could not be shown: if the data folder has moved or changed, the page says so and
        goes without the cases.

    Raises:
        InputError: If there is no run or no measurement, or the baseline cannot be compared with.
    """
    record = read_run(run)
    path = record.folder.report if out is None else Path(out)
    if path.is_dir():
        raise InputError(f"{path}: a folder was found, but expected the name of a file to write; add report.html.")
    other = find_baseline(record) if baseline is None else given_baseline(record, baseline)
    predictor: Predictor | None = None
    data: DataRecord | None = None
    left_out = None
    try:
        predictor = Predictor(record.folder.path)
        data = read_data(record, predictor, progress)
    except InputError as error:
        left_out = str(error)
    write_text(path, render(record, other, predictor, data, left_out))
    return WrittenReport(path, left_out)

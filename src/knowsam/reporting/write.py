"""`report.html`: one self-contained page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from knowsam.errors import InputError
from knowsam.evaluation.scoring import ScoredVolume, score_cases
from knowsam.inference.forward import predict_all
from knowsam.presentation.console import ProgressStart
from knowsam.reporting.baseline import find_baseline, given_baseline
from knowsam.reporting.cases import DataRecord, summarise_data
from knowsam.reporting.page import KeptNetwork, render
from knowsam.runs.cases import RunCases, open_cases
from knowsam.runs.device import resolve_device
from knowsam.runs.folder import RunFolder
from knowsam.runs.record import read_run
from knowsam.runs.student_file import StudentInfo, find_student, load_student
from knowsam.storage import require_writable_file, write_text


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
    scored: tuple[RunCases, Sequence[ScoredVolume]] | None = None,
) -> WrittenReport:
    """Write the page about a run, finished or not.

    Args:
        run: The run's folder.
        out: The file to write, by default `report.html` in the run's folder.
        baseline: The supervised run to stand beside it; by default the one `find_baseline` finds in the same folder.
        progress: Called with the number of validation files; returns what to call after each.
        scored: The run's data and its validation cases as its kept network segments them, where they are known
            already, as at the end of training; by default they are read and predicted.

    Returns:
        Where the page is, and what could not be shown: if the data folder has moved or changed, the page says so and
        goes without the cases.

    Raises:
        InputError: If there is no run or no measurement, or the baseline cannot be compared with.
    """
    record = read_run(run)
    path = record.folder.report if out is None else Path(out)
    require_writable_file(path, "report.html")
    other = find_baseline(record) if baseline is None else given_baseline(record, baseline)
    network: KeptNetwork | None = None
    data: DataRecord | None = None
    left_out = None
    try:
        student, info = load_student(find_student(record.folder.path))
        network = KeptNetwork(info, sum(parameter.numel() for parameter in student.parameters()))
        data = summarise_data(*(scored or _score_validation(record.folder, student, info, progress)))
        page = render(record, other, network, data, None)
    except InputError as error:
        left_out = str(error)
        page = render(record, other, network, None, left_out)
    write_text(path, page)
    return WrittenReport(path, left_out)


def _score_validation(
    folder: RunFolder, student: nn.Module, info: StudentInfo, progress: ProgressStart | None
) -> tuple[RunCases, list[ScoredVolume]]:
    """Predict the validation cases of a run with its kept network, on a GPU where there is one."""
    cases = open_cases(folder, len(info.class_names))
    validation = cases.of("val")
    advance = None if progress is None else progress(len(validation))
    device = resolve_device()
    forward = partial(predict_all, student.to(device))
    return cases, list(score_cases(forward, validation, info.preprocessing, cases.coding, device, advance))

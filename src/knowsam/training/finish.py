"""The page at the end of a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from knowsam.evaluation.scoring import ScoredVolume
from knowsam.runs.cases import RunCases
from knowsam.runs.folder import RunFolder
from knowsam.training.display import TrainingDisplay


def report_at_end(
    folder: RunFolder, display: TrainingDisplay, scored: tuple[RunCases, Sequence[ScoredVolume]] | None
) -> str:
    """Write `report.html`; the run is done and saved, so that whatever goes wrong here is said and no more.

    Args:
        folder: The run.
        display: Shows the progress.
        scored: The run's data and its validation cases as its kept network segments them, if known.

    Returns:
        Where the page is, or why there is none.
    """
    from knowsam.reporting.write import write_report

    try:
        with display.reading("drawing the report") as progress:
            written = write_report(folder.path, progress=progress, scored=scored)
    except Exception as error:  # drawing is done by libraries that raise what they like
        reason = str(error) or type(error).__name__
        return f"not written ({reason}); the run itself is whole, try: knowsam report {shlex.quote(str(folder.path))}"
    return str(written.path) if written.left_out is None else f"{written.path}, without cases: {written.left_out}"

"""The end of a run: its page, what it may still lack, and how to go on where a file could not be written."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from knowsam.config import Config
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ScoredVolume
from knowsam.reliability.of_run import is_calibrated
from knowsam.runs.cases import RunCases
from knowsam.runs.checkpoint import CheckpointProgress, load_checkpoint, read_progress
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import is_taught_by, load_student
from knowsam.storage import reason_of
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


def lacking_files(folder: RunFolder, config: Config, progress: CheckpointProgress, validates: bool) -> list[Path]:
    """The files that a run whose steps are done still lacks, because it was killed at its end.

    Args:
        folder: The run.
        config: Its configuration.
        progress: Of its checkpoint.
        validates: Whether it has validation cases.
    """
    lacking = lacking_students(folder, progress, validates)
    if validates and folder.student not in lacking and not is_calibrated(folder.student):
        lacking.append(folder.calibration)
    if config.train.distil != "none" and not lacking and not is_distilled(folder):
        lacking.append(folder.distilled.student)
    if config.train.report and not _is_newer(folder.report, folder.checkpoint):
        lacking.append(folder.report)
    return lacking


def lacking_students(folder: RunFolder, progress: CheckpointProgress, validates: bool) -> list[Path]:
    """The students that are absent, broken, or older than those the checkpoint can give; arguments as above."""
    lacking = [] if _step_of(folder.student_last) == progress.step else [folder.student_last]
    kept = _step_of(folder.student)
    # With validation, the checkpoint holds the best network only where that is the last one.
    newest = not validates or progress.best_step == progress.step
    if kept is None or (newest and kept != progress.step):
        lacking.append(folder.student)
    return lacking


def is_distilled(run: RunFolder) -> bool:
    """Whether the run's distillation is done, and of the network that the run has now."""
    folder = run.distilled
    try:
        state = load_checkpoint(folder.checkpoint, mmap=str(folder.checkpoint).isprintable())
        whole = state["step"] == state["total"] and folder.student.exists()
    except (InputError, KeyError):
        return False
    return whole and is_taught_by(folder.path, run.student)


def _step_of(student: Path) -> int | None:
    """The step of a student; None where the file is absent or broken."""
    try:
        return load_student(student)[1].step
    except InputError:
        return None


def _is_newer(path: Path, than: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= than.stat().st_mtime_ns


def steps_are_done(folder: RunFolder, step: int, total: int) -> InputError:
    """The error about a run that has nothing left to do."""
    return InputError(
        f"{folder.path}: {step} of {total} steps are done; to train longer give a larger total, e.g."
        f" --steps {2 * step}."
    )


@contextmanager
def said_how_to_go_on(folder: RunFolder) -> Iterator[None]:
    """Within the block, an error of the system, such as a full disk, says what is kept and how the run goes on."""
    try:
        yield
    except OSError as error:
        try:
            kept = f"the checkpoint of step {read_progress(folder.checkpoint).step} is kept"
        except InputError:
            kept = "no checkpoint was written yet"
        raise InputError(
            f"{error.filename or folder.path}: could not be read or written ({reason_of(error)}), but expected to be;"
            f" {kept}: free space, or mend the path or its permissions, and go on with `knowsam train --resume"
            f" {shlex.quote(str(folder.path))}`."
        ) from error

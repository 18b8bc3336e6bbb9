"""From a run's validation cases to `calibration.json`, and back.

Training writes it with every student that it keeps; `knowsam calibrate RUN` does for older runs, or after a change of
the validation data. It belongs to the very weights it was measured with and says so by their checksum.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.evaluation.scoring import ScoredVolume, score_cases
from knowsam.inference.forward import predict_all
from knowsam.presentation.text import count_clause
from knowsam.reliability.assessment import Assessment, assess, cross_fit
from knowsam.reliability.calibration import INTERVAL_LEVEL, Calibration, CalibrationCase, fit_calibration
from knowsam.runs.cases import open_cases
from knowsam.runs.device import resolve_device
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import StudentInfo, load_student
from knowsam.storage import checksum, read_json, reason_of, without_nan, write_json

CALIBRATION_FORMAT = 1


@dataclass(frozen=True)
class CalibrationStatus:
    """What the estimates of a student rest on.

    Attributes:
        calibration: None where there is none; then `reason` says why.
        assessment: How good the estimates of the validation cases were by calibrations without their groups; None with
            too few groups.
        reason: Why there is no calibration, and what to do: one sentence.
    """

    calibration: Calibration | None
    assessment: Assessment | None = None
    reason: str = ""

    def sentence(self) -> str:
        """What a person must know before believing an estimate."""
        calibration, seen = self.calibration, self.assessment
        if calibration is None:
            return (
                f"Not calibrated: {self.reason} The Dice shown is the network's own confidence, which is usually"
                " too high; use it to rank cases, not as a score."
            )
        said = f"Dice estimated from {calibration.n_cases} validation cases ({calibration.n_groups} groups)."
        if seen is not None:
            said += (
                f" Of those, each estimated without its own group, {seen.coverage:.0%} lay in their"
                f" {INTERVAL_LEVEL:.0%} interval; rank correlation with the true Dice "
                f"{'undefined, all are alike' if math.isnan(seen.rank_case) else format(seen.rank_case, '.2f')}."
            )
        return said + " It holds for images like those; another scanner, protocol or disease can deceive it."


def calibration_cases(scored: Sequence[ScoredVolume]) -> list[CalibrationCase]:
    """How confident the network is of each scored case, beside its true Dice."""
    return [
        CalibrationCase(
            volume.name,
            volume.group,
            tuple(volume.sums.confidence()[1:].tolist()),
            tuple((volume.sums.predicted_px[1:] > 0).tolist()),
            tuple(volume.dice),
        )
        for volume in scored
    ]


def write_calibration(folder: RunFolder, info: StudentInfo, scored: Sequence[ScoredVolume]) -> CalibrationStatus:
    """Keep in the run what its validation cases say of its student.

    Args:
        folder: The run; its student file must be the network that was scored.
        info: What belongs to the student.
        scored: Its validation cases.
    """
    write_json(folder.calibration, _to_json(folder.student, info, calibration_cases(scored)))
    return load_calibration(folder.student)


def calibrate_run(run: str | Path, data: str | Path | None = None, device: str | None = None) -> CalibrationStatus:
    """Calibrate a run: predict its validation cases again and write `calibration.json`.

    Args:
        run: The run's folder.
        data: Where its data folder is now, if it was moved.
        device: As in `resolve_device`.

    Raises:
        InputError: No run, no data, no validation case, or classes that are not those of the student.
    """
    folder = RunFolder(Path(run))
    if not Split.read(folder.split).val:
        raise InputError(
            f"{folder.split}: no validation case was found, but expected some to calibrate on; train with"
            " data.val_fraction above 0 or a val.txt."
        )
    device = resolve_device(device)
    student, info = load_student(folder.student, device)
    cases = open_cases(folder, len(info.class_names), data)
    forward = partial(predict_all, student)
    scored = list(score_cases(forward, cases.of("val"), info.preprocessing, cases.coding, device))
    return write_calibration(folder, info, scored)


def load_calibration(student: Path) -> CalibrationStatus:
    """The calibration that lies beside a student file, if it is that student's.

    Raises:
        InputError: If `calibration.json` is no calibration.
    """
    path = student.with_name("calibration.json")
    advice = f"run `knowsam calibrate {shlex.quote(str(student.parent))}`."
    if not path.exists():
        return CalibrationStatus(None, None, f"there is no {path}; where the run and its data are, {advice}")
    values = read_json(path, f"delete it or {advice.rstrip('.')}")
    try:
        if values["format"] != CALIBRATION_FORMAT:
            raise ValueError(f"format {values['format']}")
        if values["student_sha256"] != checksum(student):
            return CalibrationStatus(None, None, f"{path} was measured with other weights; {advice}")
        if values["calibration"] is None:
            few = f"{count_clause(values['n_groups'], 'validation group', 'is', 'are')} too few."
            return CalibrationStatus(None, None, few)
        assessment = values["assessment"]
        return CalibrationStatus(
            _record(Calibration, values["calibration"]), assessment and _record(Assessment, assessment)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: no calibration could be read ({reason_of(error)}), but expected what `knowsam calibrate` writes;"
            f" delete it or {advice}"
        ) from error


def is_calibrated(student: Path) -> bool:
    """Whether the calibration beside a student file was measured with that very student."""
    path = student.with_name("calibration.json")
    try:
        return path.exists() and read_json(path, "").get("student_sha256") == checksum(student)
    except InputError:  # cut or broken: as good as none
        return False


def _to_json(student: Path, info: StudentInfo, cases: Sequence[CalibrationCase]) -> dict[str, Any]:
    calibration, estimates = fit_calibration(cases), cross_fit(cases)
    assessment = None if estimates is None else assess(estimates, [case.dice for case in cases])
    return {
        "format": CALIBRATION_FORMAT,
        "student_sha256": checksum(student),
        "student_step": info.step,
        "class_names": info.class_names[1:],
        "n_groups": len({case.group for case in cases}),
        "level": INTERVAL_LEVEL,
        "calibration": calibration and asdict(calibration),
        "assessment": assessment and without_nan(asdict(assessment)),
        "cases": [asdict(case) for case in cases],
    }


def _record(kind: Any, values: dict[str, Any]) -> Any:
    """A record from JSON: tuples for lists, NaN for null."""

    def number(value: Any) -> Any:
        return float("nan") if value is None else value

    return kind(**{k: tuple(map(number, v)) if isinstance(v, list) else number(v) for k, v in values.items()})

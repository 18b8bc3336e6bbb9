"""From a run's validation cases to `calibration.json`, and back.

Training writes it at its end; `knowsam calibrate RUN` does for older runs, interrupted ones, or after a change of the
validation data. It belongs to the very weights it was measured with and says so by their checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from knowsam.data.dataset import ScoringVolume, load_scoring_volumes
from knowsam.data.folder import scan_folder
from knowsam.data.labels import discover_coding
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.evaluation.metrics import confusion_counts, dice_from_counts
from knowsam.evaluation.scoring import SLICES_PER_PASS
from knowsam.functional.probabilities import most_probable_class, probabilities_at
from knowsam.functional.uncertainty import measure_uncertainty
from knowsam.inference.forward import predict_all
from knowsam.reliability.assessment import Assessment, assess, cross_fit
from knowsam.reliability.calibration import INTERVAL_LEVEL, Calibration, CalibrationCase, fit_calibration
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import StudentInfo, load_student
from knowsam.storage import without_nan, write_json

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


@torch.inference_mode()
def measure_volumes(
    student: torch.nn.Module,
    volumes: Sequence[ScoringVolume],
    classes: int,
    device: torch.device | str = "cpu",
    advance: Callable[[], None] | None = None,
) -> list[CalibrationCase]:
    """How confident a network is of its prediction, and its true Dice, for cases with a mask.

    Args:
        student: In evaluation mode, on `device`.
        volumes: The cases.
        classes: K, background included.
        device: Where the student is.
        advance: Called after each case.
    """
    measured = []
    for volume in volumes:
        sums, counts = [], np.zeros((3, classes), dtype=np.int64)
        for first in range(0, len(volume.images), SLICES_PER_PASS):
            image = volume.images[first : first + SLICES_PER_PASS].to(device).float()
            outputs = list(predict_all(student, image).values())
            for position, label in enumerate(volume.labels[first : first + SLICES_PER_PASS]):
                # One by one: the slices of a case may differ in native size.
                native = (label.shape[0], label.shape[1])
                probs, *students = (probabilities_at(logits[position, None], native) for logits in outputs)
                sums.append(measure_uncertainty(probs, students)[2])
                predicted = most_probable_class(probs)[0].cpu().numpy()
                counts += np.stack(confusion_counts(predicted, label.numpy(), classes))
        total = reduce(add, sums)
        measured.append(
            CalibrationCase(
                volume.name,
                volume.group or volume.name,
                tuple(total.confidence()[1:].tolist()),
                tuple((total.predicted_px[1:] > 0).tolist()),
                tuple(dice_from_counts(*counts)[1:].tolist()),
            )
        )
        if advance is not None:
            advance()
    return measured


def write_calibration(
    folder: RunFolder, volumes: Sequence[ScoringVolume], device: torch.device | str = "cpu"
) -> CalibrationStatus:
    """Measure the run's student on its validation cases and keep the result in the run."""
    student, info = load_student(folder.student, device)
    cases = measure_volumes(student, volumes, len(info.class_names), device)
    write_json(folder.calibration, _to_json(folder.student, info, cases))
    return load_calibration(folder.student)


def calibrate_run(run: str | Path, data: str | Path | None = None, device: str | None = None) -> CalibrationStatus:
    """Calibrate a finished run: read its validation cases again, measure, write `calibration.json`.

    Args:
        run: The run's folder.
        data: Where its data folder is now, if it was moved.
        device: `"cpu"`, `"cuda"`, or None for a GPU where there is one.

    Raises:
        InputError: No run, no data, no validation case, or classes that are not those of the student.
    """
    folder = RunFolder(Path(run))
    if not Split.read(folder.split).val:
        raise InputError(
            f"{folder.split}: no validation case was found, but expected some to calibrate on; train with"
            " data.val_fraction above 0 or a val.txt."
        )
    volumes = load_volumes_of_run(folder, data=data)
    return write_calibration(folder, volumes, device or ("cuda" if torch.cuda.is_available() else "cpu"))


def load_volumes_of_run(
    folder: RunFolder, part: Literal["val", "unlabelled", "test"] = "val", data: str | Path | None = None
) -> list[ScoringVolume]:
    """Read cases of a run with their masks.

    Args:
        folder: The run.
        part: Which cases of its split. `"unlabelled"`: those whose mask was there, but hidden from training.
        data: Where its data folder is now, if it was moved.

    Raises:
        InputError: No run, no data, a case without mask, or classes that are not those of the student.
    """
    config = folder.read_config()
    scanned, split = scan_folder(Path(data or config.data.path)), Split.read(folder.split)
    wanted: list[str] = getattr(split, part)
    absent = [stem for stem in [*split.labelled, *split.val, *wanted] if stem not in scanned.cases]
    if absent:
        raise InputError(
            f"{scanned.root}: {absent[0]} of the run's split is not there ({len(absent)} such images), but expected the"
            " data the run was trained on; name their folder with --data."
        )
    labelled, validation = ([scanned.cases[stem] for stem in stems] for stems in (split.labelled, split.val))
    given = config.data
    coding, _, _ = discover_coding(labelled, given.classes, given.label_values, given.ignore_value, also=validation)
    info = load_student(folder.student)[1]
    if coding.classes != len(info.class_names):
        raise InputError(
            f"{scanned.root}: masks of {coding.classes} classes were found, but expected {len(info.class_names)} as in"
            f" {folder.student}; restore the masks."
        )
    return load_scoring_volumes([scanned.cases[stem] for stem in wanted], info.preprocessing, coding)


def load_calibration(student: Path) -> CalibrationStatus:
    """The calibration that lies beside a student file, if it is that student's.

    Raises:
        InputError: If `calibration.json` is no calibration.
    """
    path = student.with_name("calibration.json")
    advice = f"run `knowsam calibrate {student.parent}`."
    if not path.exists():
        return CalibrationStatus(None, None, f"there is no {path}; where the run and its data are, {advice}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != CALIBRATION_FORMAT:
            raise ValueError(f"format {values['format']}")
        if values["student_sha256"] != checksum(student):
            return CalibrationStatus(None, None, f"{path} was measured with other weights; {advice}")
        if values["calibration"] is None:
            few = f"{values['n_groups']} validation groups are too few."
            return CalibrationStatus(None, None, few)
        assessment = values["assessment"]
        return CalibrationStatus(
            _record(Calibration, values["calibration"]), assessment and _record(Assessment, assessment)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no calibration could be read ({error}), but expected what `knowsam calibrate` writes; delete it"
            f" or {advice}"
        ) from error


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

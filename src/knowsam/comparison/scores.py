"""The scores of one run: every test case once, at native size, with the network that validation chose."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from knowsam.data.folder import Case, DataFolder
from knowsam.data.lists import grouped, natural_key, natural_sorted
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.evaluation.metrics import METRICS, ClassScore, ScoreStatus
from knowsam.presentation.text import count_clause
from knowsam.runs.folder import RunFolder
from knowsam.storage import plain_cell

Part = Literal["test", "validation"]
SCORES_FILE = "scores.csv"


def cases_to_score(folder: DataFolder, split: Split) -> tuple[Part, list[Case]]:
    """The cases of `test.txt` that have a mask; where there are none, those of validation.

    Raises:
        InputError: If there is neither.
    """
    test = [folder.cases[stem] for stem in split.test if folder.cases[stem].label is not None]
    if test:
        return "test", test
    if not split.val:
        raise InputError(
            f"{folder.root}: neither test nor validation images with masks were found, but expected some to score on;"
            " add test.txt, or set data.val_fraction above 0."
        )
    return "validation", [folder.cases[stem] for stem in split.val]


@dataclass(frozen=True)
class ScoredRun:
    """What a run's network scores.

    Attributes:
        part: On which images.
        result: An `EvaluationResult`: per case and class.
        groups: Case -> its group (usually the patient).
    """

    part: Part
    result: Any
    groups: dict[str, str]


def score_run(run: RunFolder) -> ScoredRun:
    """Predict and score with a run's `student.safetensors`, one volume in memory at a time.

    Raises:
        InputError: If the data no longer fit the run, or a mask is missing or broken.
    """
    import numpy as np
    import torch

    from knowsam.evaluation.evaluate import (
        absent_class_notes,
        common_unit,
        held_classes,
        leave_out_absent,
        score_arrays,
    )
    from knowsam.evaluation.metrics import summarise
    from knowsam.evaluation.result import EvaluationResult
    from knowsam.evaluation.scoring import score_cases
    from knowsam.inference.predictor import SLICES_PER_PASS, Predictor
    from knowsam.runs.cases import open_cases

    predictor = Predictor(run.path)
    opened = open_cases(run, predictor.classes)
    folder, split, coding = opened.folder, opened.split, opened.coding
    part, cases = cases_to_score(folder, split)
    by_volume = grouped(cases, lambda case: case.volume)
    ordered = [
        case
        for volume in natural_sorted(by_volume)
        for case in sorted(by_volume[volume], key=lambda case: natural_key(case.stem))
    ]
    # As `knowsam predict` does: full precision, few slices at a time.
    scored = score_cases(
        predictor.outputs,
        ordered,
        predictor.info.preprocessing,
        coding,
        dtype=torch.float32,
        slices_per_pass=SLICES_PER_PASS,
        keep_labels=True,
    )
    results, pixels = [], np.zeros(coding.classes, np.int64)
    for volume in scored:
        pixels += volume.pixels
        assert volume.label is not None  # both were asked for
        assert volume.truth is not None
        results.append(score_arrays(volume.name, [volume.label], [volume.truth], coding.classes, volume.spacing_mm))
    unscored = [stem for stem in split.test if folder.cases[stem].label is None] if part == "test" else []
    notes = []
    if unscored:
        said = count_clause(
            len(unscored), "image", "of the test list has no mask and was", "of the test list have no mask and were"
        )
        notes.append(f"{said} not scored.")
    held = held_classes(pixels)
    results = [leave_out_absent(one, held) for one in results]
    notes += absent_class_notes(results, coding.names, held)
    summary = summarise(score for result in results for score in result.scores)
    result = EvaluationResult(
        tuple(results), coding.names, common_unit(results), summary, (), tuple(unscored), tuple(notes)
    )
    return ScoredRun(part, result, {case.volume: case.group for case in cases})


def read_scores(path: Path) -> dict[str, tuple[ClassScore, ...]]:
    """Case -> its scores, one per foreground class, from the `scores.csv` of a cell.

    Raises:
        InputError: If the file is missing or broken.
    """
    cases: dict[str, list[ClassScore]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = {metric: float(row[metric]) if row[metric] else math.nan for metric in METRICS}
                status: Any = row["status"]
                if status not in get_args(ScoreStatus):
                    raise ValueError(f"status {status!r}")
                cases.setdefault(plain_cell(row["case"]), []).append(ClassScore(int(row["class"]), status, values))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no scores could be read ({error}), but expected what `knowsam compare` wrote; delete the folder"
            f" {path.parent} and repeat the command."
        ) from error
    return {case: tuple(scores) for case, scores in cases.items()}


def case_value(scores: Sequence[ClassScore], metric: str, class_index: int | None = None) -> float:
    """One metric of one case: of one class, or the mean over classes, NaN as soon as one is undefined.

    Classes that no truth of the set holds have no number and are left out of the mean.
    """
    counted = (score for score in scores if not score.is_left_out)
    values = [score[metric] for score in counted if class_index in (None, score.class_index)]
    return sum(values) / len(values) if values else math.nan

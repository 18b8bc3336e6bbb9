"""Scores of predicted label maps against true ones: per case and class, with every file accounted for.

Files are paired by stem. A 3-D file is one case; 2-D slices of one volume are stacked and are one case, too.
What is computed, in which unit, and what happens with empty masks: metrics.py and docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from knowsam.data.folder import volume_names
from knowsam.data.labels import LabelCoding, LabelSpec, class_counts, read_masks
from knowsam.data.listing import list_folder
from knowsam.data.lists import grouped, natural_key, natural_sorted
from knowsam.data.mask_names import NameRule, shared_rule
from knowsam.data.series import mask_stem, scan_series
from knowsam.errors import InputError
from knowsam.evaluation.codings import code_both
from knowsam.evaluation.metrics import case_scores, summarise
from knowsam.evaluation.result import CaseScores, EvaluationResult, write_scores
from knowsam.io import IMAGE_SUFFIXES, case_stem, read_label
from knowsam.io.alignment import NEAR_VOXELS, align, distance_voxels
from knowsam.io.names import EXTRA_SUFFIXES
from knowsam.presentation.text import count_text, first_few
from knowsam.types import MedicalLabel

ROUNDING_VOXELS = 2e-3
"""What float32 headers and decimal places lose of a place, in voxels."""


@dataclass(frozen=True)
class _Pair:
    """A prediction file and the truth file of the same stem."""

    stem: str
    prediction: Path
    truth: Path


def evaluate(
    predictions: Path | str,
    truth: Path | str,
    out: Path | str | None = None,
    *,
    classes: Sequence[str] | int | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
    mask_threshold: int | None = None,
    instances: bool = False,
    stray_share: float = 0.0,
    predictions_hold: str | None = None,
) -> EvaluationResult:
    """Score a folder of predicted label maps, or a single one.

    Args:
        predictions: A folder, or one file. What `predict` writes beside the label maps (`EXTRA_SUFFIXES`) is passed
            over.
        truth: A folder, or one file; a data folder stands for its `masks/` or `labels/`.
        out: Folder for `scores.csv` and `scores.json`; None writes nothing.
        classes: As in `LabelSpec`, like the five that follow: what is known of the values of the truth files.
        label_values: As in `LabelSpec`.
        ignore_value: As in `LabelSpec`; such pixels are not scored.
        mask_threshold: As in `LabelSpec`.
        instances: As in `LabelSpec`.
        stray_share: As in `LabelSpec`.
        predictions_hold: `"indices"` (of classes), `"values"` (of the truth files), or None: see `code_predictions`.

    Returns:
        All scores; distances in mm where the truth file states its spacing, else in px.

    Raises:
        InputError: Nothing matches, sizes or places differ, a value is no class, units are mixed, a file is broken.
    """
    predictions, truth = Path(predictions), _masks_of(Path(truth))
    pairs, no_prediction, no_truth, rule = _match(predictions, truth)
    spec = LabelSpec(classes, label_values, ignore_value, mask_threshold, instances, stray_share)
    expected = list(read_masks(pair.truth for pair in pairs))
    predicted = list(read_masks(pair.prediction for pair in pairs))
    truth_coding, prediction_coding, notes = code_both(expected, predicted, spec, predictions_hold)
    if rule is not None:
        notes.append(f"No truth has the name of a prediction, so all are paired by one rule: {rule}.")
    if no_prediction or no_truth:
        notes.append(
            f"{len(no_prediction)} truth files without a prediction and {len(no_truth)} predictions without "
            "a truth were not scored."
        )
    volumes = volume_names([*(pair.stem for pair in pairs), *no_prediction], truth)
    groups = grouped(pairs, lambda pair: volumes[pair.stem])
    for name in groups:
        absent = [stem for stem in no_prediction if volumes[stem] == name]
        if absent:
            notes.append(f"Volume {name} was scored without {first_few(absent)}: no prediction.")

    cases, moved = [], []
    for name in natural_sorted(groups):
        case, apart = _score_case(name, groups[name], truth_coding, prediction_coding)
        cases.append(case)
        if apart > ROUNDING_VOXELS:
            moved.append(name)
    if moved:
        notes.append(
            f"Prediction and truth lie up to half a voxel apart by their affines in {first_few(moved)}: scored voxel by"
            " voxel, with the spacing of the truth."
        )
    held = held_classes(class_counts(expected, truth_coding))
    cases = [leave_out_absent(case, held) for case in cases]
    notes += absent_class_notes(cases, truth_coding.names, held)
    result = EvaluationResult(
        tuple(cases),
        truth_coding.names,
        common_unit(cases),
        summarise(score for case in cases for score in case.scores),
        tuple(no_prediction),
        tuple(no_truth),
        tuple(notes),
    )
    if out is not None:
        write_scores(result, Path(out))
    return result


def _masks_of(truth: Path) -> Path:
    """The folder of masks of a data folder; any other folder or file as it is."""
    if not (truth / "images").is_dir():
        return truth
    found = [truth / name for name in ("masks", "labels") if (truth / name).is_dir()]
    if len(found) != 1:
        what = "both masks/ and labels/ were" if found else "neither masks/ nor labels/ was"
        raise InputError(f"{truth}: {what} found, but expected the true masks; give the folder that holds them.")
    return found[0]


def _match(predictions: Path, truth: Path) -> tuple[list[_Pair], list[str], list[str], NameRule | None]:
    """Pairs, truth without prediction, predictions without truth, in natural order; the rule if names are not equal."""
    if predictions.is_file() and truth.is_file():
        return [_Pair(case_stem(truth), predictions, truth)], [], [], None
    truth_files, prediction_files = _label_files(truth), _label_files(predictions)
    for stem in list(prediction_files):
        if stem.endswith(EXTRA_SUFFIXES) and stem not in truth_files:
            del prediction_files[stem]
    rule = None
    if not truth_files.keys() & prediction_files.keys():
        shared = shared_rule(prediction_files, truth_files)
        if shared is not None:
            rule, image_of = shared
            truth_files = {image_of[stem]: path for stem, path in truth_files.items()}
    common = natural_sorted(truth_files.keys() & prediction_files.keys())
    if not common:
        raise InputError(
            f"{predictions}: none of its {count_text(len(prediction_files), 'prediction')} "
            f"({first_few(prediction_files, 2)}) has the name of one of {count_text(len(truth_files), 'file')} "
            f"in {truth} ({first_few(truth_files, 2)}); "
            "expected equal names without suffix; rename one side."
        )
    return (
        [_Pair(stem, prediction_files[stem], truth_files[stem]) for stem in common],
        natural_sorted(truth_files.keys() - prediction_files.keys()),
        natural_sorted(prediction_files.keys() - truth_files.keys()),
        rule,
    )


def _label_files(place: Path) -> dict[str, Path]:
    """Stem -> file, of every readable file of a folder (not of its subfolders), or of one file."""
    if place.is_file():
        return {case_stem(place): place}
    if not place.is_dir():
        raise InputError(f"{place}: there is no such file or folder; expected label maps.")
    files: dict[str, Path] = {}
    # Masks of DICOM series may be named after their folders.
    named_after = scan_series(place.parent / "images").alone_in()
    for path in list_folder(place).images:
        stem = mask_stem(path, named_after)
        if stem in files:
            raise InputError(
                f"{path}: the same stem as {files[stem].name}; expected one label map per case; remove one."
            )
        files[stem] = path
    if not files:
        raise InputError(
            f"{place}: no label map lies in this folder; expected files ending in one of "
            f"{' '.join(IMAGE_SUFFIXES)}; give the folder that holds them."
        )
    return files


def _score_case(
    name: str, pairs: list[_Pair], truth_coding: LabelCoding, prediction_coding: LabelCoding
) -> tuple[CaseScores, float]:
    """The scores of one file, or of the stacked slices of one volume; and how many voxels the affines lie apart."""
    predicted: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    apart = 0.0
    spacing: tuple[float, ...] | None = None
    for pair in sorted(pairs, key=lambda pair: natural_key(pair.stem)):
        truth = read_label(pair.truth)
        prediction, shift = _aligned(read_label(pair.prediction), truth)
        if prediction.array.shape != truth.array.shape:
            raise InputError(
                f"{pair.prediction}: the prediction has shape {prediction.array.shape}, but its truth "
                f"{pair.truth} has {truth.array.shape}; expected the same; predict at native size."
            )
        first = expected[0].shape if expected else truth.array.shape
        if len(pairs) > 1 and (truth.array.ndim != 2 or truth.array.shape != first):
            raise InputError(
                f"{pair.truth}: shape {truth.array.shape}, but the first file of volume {name} has {first}; "
                "expected 2-D slices of one size; correct the file, or the volume column of groups.csv."
            )
        apart = max(apart, shift)
        spacing = truth.geometry.spacing_mm
        predicted.append(prediction_coding.encode(prediction))
        expected.append(truth_coding.encode(truth))
    return score_arrays(name, predicted, expected, truth_coding.classes, spacing), apart


def score_arrays(
    name: str,
    predicted: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    classes: int,
    spacing: tuple[float, ...] | None,
) -> CaseScores:
    """The scores of one case: of a single label map, or of the slices of one volume.

    Args:
        name: Of the case.
        predicted: One label map `(H, W)` or `(X, Y, Z)`, or several `(H, W)` of one size; class indices.
        expected: As `predicted`, or `IGNORE`.
        classes: K, background included.
        spacing: Of a single label map in mm, None for px.
    """
    if len(expected) == 1:
        prediction_array, truth_array = predicted[0], expected[0]
    else:
        # The distance between slices is stored nowhere; mm in the plane must not be mixed with voxels across.
        prediction_array, truth_array, spacing = np.stack(predicted), np.stack(expected), None
    if truth_array.ndim == 3 and 1 in truth_array.shape:
        # A volume one voxel thick is an image: in 3-D all of its voxels would be border, hence surface.
        axis = truth_array.shape.index(1)
        prediction_array, truth_array = prediction_array.squeeze(axis), truth_array.squeeze(axis)
        spacing = None if spacing is None else spacing[:axis] + spacing[axis + 1 :]
    scores = case_scores(prediction_array, truth_array, classes, spacing)
    return CaseScores(name, "px" if spacing is None else "mm", tuple(scores))


def _aligned(prediction: MedicalLabel, truth: MedicalLabel) -> tuple[MedicalLabel, float]:
    """The prediction in the axes of its truth, and how many voxels the two lie apart by their affines."""
    shift = distance_voxels(prediction, truth) or 0.0
    if shift > NEAR_VOXELS and prediction.array.shape == truth.array.shape:
        raise InputError(
            f"{prediction.path}: by its affine it lies up to {shift:.3g} voxels off its truth {truth.path}; expected"
            " the same place; resample it onto the truth, or give it the truth's header if only that is wrong."
        )
    return align(prediction, truth), shift


def held_classes(pixels: np.ndarray) -> frozenset[int]:
    """The foreground classes that the truth of a set holds at all.

    Args:
        pixels: `(K,)`, pixels of each class in all truth files.
    """
    return frozenset(int(index) for index in np.flatnonzero(pixels) if index > 0)


def leave_out_absent(case: CaseScores, held: frozenset[int]) -> CaseScores:
    """The case without numbers for classes that no truth of the set holds: neither found nor missed says anything."""
    scores = (score if score.class_index in held else score.left_out() for score in case.scores)
    return replace(case, scores=tuple(scores))


def absent_class_notes(cases: Sequence[CaseScores], names: Sequence[str], held: frozenset[int]) -> list[str]:
    """One sentence for each class that no truth holds, with the number of cases in which it was predicted."""
    notes = []
    for index in range(1, len(names)):
        if index not in held:
            alarms = sum(case.scores[index - 1].status == "false_alarm" for case in cases)
            notes.append(
                f"Class {index} ({names[index]}) is in no truth file: left out of the means; predicted in {alarms} of"
                f" {count_text(len(cases), 'case')}."
            )
    return notes


def common_unit(cases: Sequence[CaseScores]) -> str:
    """The unit of the distances of all cases.

    Raises:
        InputError: Some are in mm and some in px.
    """
    example = {case.unit: case.case for case in cases}
    if len(example) > 1:
        raise InputError(
            f"{example['mm']} has a spacing in mm and {example['px']} has none; expected one unit, since "
            "distances in mm and px have no common mean; evaluate them in two folders."
        )
    return cases[0].unit

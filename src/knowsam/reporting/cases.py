"""The validation cases looked at again with the kept network, one file at a time, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from knowsam.data.folder import Case, DataFolder, scan_folder
from knowsam.data.labels import LabelCoding, discover_coding
from knowsam.data.lists import grouped
from knowsam.data.pairing import check_pair
from knowsam.data.preprocess import to_unit_range
from knowsam.errors import InputError
from knowsam.evaluation.metrics import confusion_counts, dice_from_counts
from knowsam.functional.probabilities import probabilities_at
from knowsam.functional.uncertainty import entropy_share
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image, read_label
from knowsam.presentation.console import ProgressStart
from knowsam.presentation.orientation import view_of
from knowsam.presentation.text import size_summary
from knowsam.runs.record import RunRecord
from knowsam.types import IGNORE


@dataclass(frozen=True)
class CaseResult:
    """One validation volume (or picture) and how well it was segmented.

    Attributes:
        name: Its name.
        files: Its files, in order.
        dice: Dice of classes 1..K-1; 1 where both prediction and truth lack the class.
        slices: Number of slices of all files.
        file: Index of the file that holds the most telling slice: the one with most wrong pixels, of equals the one
            with most foreground.
        position: That slice's index within its file.
        number: That slice's number within the volume, from 1.
    """

    name: str
    files: tuple[Case, ...]
    dice: tuple[float, ...]
    slices: int
    file: int
    position: int
    number: int

    @property
    def mean(self) -> float:
        """Mean over the foreground classes."""
        return float(np.mean(self.dice))


@dataclass(frozen=True)
class SliceView:
    """The most telling slice of a case, at native size, turned as it is drawn.

    Attributes:
        picture: `(h, w, C)` float32 in [0, 1], C = 1 or 3.
        truth: `(h, w)` int64, class index or `IGNORE`.
        prediction: `(h, w)` int64.
        entropy: `(h, w)` float32, entropy of the class probabilities over its largest value log K: 0 certain, 1 a
            guess.
        radiological: It is turned as radiologists see it (`orientation.py`), because the file says how it lies.
    """

    picture: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    entropy: np.ndarray
    radiological: bool = False


@dataclass(frozen=True)
class SetSummary:
    """One of the sets of the split.

    Attributes:
        name: `"labelled"`, `"unlabelled"`, `"validation"` or `"test"`.
        images: Number of files.
        volumes: Number of volumes they make up.
        groups: Names of its groups, in order of first appearance.
        sizes: Native sizes in words, None where the files were not opened.
        shares: Share of each class in all its pixels with truth, None where the masks were not opened.
    """

    name: str
    images: int
    volumes: int
    groups: tuple[str, ...]
    sizes: str | None
    shares: tuple[float, ...] | None


@dataclass(frozen=True)
class DataRecord:
    """What is in the run's data folder, and how the network did on its validation cases."""

    sets: tuple[SetSummary, ...]
    cases: tuple[CaseResult, ...]
    coding: LabelCoding


def read_data(run: RunRecord, predictor: Predictor, progress: ProgressStart | None = None) -> DataRecord:
    """Open the labelled masks and the validation cases of a run's data folder, and score the latter.

    Args:
        run: The run.
        predictor: Its network.
        progress: Called with the number of files to predict; returns what to call after each.

    Raises:
        InputError: If the folder has moved or no longer fits the run.
    """
    folder = scan_folder(Path(run.config.data.path))
    sets = {"labelled": run.split.labelled, "unlabelled": run.split.unlabelled,
            "validation": run.split.val, "test": run.split.test}  # fmt: skip
    cases = {name: _cases_of(folder, stems) for name, stems in sets.items()}
    data = run.config.data
    coding, _, labelled_counts = discover_coding(
        cases["labelled"], data.classes, data.label_values, data.ignore_value, also=cases["validation"]
    )
    if coding.classes != predictor.classes:
        raise InputError(
            f"{folder.root}: masks of {coding.classes} classes were found, but expected {predictor.classes} as the"
            " network has; restore the data the run was trained on."
        )
    results, validation_counts, validation_sizes = _score_all(predictor, cases["validation"], coding, progress)
    labelled_sizes = [_label_shape(case) for case in cases["labelled"]]
    sizes = {"labelled": labelled_sizes, "validation": validation_sizes}
    counts = {"labelled": labelled_counts, "validation": validation_counts}
    summaries = [
        SetSummary(
            name, len(members), len({case.volume for case in members}), tuple(dict.fromkeys(c.group for c in members)),
            size_summary(sizes[name]) if sizes.get(name) else None,
            _shares(counts[name]) if name in counts else None,
        )
        for name, members in cases.items()
        if members
    ]  # fmt: skip
    return DataRecord(tuple(summaries), tuple(results), coding)


def _cases_of(folder: DataFolder, stems: Sequence[str]) -> list[Case]:
    missing = [stem for stem in stems if stem not in folder.cases]
    if missing:
        raise InputError(
            f"{folder.root}: {missing[0]} was not found ({len(missing)} of the run's images), but expected the folder"
            " the run was trained on; restore it."
        )
    return [folder.cases[stem] for stem in stems]


def _label_shape(case: Case) -> tuple[int, ...]:
    assert case.label is not None  # the coding was read from it
    return read_label(case.label).array.shape


def _shares(counts: np.ndarray) -> tuple[float, ...] | None:
    total = counts.sum()
    return tuple(float(count / total) for count in counts) if total else None


def _score_all(
    predictor: Predictor, cases: Sequence[Case], coding: LabelCoding, progress: ProgressStart | None
) -> tuple[list[CaseResult], np.ndarray, list[tuple[int, ...]]]:
    """Results by volume, pixels of each class `(K,)`, and every file's size."""
    advance = None if progress is None else progress(len(cases))
    results, sizes = [], []
    pixels = np.zeros(coding.classes, np.int64)
    for name, files in grouped(cases, lambda case: case.volume).items():
        counts = np.zeros((3, coding.classes), np.int64)
        slices, telling = 0, (-1, -1, 0, 0, 0)  # wrong pixels, foreground pixels, file, position, number
        for index, case in enumerate(files):
            prediction, truth = _predict(predictor, case, coding)
            sizes.append(truth.shape[1:] if len(truth) == 1 else truth.shape)
            counts += np.stack(confusion_counts(prediction, truth, coding.classes))
            wrong = ((prediction != truth) & (truth != IGNORE)).sum(axis=(1, 2))
            foreground = (truth > 0).sum(axis=(1, 2))
            for position in range(len(truth)):
                slices += 1
                here = (int(wrong[position]), int(foreground[position]), index, position, slices)
                telling = max(telling, here, key=lambda one: one[:2])
            if advance is not None:
                advance()
        pixels += counts[2]
        dice = tuple(float(value) for value in dice_from_counts(*counts)[1:])
        results.append(CaseResult(name, tuple(files), dice, slices, *telling[2:]))
    return results, pixels, sizes


def _predict(predictor: Predictor, case: Case, coding: LabelCoding) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth of one file, `(N, h, w)` int64 both."""
    if case.label is None:
        raise InputError(f"{case.image}: no mask was found, but expected one for a validation case; restore it.")
    image, label = read_image(case.image), read_label(case.label)
    check_pair(image, label)
    stack = predictor.info.preprocessing.label_slices
    predicted = predictor.predict(image).label.astype(np.int64)
    return stack(predicted, image).numpy(), stack(coding.encode(label), image).numpy()


@torch.inference_mode()
def view_slice(predictor: Predictor, result: CaseResult, coding: LabelCoding) -> SliceView:
    """The most telling slice of a case with everything that can be drawn of it."""
    case = result.files[result.file]
    preprocessing = predictor.info.preprocessing
    assert case.label is not None  # it was scored
    image = read_image(case.image)
    truth = preprocessing.label_slices(coding.encode(read_label(case.label)), image)[result.position].numpy()
    native = to_unit_range(image, preprocessing.normalise)
    axis = preprocessing.axis_of(image) if image.is_volume else None
    picture = native if axis is None else np.moveaxis(native, axis, 0)[result.position]
    # Of a volume one slice alone: its soft maps together could fill the memory.
    batch = preprocessing.slices(image)[result.position : result.position + 1].to(predictor.device)
    logits = predictor.student(batch.contiguous(memory_format=torch.channels_last))
    h, w = truth.shape
    probs = probabilities_at(logits, (h, w)).cpu()
    maps = picture, truth, probs[0].argmax(dim=0).numpy(), entropy_share(probs)[0].numpy()
    view = view_of(image, axis)
    picture, truth, prediction, entropy = map(view.turn, maps)
    return SliceView(picture, truth, prediction, entropy, view.known)

"""What the page shows of a run's data: its sets, its validation cases, and one slice of a case at native size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowsam.data.labels import LabelCoding
from knowsam.data.pairing import read_pair
from knowsam.data.preprocess import Preprocessing, to_unit_range
from knowsam.evaluation.scoring import ScoredVolume
from knowsam.presentation.orientation import view_of
from knowsam.presentation.text import size_summary
from knowsam.runs.cases import Part, RunCases


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
    """What is in the run's data folder, and how the network did on its validation cases.

    Attributes:
        sets: The parts of the split that have images.
        cases: The validation cases as the kept network segments them.
        coding: How mask values become classes.
    """

    sets: tuple[SetSummary, ...]
    cases: tuple[ScoredVolume, ...]
    coding: LabelCoding


def summarise_data(cases: RunCases, scored: Sequence[ScoredVolume]) -> DataRecord:
    """Put the parts of a run's data and its scored validation cases together; opens no file.

    Args:
        cases: The run's data folder.
        scored: Its validation cases.

    Raises:
        InputError: A case of the split is no longer in the folder.
    """
    parts: dict[str, Part] = {"labelled": "labelled", "unlabelled": "unlabelled", "validation": "val", "test": "test"}
    members = {name: cases.of(part) for name, part in parts.items()}
    sizes = {"labelled": cases.found.shapes, "validation": [shape for one in scored for shape in one.shapes]}
    pixels = {"labelled": cases.class_pixels}
    if scored:
        pixels["validation"] = np.sum([one.pixels for one in scored], axis=0)
    summaries = [
        SetSummary(
            name,
            len(found),
            len({case.volume for case in found}),
            tuple(dict.fromkeys(case.group for case in found)),
            size_summary(sizes[name]) if sizes.get(name) else None,
            _shares(pixels[name]) if name in pixels else None,
        )
        for name, found in members.items()
        if found
    ]
    return DataRecord(tuple(summaries), tuple(scored), cases.coding)


def _shares(counts: np.ndarray) -> tuple[float, ...] | None:
    total = counts.sum()
    return tuple(float(count / total) for count in counts) if total else None


def view_slice(scored: ScoredVolume, preprocessing: Preprocessing, coding: LabelCoding) -> SliceView:
    """Read the most telling slice of a case, for drawing it beside what the network said of it.

    Args:
        scored: The case.
        preprocessing: Which axis volumes are cut along, and how values become [0, 1].
        coding: How mask values become classes.

    Raises:
        InputError: Its files are gone or have changed.
    """
    telling = scored.telling
    case = scored.files[telling.file]
    assert case.label is not None  # it was scored
    image, label = read_pair(case.image, case.label)
    truth = preprocessing.label_slices(coding.encode(label), image)[telling.position].numpy()
    native = to_unit_range(image, preprocessing.normalise)
    axis = preprocessing.axis_of(image) if image.is_volume else None
    picture = native if axis is None else np.moveaxis(native, axis, 0)[telling.position]
    view = view_of(image, axis)
    maps = picture, truth, telling.prediction.astype(np.int64), telling.entropy.astype(np.float32)
    picture, truth, prediction, entropy = map(view.turn, maps)
    return SliceView(picture, truth, prediction, entropy, view.known)

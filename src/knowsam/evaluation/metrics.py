"""Scores of a predicted mask: Dice, Jaccard, HD95 and ASD, with a stated policy for empty masks.

Pure functions on numpy arrays, 2-D `(H, W)` or 3-D `(D, H, W)` / `(X, Y, Z)`; docs/metrics.md
says the same in prose.

| masks | Dice | Jaccard | HD95, ASD |
|---|---|---|---|
| both non-empty | 2 I / (P + T) | I / (P + T - I) | as defined below |
| both empty | 1 | 1 | 0 |
| one empty | 0 | 0 | NaN: undefined, counted, never dropped silently |

The surface of a mask is the mask minus its erosion by the face-connected cross (4 neighbours in 2-D, 6 in
3-D); a voxel at the border of the array has a neighbour outside the mask and so belongs to the surface.
Distances run from the centre of each surface voxel to the centre of the nearest surface voxel of the other
mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import ndimage

from knowsam.types import IGNORE

ScoreStatus = Literal["ok", "both_empty", "missed", "false_alarm"]


@dataclass(frozen=True)
class ClassScore:
    """How well one class of one case was segmented.

    Attributes:
        class_index: The class, from 1 (0 is the background and is not scored).
        status: `"ok"`: both masks non-empty; `"both_empty"`; `"missed"`: the truth has the class, the
            prediction does not; `"false_alarm"`: the prediction has it, the truth does not.
        values: Name of each entry of `METRICS` -> its value, NaN where undefined; `score["dice"]` for short.
    """

    class_index: int
    status: ScoreStatus
    values: dict[str, float]

    def __getitem__(self, metric: str) -> float:
        return self.values[metric]

    @property
    def is_left_out(self) -> bool:
        """Whether it has no number at all: no truth of the whole set holds the class."""
        return all(math.isnan(value) for value in self.values.values())

    def left_out(self) -> ClassScore:
        """The same without numbers."""
        return ClassScore(self.class_index, self.status, dict.fromkeys(self.values, math.nan))


@dataclass(frozen=True)
class Spread:
    """One metric of one class over the cases.

    Attributes:
        mean: Mean over the cases where the metric is defined; NaN where there is none.
        std: Standard deviation over the same cases (population formula, divided by their number).
        median: Median over the same cases.
        n_defined: Number of those cases.
        n_undefined: Number of the other cases. A distance means little without this number beside it.
    """

    mean: float
    std: float
    median: float
    n_defined: int
    n_undefined: int


@dataclass(frozen=True)
class ClassSummary:
    """All metrics of one class over the cases.

    Attributes:
        class_index: The class.
        n_cases: Number of cases.
        n_both_empty: Number of cases with this `ClassScore.status`.
        n_missed: The same.
        n_false_alarm: The same.
        spreads: Name of each entry of `METRICS` -> its spread; `summary["dice"]` for short.
    """

    class_index: int
    n_cases: int
    n_both_empty: int
    n_missed: int
    n_false_alarm: int
    spreads: dict[str, Spread]

    def __getitem__(self, metric: str) -> Spread:
        return self.spreads[metric]

    @property
    def is_left_out(self) -> bool:
        """Whether no case has a number: no truth of the whole set holds the class."""
        return not any(spread.n_defined for spread in self.spreads.values())


@dataclass(frozen=True)
class Summary:
    """The scores of a whole set.

    Attributes:
        classes: One entry per class, by class index.
        mean: Metric name -> mean of the per-class means. NaN as soon as one class has no defined case:
            leaving that class out would reward a model for never finding it. Classes that no truth holds are left out.
        n_undefined: Metric name -> number of undefined scores over all cases and those classes.
    """

    classes: tuple[ClassSummary, ...]
    mean: dict[str, float]
    n_undefined: dict[str, int]

    @property
    def counted(self) -> tuple[ClassSummary, ...]:
        """The classes that the means are taken over."""
        return tuple(entry for entry in self.classes if not entry.is_left_out)


class MaskPair:
    """Predicted and true mask of one class, and what the metrics need of both, computed once.

    Args:
        prediction: `(H, W)` or `(D, H, W)`, boolean.
        truth: As `prediction`.
        spacing: Distance of neighbouring voxels along each axis of the arrays; None for 1 along each (px).

    Raises:
        ValueError: The shapes differ or are not 2-D or 3-D.
    """

    def __init__(self, prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None) -> None:
        prediction, truth = np.asarray(prediction), np.asarray(truth)
        if prediction.shape != truth.shape or prediction.ndim not in (2, 3):
            raise ValueError(
                f"prediction {prediction.shape} and truth {truth.shape} must be masks of one shape, 2-D or 3-D"
            )
        self.prediction, self.truth, self.spacing = prediction.astype(bool), truth.astype(bool), spacing
        self.prediction_size = int(np.count_nonzero(self.prediction))
        self.truth_size = int(np.count_nonzero(self.truth))

    @cached_property
    def intersection(self) -> int:
        """Voxels that are in both masks."""
        return int(np.count_nonzero(self.prediction & self.truth))

    @property
    def union(self) -> int:
        """Voxels that are in at least one mask."""
        return self.prediction_size + self.truth_size - self.intersection

    @property
    def status(self) -> ScoreStatus:
        """Which of the masks are empty."""
        if self.prediction_size and self.truth_size:
            return "ok"
        if self.truth_size:
            return "missed"
        return "false_alarm" if self.prediction_size else "both_empty"

    @cached_property
    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """See `surface_distances`."""
        sampling = (1.0,) * self.truth.ndim if self.spacing is None else tuple(float(step) for step in self.spacing)
        if len(sampling) != self.truth.ndim or not all(math.isfinite(step) and step > 0 for step in sampling):
            raise ValueError(
                f"spacing {self.spacing} must hold one positive number for each of the {self.truth.ndim} axes"
            )
        if self.status != "ok":
            raise ValueError("surface distances need two non-empty masks")
        # Both surfaces lie inside the joint box and outside it both masks are empty, so the crop changes neither
        # a surface nor a distance; it only saves the transform of the (mostly empty) rest of a volume.
        box = _bounding_box(self.prediction | self.truth)
        prediction_surface, truth_surface = _surface(self.prediction[box]), _surface(self.truth[box])
        to_truth = ndimage.distance_transform_edt(~truth_surface, sampling=sampling)
        to_prediction = ndimage.distance_transform_edt(~prediction_surface, sampling=sampling)
        return to_truth[prediction_surface], to_prediction[truth_surface]


def _dice(pair: MaskPair) -> float:
    total = pair.prediction_size + pair.truth_size
    return 2 * pair.intersection / total if total else 1.0


def _jaccard(pair: MaskPair) -> float:
    return pair.intersection / pair.union if pair.union else 1.0


def _hd95(pair: MaskPair) -> float:
    if pair.status != "ok":
        return _distance_without_surface(pair)
    return float(np.percentile(np.concatenate(pair.distances), 95))


def _asd(pair: MaskPair) -> float:
    if pair.status != "ok":
        return _distance_without_surface(pair)
    to_truth, to_prediction = pair.distances
    return float((to_truth.mean() + to_prediction.mean()) / 2)


def _distance_without_surface(pair: MaskPair) -> float:
    """The policy for empty masks."""
    return 0.0 if pair.status == "both_empty" else math.nan


@dataclass(frozen=True)
class Metric:
    """One score of a class.

    Attributes:
        heading: Its name in tables.
        kind: `"share"`: in [0, 1], always defined; `"distance"`: in the unit of the spacing, undefined where one of the
            two masks is empty.
        formula: What computes it.
        definition: One line that travels with the numbers.
    """

    heading: str
    kind: Literal["share", "distance"]
    formula: Callable[[MaskPair], float]
    definition: str

    @property
    def digits(self) -> int:
        """Decimals in tables."""
        return 3 if self.kind == "share" else 2

    def title(self, unit: str) -> str:
        """The heading with the unit (`"mm"` or `"px"`) of what has one: `"HD95 [mm]"`."""
        return self.heading if self.kind == "share" else f"{self.heading} [{unit}]"


METRICS = {
    "dice": Metric("Dice", "share", _dice, "2 |P and T| / (|P| + |T|)"),
    "jaccard": Metric("Jaccard", "share", _jaccard, "|P and T| / |P or T|"),
    "hd95": Metric(
        "HD95",
        "distance",
        _hd95,
        "95th percentile of the pooled surface distances of both directions, linearly interpolated",
    ),
    "asd": Metric("ASD", "distance", _asd, "mean of the two directed mean surface distances"),
}
"""Every score: its name in files and records -> what it is. Files and tables have them in this order."""


def dice_score(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice similarity `2 I / (P + T)` of two masks.

    Args:
        prediction: `(H, W)` or `(D, H, W)`, boolean.
        truth: As `prediction`.

    Returns:
        In [0, 1]; 1 where both masks are empty, 0 where one is.

    Raises:
        ValueError: The shapes differ or are not 2-D or 3-D.
    """
    return _dice(MaskPair(prediction, truth))


def jaccard_score(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Jaccard index (intersection over union) of two masks; arguments, range, policy as for `dice_score`."""
    return _jaccard(MaskPair(prediction, truth))


def surface_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distances between the surfaces of two non-empty masks, in both directions.

    Args:
        prediction: `(H, W)` or `(D, H, W)`, boolean, non-empty.
        truth: As `prediction`.
        spacing: Distance of neighbouring voxels along each axis of the arrays; None for 1 along each (px).

    Returns:
        `(n_prediction,)` float64: from each surface voxel of the prediction to the truth's surface, and
        `(n_truth,)` float64: from each surface voxel of the truth to the prediction's. Both >= 0, in the unit
        of `spacing`.

    Raises:
        ValueError: A mask is empty (distances are undefined), the shapes differ, or the spacing does not fit.
    """
    return MaskPair(prediction, truth, spacing).distances


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds every True of a non-empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    """The mask minus its erosion by the face-connected cross; outside the array there is no mask."""
    cross = ndimage.generate_binary_structure(mask.ndim, 1)
    return mask & ~ndimage.binary_erosion(mask, cross, border_value=0)


def hd95(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """95th percentile of the surface distances of both directions, pooled.

    Pooling the two directions before the percentile is the convention of the tables of semi-supervised
    segmentation; the larger of the two directed percentiles, which others report, is usually larger. The
    percentile is interpolated linearly between neighbouring distances.

    Args:
        prediction: `(H, W)` or `(D, H, W)`, boolean.
        truth: As `prediction`.
        spacing: Distance of neighbouring voxels along each axis of the arrays; None for px.

    Returns:
        >= 0, in the unit of `spacing`; 0 where both masks are empty, NaN (undefined) where one is.

    Raises:
        ValueError: The shapes differ, or the spacing does not fit them.
    """
    return _hd95(MaskPair(prediction, truth, spacing))


def asd(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """Symmetric average surface distance: the mean of the two directed mean distances.

    The smaller surface thus weighs as much as the larger. Arguments, unit, policy and errors as for `hd95`.
    """
    return _asd(MaskPair(prediction, truth, spacing))


def confusion_counts(
    prediction: np.ndarray, truth: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the Dice of every class needs, as counts that can be added up over the slices of a volume.

    Args:
        prediction: Any shape, integer, class indices in [0, K).
        truth: As `prediction`, or `IGNORE`; ignored pixels are counted nowhere.
        classes: K, the background included.

    Returns:
        Intersection, size of the prediction and size of the truth, each `(K,)` int64, in pixels.

    Raises:
        ValueError: The shapes differ, or a value that counts is not a class index.
    """
    predicted, expected = _without_ignored(np.asarray(prediction), np.asarray(truth), classes)
    confusion = np.bincount(expected * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return np.diagonal(confusion).copy(), confusion.sum(axis=0), confusion.sum(axis=1)


def _without_ignored(prediction: np.ndarray, truth: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Class indices of the pixels that have a truth, `(n,)` int64 each, checked."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} must have one shape")
    valid = truth != IGNORE
    predicted, expected = prediction[valid].astype(np.int64), truth[valid].astype(np.int64)
    for name, values in (("prediction", predicted), ("truth", expected)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"the {name} holds values from {values.min()} to {values.max()}, "
                f"expected class indices from 0 to {classes - 1}"
            )
    return predicted, expected


def dice_from_counts(intersection: np.ndarray, prediction_size: np.ndarray, truth_size: np.ndarray) -> np.ndarray:
    """Dice of every class from (sums of) `confusion_counts`.

    Args:
        intersection: `(K,)`, in pixels.
        prediction_size: `(K,)`, in pixels.
        truth_size: `(K,)`, in pixels.

    Returns:
        `(K,)` float64 in [0, 1]; 1 where both masks are empty, as `dice_score`.
    """
    total = np.asarray(prediction_size) + np.asarray(truth_size)
    ones = np.ones(total.shape, dtype=np.float64)
    return np.divide(2 * np.asarray(intersection), total, out=ones, where=total > 0)


def case_scores(
    prediction: np.ndarray, truth: np.ndarray, classes: int, spacing: Sequence[float] | None = None
) -> list[ClassScore]:
    """Scores of every foreground class of one case (an image, or a whole volume).

    Ignored pixels are removed from both masks, so where an ignored region touches an object its edge counts
    as surface of both.

    Args:
        prediction: `(H, W)` or `(D, H, W)`, integer class indices in [0, K).
        truth: As `prediction`, or `IGNORE`.
        classes: K, the background included.
        spacing: Distance of neighbouring voxels along each axis of the arrays; None for px.

    Returns:
        One record for each of the classes 1 .. K-1, in that order.

    Raises:
        ValueError: The shapes differ, a value is not a class index, or the spacing does not fit.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    _without_ignored(prediction, truth, classes)  # for its errors
    valid = truth != IGNORE
    records = []
    for index in range(1, classes):
        pair = MaskPair((prediction == index) & valid, truth == index, spacing)
        values = {name: metric.formula(pair) for name, metric in METRICS.items()}
        records.append(ClassScore(index, pair.status, values))
    return records


def summarise(records: Iterable[ClassScore]) -> Summary:
    """Summary over cases: per class, and the mean over classes.

    Args:
        records: The records of all cases, in any order.

    Returns:
        Means over the cases where a metric is defined, with the number of the others beside each.

    Raises:
        ValueError: There is no record.
    """
    by_class: dict[int, list[ClassScore]] = {}
    for record in records:
        by_class.setdefault(record.class_index, []).append(record)
    if not by_class:
        raise ValueError("there is no score to summarise")
    classes = tuple(_summarise_class(index, by_class[index]) for index in sorted(by_class))
    spreads = {metric: [entry[metric] for entry in classes if not entry.is_left_out] for metric in METRICS}
    return Summary(
        classes,
        {metric: float(np.mean([spread.mean for spread in spreads[metric]] or [math.nan])) for metric in METRICS},
        {metric: sum(spread.n_undefined for spread in spreads[metric]) for metric in METRICS},
    )


def _summarise_class(index: int, records: list[ClassScore]) -> ClassSummary:
    statuses = [record.status for record in records]
    return ClassSummary(
        index,
        len(records),
        statuses.count("both_empty"),
        statuses.count("missed"),
        statuses.count("false_alarm"),
        {metric: _spread([record[metric] for record in records]) for metric in METRICS},
    )


def _spread(values: list[float]) -> Spread:
    scores = np.asarray(values, dtype=np.float64)
    defined = scores[~np.isnan(scores)]
    n_undefined = int(scores.size - defined.size)
    if not defined.size:
        return Spread(math.nan, math.nan, math.nan, 0, n_undefined)
    return Spread(
        float(defined.mean()), float(defined.std()), float(np.median(defined)), int(defined.size), n_undefined
    )

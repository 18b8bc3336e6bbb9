"""The one loop that predicts cases with a known mask and counts: validation, calibration, report and comparison use it.

Counts are taken at native size, each pixel of a volume once, and added over its slices, so that a volume's Dice is that
of the stacked volume without holding its probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowsam.data.dataset import ScoringVolume, scoring_volumes
from knowsam.data.folder import Case
from knowsam.data.labels import LabelCoding
from knowsam.data.preprocess import Preprocessing
from knowsam.evaluation.metrics import confusion_counts, dice_from_counts
from knowsam.functional.probabilities import most_probable_class, probabilities_at
from knowsam.functional.uncertainty import CaseSums, measure_uncertainty
from knowsam.presentation.console import Advance
from knowsam.types import IGNORE, SAM

Forward = Callable[[Tensor], dict[str, Tensor]]
"""Images `(B, C, H, W)` -> logits `(B, K, H, W)` by name, the prediction that is used first."""


@dataclass(frozen=True)
class TellingSlice:
    """The slice of a case that shows most of how it went: most wrong pixels, of equals most foreground.

    Attributes:
        file: Index of its file within the case.
        position: Its index within the file.
        number: Its number within the case, from 1.
        prediction: `(h, w)` class indices, uint8 or uint16.
        entropy: `(h, w)` float16 in [0, 1], entropy of the class probabilities over its largest value log K.
    """

    file: int
    position: int
    number: int
    prediction: np.ndarray
    entropy: np.ndarray


@dataclass(frozen=True)
class ScoredVolume:
    """How one case was segmented.

    Attributes:
        name: Its name.
        group: What a split keeps together: usually the patient.
        files: Its files, in order.
        shapes: Native shape of each file's slices: `(h, w)` of a picture, `(n, h, w)` of a volume.
        counts: Prediction -> `(3, K)` int64: intersection, size of the prediction, size of the truth, in pixels.
        sums: What the prediction in use says of its own reliability.
        telling: Its most telling slice.
        label: The prediction in use as `ScoringVolume.stacked` puts it together; None if it was not asked for.
        truth: The true label map in the same axes; None if it was not asked for.
        spacing_mm: Of these axes, None where it is not known.
    """

    name: str
    group: str
    files: tuple[Case, ...]
    shapes: tuple[tuple[int, ...], ...]
    counts: dict[str, np.ndarray]
    sums: CaseSums
    telling: TellingSlice
    label: np.ndarray | None = None
    truth: np.ndarray | None = None
    spacing_mm: tuple[float, ...] | None = None

    def dice_of(self, prediction: str) -> list[float]:
        """Dice of classes 1..K-1 of a prediction; 1 where both it and the truth lack the class."""
        return [float(value) for value in dice_from_counts(*self.counts[prediction])[1:]]

    @property
    def dice(self) -> list[float]:
        """Dice of classes 1..K-1 of the prediction in use."""
        return self.dice_of(next(iter(self.counts)))

    @property
    def mean(self) -> float:
        """Mean of `dice`."""
        return float(np.mean(self.dice))

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each class in the truth, `(K,)` int64; ignored ones are not counted."""
        return next(iter(self.counts.values()))[2]

    @property
    def slices(self) -> int:
        """Number of its slices."""
        return sum(shape[0] if len(shape) == 3 else 1 for shape in self.shapes)


def score_volumes(
    forward: Forward,
    volumes: Iterable[ScoringVolume],
    classes: int,
    device: torch.device | str = "cpu",
    slices_per_pass: int = 16,
    keep_labels: bool = False,
) -> Iterator[ScoredVolume]:
    """Predict every slice of every volume once and count, one volume after the other.

    Args:
        forward: The networks, in evaluation mode.
        volumes: What to score; of a generator one volume at a time is in memory.
        classes: K, background included.
        device: Where the networks are.
        slices_per_pass: Slices in one forward pass.
        keep_labels: Also keep each volume's label map and truth, for scores that need surfaces.

    Yields:
        One record per volume, in order.
    """
    for volume in volumes:
        yield _score(forward, volume, classes, device, slices_per_pass, keep_labels)


def score_cases(
    forward: Forward,
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    coding: LabelCoding,
    device: torch.device | str = "cpu",
    advance: Advance | None = None,
    dtype: torch.dtype = torch.float16,
    slices_per_pass: int = 16,
    keep_labels: bool = False,
) -> Iterator[ScoredVolume]:
    """Read cases with their masks, one volume in memory at a time, and score them.

    Args:
        forward: The networks, in evaluation mode.
        cases: In the order in which a volume's slices are put together.
        preprocessing: How their images become network input.
        coding: How their mask values become classes.
        device: Where the networks are.
        advance: Called after each file.
        dtype: Of the images before the network; half precision is what training validates on.
        slices_per_pass: As in `score_volumes`.
        keep_labels: As in `score_volumes`.

    Raises:
        InputError: As `scoring_volumes`.
    """
    volumes = scoring_volumes(cases, preprocessing, coding, advance, dtype)
    return score_volumes(forward, volumes, coding.classes, device, slices_per_pass, keep_labels)


@torch.inference_mode()
def _score(
    forward: Forward,
    volume: ScoringVolume,
    classes: int,
    device: torch.device | str,
    slices_per_pass: int,
    keep_labels: bool,
) -> ScoredVolume:
    counts: dict[str, np.ndarray] = {}
    sums: list[CaseSums] = []
    kept: list[np.ndarray] = []
    telling, worst = None, (-1, -1)
    places = _places(volume)
    for first in range(0, len(volume.images), slices_per_pass):
        image = volume.images[first : first + slices_per_pass].to(device).float()
        outputs = forward(image)
        used = next(iter(outputs))
        for index, label in enumerate(volume.labels[first : first + slices_per_pass]):
            # One by one: the slices of a case may differ in native size.
            native = (label.shape[0], label.shape[1])
            probs = {name: probabilities_at(logits[index, None], native) for name, logits in outputs.items()}
            predicted = {name: most_probable_class(p)[0].cpu().numpy() for name, p in probs.items()}
            truth = label.numpy()
            for name, array in predicted.items():
                found = np.stack(confusion_counts(array, truth, classes))
                counts[name] = counts[name] + found if name in counts else found
            students = [p for name, p in probs.items() if name not in (used, SAM)]
            entropy, _, measured = measure_uncertainty(probs[used], students)
            sums.append(measured)
            narrow = predicted[used].astype(np.uint8 if classes <= 256 else np.uint16)
            if keep_labels:
                kept.append(narrow)
            wrong = int(((predicted[used] != truth) & (truth != IGNORE)).sum())
            if (wrong, int((truth > 0).sum())) > worst:
                worst = wrong, int((truth > 0).sum())
                file, position = places[first + index]
                map_ = entropy[0].cpu().numpy().astype(np.float16)
                telling = TellingSlice(file, position, first + index + 1, narrow, map_)
    assert telling is not None  # a volume has at least one slice
    return ScoredVolume(
        volume.name,
        volume.group or volume.name,
        volume.files,
        _shapes(volume),
        counts,
        reduce(add, sums),
        telling,
        volume.stacked(kept) if keep_labels else None,
        volume.stacked([label.numpy() for label in volume.labels]) if keep_labels else None,
        volume.spacing_mm,
    )


def _places(volume: ScoringVolume) -> list[tuple[int, int]]:
    """File and position within it of every slice."""
    counts = volume.counts or (len(volume.labels),)
    return [(file, position) for file, count in enumerate(counts) for position in range(count)]


def _shapes(volume: ScoringVolume) -> tuple[tuple[int, ...], ...]:
    """Native shape of each file."""
    shapes: list[tuple[int, ...]] = []
    first = 0
    for count in volume.counts or (len(volume.labels),):
        shape = tuple(volume.labels[first].shape)
        shapes.append(shape if count == 1 else (count, *shape))
        first += count
    return tuple(shapes)


@dataclass
class ValidationScores:
    """Dice by prediction (`"fused"`, `"unet"`, ..., `"sam"`), in the method's order; the first is used.

    Attributes:
        per_volume: Prediction -> volume -> Dice of classes 1..K-1.
        held: For each of these classes whether the truth of any volume holds it. Those that none holds have no mean,
            unless there is no other class.
    """

    per_volume: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    held: tuple[bool, ...] = ()

    @classmethod
    def of(cls, scored: Sequence[ScoredVolume]) -> ValidationScores:
        """The scores of every prediction of some volumes; a class absent from prediction and truth counts as Dice 1."""
        scores = cls(held=tuple(bool(n) for n in np.sum([volume.pixels[1:] for volume in scored], axis=0)))
        for volume in scored:
            for name in volume.counts:
                scores.per_volume.setdefault(name, {})[volume.name] = volume.dice_of(name)
        return scores

    def mean(self, prediction: str | None = None) -> float:
        """Mean Dice over volumes and foreground classes of one prediction, by default the first."""
        return float(np.nanmean(self.per_class(prediction)))

    def per_class(self, prediction: str | None = None) -> list[float]:
        """Mean Dice over volumes of classes 1..K-1; NaN of those that no truth holds."""
        name = next(iter(self.per_volume)) if prediction is None else prediction
        return self._of_held(np.mean(list(self.per_volume[name].values()), axis=0))

    def _of_held(self, values: np.ndarray) -> list[float]:
        known = self.held if any(self.held) else [True] * len(values)
        return [float(value) if is_held else math.nan for value, is_held in zip(values, known, strict=True)]

    def case_means(self) -> dict[str, list[float]]:
        """Prediction -> mean Dice over classes of each volume, in the order of their names, which are left out."""
        return {
            name: [round(float(np.mean(dice)), 4) for _, dice in sorted(volumes.items())]
            for name, volumes in self.per_volume.items()
        }

    def to_json(self) -> dict[str, Any]:
        """`{prediction: {"dice": mean, "per_class": [...], "sd": [...], "volumes": n}}`; no `sd` of a single volume.

        A class that no truth holds has None.
        """
        record: dict[str, Any] = {}
        for name, volumes in self.per_volume.items():
            record[name] = {
                "dice": round(self.mean(name), 5),
                "per_class": _rounded(self.per_class(name)),
                "volumes": len(volumes),
            }
            if len(volumes) > 1:
                spread = np.std(list(volumes.values()), axis=0, ddof=1)
                record[name]["sd"] = _rounded(self._of_held(spread))
        return record


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 5) for value in values]

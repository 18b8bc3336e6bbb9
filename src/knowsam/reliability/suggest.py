"""What to label next: images of which the network is unsure, and which are unlike those labelled already.

Uncertainty alone picks ten neighbours of one hard case; diversity alone picks unusual images that the network segments
well. The rule multiplies the two: greedily, the candidate with the largest

    (1 - estimated Dice) * distance to the nearest of all labelled and chosen ones

where the distance is between mean activations of the network's deepest stage. Where files belong together (slices of a
volume, volumes of a patient) the candidate is the whole group, since groups are labelled and split as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.spatial.distance import pdist
from torch import Tensor, nn

from knowsam.data.folder import Case, scan_folder, volume_names
from knowsam.data.lists import grouped, natural_sorted
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.functional.uncertainty import CaseSums
from knowsam.inference.files import list_inputs
from knowsam.inference.predictor import Predictor
from knowsam.io import case_stem, read_image
from knowsam.networks import SegmentationNetwork
from knowsam.presentation.console import Advance, ProgressStart, start_progress
from knowsam.reliability.cases import estimate_case
from knowsam.reliability.of_run import CalibrationStatus, load_calibration
from knowsam.runs.folder import RunFolder

Rule = Literal["both", "uncertainty", "diversity"]

LIKE, UNLIKE = 0.5, 1.0
"""Limits between `resembles`, `not much like` and `unlike`, in units of the median distance of two candidates."""


@dataclass(frozen=True)
class Candidate:
    """An image or a group of images, and what the network says of it.

    Attributes:
        group: Its name: that of the group, or the stem of a single image.
        cases: Its files.
        dice: Estimated Dice, mean over classes and volumes.
        calibrated: False where that is the network's own confidence.
        disputed: Share of the foreground of any of the network's predictions on which they differ; NaN of a single one.
        entropy: Mean entropy of the predicted foreground, in [0, 1]; NaN where none was predicted.
        features: `(D,)` mean activation of the deepest stage over slices and pixels.
    """

    group: str
    cases: tuple[Case, ...]
    dice: float
    calibrated: bool
    disputed: float
    entropy: float
    features: np.ndarray


@dataclass(frozen=True)
class Suggestion:
    """What to label, and why.

    Attributes:
        candidate: The image or group.
        distance: To the nearest labelled or already chosen one, in units of the median distance between candidates;
            infinite for the first of all.
        nearest: Its name, None for the first of all.
        reason: In words.
    """

    candidate: Candidate
    distance: float
    nearest: str | None
    reason: str


def suggest(
    predictor: Predictor,
    data: str | Path,
    n: int = 10,
    rule: Rule = "both",
    progress: ProgressStart | None = None,
) -> list[Suggestion]:
    """Choose what to label next.

    Args:
        predictor: The trained student, of a run or alone.
        data: The run's own data folder: then everything outside its split's labelled, validation and test sets is a
            candidate; or another data folder, or a plain folder of images: then every image without a mask is.
        n: How many images or groups.
        rule: `"both"` as above; `"uncertainty"` or `"diversity"` alone, for comparison.
        progress: Called with the number of files to read; returns what to call after each.

    Returns:
        At most n, most useful first.

    Raises:
        InputError: There is nothing to choose from, or a file is broken.
    """
    if n < 1:
        raise InputError(f"-n: {n} was found, but expected at least 1; correct it.")
    unlabelled, labelled = find_candidates(predictor.path.parent, Path(data))
    basis, advance = load_calibration(predictor.path), start_progress(progress, len(unlabelled) + len(labelled))
    measured: list[list[Candidate]] = []
    for cases in (unlabelled, labelled):
        groups = grouped(cases, lambda case: case.group)
        measured.append([measure_candidate(predictor, groups[name], basis, advance) for name in natural_sorted(groups)])
    candidates, known = measured
    scale = _feature_scale([one.features for one in candidates + known])
    features = np.stack([one.features for one in candidates]) / scale
    taken = np.stack([one.features for one in known]) / scale if known else np.zeros((0, features.shape[1]))
    picks = choose_candidates(np.array([1 - one.dice for one in candidates]), features, n, taken, rule)
    names = [one.group for one in candidates + known]
    typical = _median_distance(features)
    suggestions = []
    for pick in picks:
        nearest = None if pick.nearest is None else names[pick.nearest]
        distance = pick.distance / typical
        candidate = candidates[pick.index]
        reason = describe(candidate, distance, nearest, pick.nearest is not None and pick.nearest < len(candidates))
        suggestions.append(Suggestion(candidate, distance, nearest, reason))
    return suggestions


@dataclass(frozen=True)
class Pick:
    """One choice of `choose_candidates`.

    Attributes:
        index: Of the candidate.
        distance: To the nearest taken or chosen before it; infinite where there is none.
        nearest: Its index: below N a candidate, from N on `taken[nearest - N]`; None where there is none.
    """

    index: int
    distance: float
    nearest: int | None


def choose_candidates(
    uncertainty: np.ndarray, features: np.ndarray, n: int, taken: np.ndarray, rule: Rule = "both"
) -> list[Pick]:
    """Greedy choice by `uncertainty * distance to the nearest taken or chosen`: k-centre, weighted.

    Args:
        uncertainty: `(N,)` >= 0.
        features: `(N, D)`.
        n: How many; fewer come back where there are fewer.
        taken: `(M, D)` features of what is labelled already. If M is 0, the first choice is the most uncertain one (by
            diversity alone: the one nearest to the mean).
        rule: `"uncertainty"` leaves the distance out, `"diversity"` the uncertainty.

    Returns:
        The choices in their order; of equals the first.
    """
    N = len(features)
    weight = np.ones(N) if rule == "diversity" else np.asarray(uncertainty, dtype=np.float64)
    distance, nearest = np.full(N, np.inf), np.full(N, -1)

    def take(point: np.ndarray, number: int) -> None:
        nonlocal distance, nearest
        new = np.linalg.norm(features - point, axis=1)
        nearest = np.where(new < distance, number, nearest)
        distance = np.minimum(distance, new)

    for number, point in enumerate(taken):
        take(point, N + number)
    picks: list[Pick] = []
    free = np.ones(N, dtype=bool)
    for _ in range(min(n, N)):
        if np.isinf(distance).all() and rule == "diversity":
            score = -np.linalg.norm(features - features.mean(axis=0), axis=1)
        elif rule == "uncertainty" or np.isinf(distance).all():
            score = weight
        else:
            score = weight * distance
        index = int(np.argmax(np.where(free, score, -np.inf)))
        picks.append(Pick(index, float(distance[index]), int(nearest[index]) if nearest[index] >= 0 else None))
        free[index] = False
        take(features[index], index)
    return picks


def find_candidates(run: Path, data: Path) -> tuple[list[Case], list[Case]]:
    """The cases to choose from, and the labelled ones to differ from.

    Args:
        run: Folder of the student; it need not be a run.
        data: A data folder, or a folder of images.

    Raises:
        InputError: There is nothing to choose from.
    """
    if not (data / "images").is_dir() and not (data / "data").is_dir():
        files = list_inputs(data)
        volumes = volume_names([case_stem(path) for path in files], data)
        return [
            Case(case_stem(path), path, None, volumes[case_stem(path)], volumes[case_stem(path)]) for path in files
        ], []
    split, config = _split_of(run, data), RunFolder(run).config
    # Groups are what they were for the run: patients that were told by their prefix are chosen whole.
    group_by = RunFolder(run).read_config().data.group_by if config.exists() else "name"
    folder = scan_folder(data, group_by=group_by)
    if split is None:
        labelled = [case for case in folder.cases.values() if case.label is not None]
        free = [case for case in folder.cases.values() if case.label is None]
    else:
        labelled = [folder.cases[stem] for stem in split.labelled if stem in folder.cases]
        held = {*split.labelled, *split.val, *split.test}
        # A mask in the unlabelled set was hidden on purpose if `data.labelled` was set; otherwise it was added later.
        hides = RunFolder(run).read_config().data.labelled is not None
        hidden = set(split.unlabelled) if hides else set()
        free = [case for stem, case in folder.cases.items() if stem not in held and (stem in hidden or not case.label)]
    # A group with a labelled image counts as labelled: its other images are labelled, or will be.
    groups = {case.group for case in labelled}
    free = [case for case in free if case.group not in groups]
    if not free:
        raise InputError(
            f"{data}: no unlabelled image was found, but expected some to choose from; add images to images/ or"
            " unlabelled/."
        )
    return free, labelled


def measure_candidate(
    predictor: Predictor, cases: Sequence[Case], basis: CalibrationStatus, advance: Advance
) -> Candidate:
    """Predict all files of a group and sum up what the network says of them."""
    by_volume: dict[str, list[CaseSums]] = {}
    seen: list[Tensor] = []
    with deepest_features(predictor.student, seen):
        for case in cases:
            unsure = predictor.predict(read_image(case.image), uncertainty=True).uncertainty
            assert unsure is not None  # it was asked for
            by_volume.setdefault(case.volume, []).append(unsure.sums)
            advance()
    dice = float(np.mean([estimate_case(name, parts, basis).dice for name, parts in by_volume.items()]))
    total = reduce(add, [sums for parts in by_volume.values() for sums in parts])
    foreground = total.predicted_px[1:].sum()
    entropy = float(total.entropy_px[1:].sum() / foreground) if foreground else math.nan
    features = torch.cat(seen).mean(dim=0).double().cpu().numpy()
    name = cases[0].group if len(cases) > 1 else cases[0].stem
    calibrated = basis.calibration is not None
    return Candidate(name, tuple(cases), dice, calibrated, total.disputed_share(), entropy, features)


@contextmanager
def deepest_features(student: Any, seen: list[Tensor]) -> Iterator[None]:
    """Within the block, add the mean activation of the deepest stage in each forward pass, `(B, D)`, to `seen`.

    A hook on `SegmentationNetwork.deepest_stage`, because what a network returns is its logits.

    Raises:
        InputError: If the network has no such stage, or the student is an ONNX file.
    """
    stage = student.deepest_stage() if isinstance(student, SegmentationNetwork) else None
    if stage is None:
        raise InputError(
            f"{type(student).__name__}: a network without encoder was found, but expected a U-Net or V-Net to compare"
            " images by; suggest with a student of `knowsam train`."
        )

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output.mean(dim=(2, 3)).float())

    handle = stage.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def describe(candidate: Candidate, distance: float, nearest: str | None, nearest_is_chosen: bool) -> str:
    """The reason for a choice, in words.

    Args:
        candidate: What was chosen.
        distance: To the nearest, in units of the median distance between candidates.
        nearest: Name of the nearest labelled or chosen one; None where there is none.
        nearest_is_chosen: True where it is one of the suggestions above.
    """
    words = [f"{'estimated Dice' if candidate.calibrated else 'confidence'} {candidate.dice:.2f}"]
    if math.isnan(candidate.entropy):
        words.append("nothing found in it")
    elif not math.isnan(candidate.disputed):
        words.append(f"the network's predictions disagree on {candidate.disputed:.0%} of the foreground")
    else:
        words.append(f"entropy of the foreground {candidate.entropy:.2f}")
    if nearest is None:
        words.append("the most uncertain of all")
    else:
        kind = "suggested" if nearest_is_chosen else "labelled"
        if distance < LIKE:
            words.append(f"resembles {nearest} ({kind})")
        else:
            likeness = "unlike" if distance >= UNLIKE else "not much like"
            words.append(f"{likeness} anything labelled or suggested (nearest: {nearest}, {kind})")
    return "; ".join(words)


def _split_of(run: Path, data: Path) -> Split | None:
    """The split of a run, if this is the run's data."""
    folder = RunFolder(run)
    if not folder.config.exists() or not folder.split.exists():
        return None
    return Split.read(folder.split) if Path(folder.read_config().data.path).resolve() == data.resolve() else None


def _feature_scale(features: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation of each feature; 1 where it is constant."""
    spread = np.std(features, axis=0)
    return np.where(spread > 1e-12, spread, 1.0)


def _median_distance(features: np.ndarray) -> float:
    """Median distance between two different candidates; 1 where that is 0 or there is one only."""
    distances = pdist(features)
    median = float(np.median(distances)) if len(distances) else 0.0
    return median or 1.0

"""The findings about axes: different slice axes, contradicting headers, orientation tags, classes told by side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from knowsam.data.axes import axes_sentence, majority_axis
from knowsam.inspection.examine import CaseFacts
from knowsam.inspection.findings import CheckReport
from knowsam.presentation.text import count_clause

MIRRORED, DIRECT = 0.5, 0.2
"""Two classes are each other's mirror image where their overlap is at least the first number once one is mirrored, and
at most the second as they are. Measured: left and right organs .85 and 0; on ACDC, WBC and hippocampus at most .48, or
more as they are."""

UNEQUAL = 2.0
"""Classes of which one is so many times larger are no mirror images."""

FEWEST_CASES = 2


def judge_axes(report: CheckReport) -> None:
    """Volumes to be cut along different axes, headers that contradict themselves, ambiguous orientation tags."""
    learned = set() if report.split is None else set(report.split.labelled)
    volumes = [one for one in report.examined if one.slice_axis is not None]
    votes, all_votes = [0, 0, 0], [0, 0, 0]
    for one in volumes:
        assert one.slice_axis is not None
        all_votes[one.slice_axis] += 1
        votes[one.slice_axis] += one.case.stem in learned
    axis = majority_axis(votes if any(votes) else all_votes)
    if sentence := axes_sentence(all_votes, axis):
        report.add(
            "warning",
            "slice-axes",
            sentence,
            "Set data.axis if another axis is meant: 0 sagittal, 1 coronal, 2 axial slices.",
            [one.case.stem for one in volumes if one.slice_axis != axis],
        )
    doubtful = [one for one in report.examined if one.doubt]
    if doubtful:
        said = count_clause(
            len(doubtful), "image", "has a header that contradicts itself", "have headers that contradict themselves"
        )
        report.add(
            "warning",
            "header",
            f"{said}.",
            "Find out which part is right; distances in mm depend on it.",
            [one.case.stem for one in doubtful],
            [f"{one.case.image.name} {one.doubt}." for one in doubtful],
        )
    either = [one.case.stem for one in report.examined if one.either_way]
    if either:
        report.add(
            "warning",
            "exif",
            f"{count_clause(len(either), 'image', 'carries', 'carry')} an orientation tag and"
            " the mask none, and both fit either way: the mask is taken to be drawn on the stored pixels.",
            "If it was drawn in a viewer, which turns such images, save the image turned and without the tag.",
            either,
        )


def judge_mirrored(report: CheckReport) -> None:
    """Pairs of foreground classes that are each other's mirror image, which random mirroring makes one."""
    if report.coding is None or report.split is None:
        return
    learned = set(report.split.labelled)
    cases = [one for one in report.examined if one.case.stem in learned and one.class_maps]
    names = dict(zip(report.coding.values, report.coding.names, strict=True))
    for first, second in combinations(report.coding.values[1:], 2):
        for flip, keeps in _mirroring(cases, first, second):
            report.add(
                "warning",
                "mirrored-classes",
                f"{names[first]} and {names[second]} (mask values {first} and {second}) mirror each other: training"
                f" may flip images ({flip}), after which they cannot be told apart.",
                f"If only their side tells them apart, set train.flip={keeps}; auto, the default of short runs, sees"
                " to it where they always lie in the same order.",
            )


def _mirroring(cases: list[CaseFacts], first: int, second: int) -> Iterator[tuple[str, str]]:
    """Of each kind of flip that makes one class the other: its name, and the value of `train.flip` without it."""
    both = [one for one in cases if first in one.class_maps and second in one.class_maps]
    if len(both) < FEWEST_CASES:
        return
    one = np.mean([case.class_maps[first] for case in both], axis=0)
    other = np.mean([case.class_maps[second] for case in both], axis=0)
    sizes = sorted((float(one.sum()), float(other.sum())))
    if sizes[1] > UNEQUAL * sizes[0] or _overlap(one, other) > DIRECT:
        return
    rows, columns = ("vertical", "horizontal"), ("horizontal", "vertical")
    sagittal = both[0].slice_axis == 0
    in_patient = both[0].oriented and both[0].slice_axis is not None
    if not sagittal and _overlap(one[::-1], other) >= MIRRORED:
        yield rows
    # Bodies are symmetric from left to right alone, which are the rows of a volume that says how it lies.
    if not in_patient and _overlap(one[:, ::-1], other) >= MIRRORED:
        yield columns


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two maps in [0, 1]."""
    return float(2 * np.minimum(one, other).sum() / (one.sum() + other.sum()))

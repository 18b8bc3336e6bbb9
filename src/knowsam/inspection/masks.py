"""The findings about masks: unreadable, of another size or place, of unknown values, empty; rare and absent classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from knowsam.data.labels import LabelCoding, class_counts, infer_coding
from knowsam.errors import InputError
from knowsam.inspection.examine import CaseFacts
from knowsam.inspection.findings import CheckReport, ClassCount
from knowsam.presentation.text import count_text, share_text

RARE_GROUPS = 3
"""A class in fewer labelled groups than this depends on single patients."""

RARE_SHARE = 1e-4
"""A class is small below this share of the labelled pixels: 6 px of a 256 x 256 image."""

NOT_OPENED = "(Training does not open this mask.)"


class LabelSpec(NamedTuple):
    """How mask values are to be understood, as in `discover_coding`."""

    classes: int | Sequence[str] | None
    label_values: Sequence[int] | None
    ignore_value: int | None


def judge_labels(report: CheckReport, spec: LabelSpec) -> None:
    """Masks that cannot be read or do not fit; values that are no class; empty masks; rare and absent classes."""
    split = report.split
    opened = {one.case.stem for one in report.examined}
    if split is not None:
        opened = {*split.labelled, *split.val}
    faulty = [(one, one.label_error) for one in report.examined if one.label_error]
    _faulty_masks(
        report,
        "unfit-mask",
        ("cannot be used", "cannot be used"),
        faulty,
        opened,
        "Correct or export them again, or remove them.",
    )
    displaced = [one.case.stem for one in report.examined if one.displaced]
    if displaced:
        report.add(
            "warning",
            "displaced",
            f"{count_text(len(displaced), 'mask')} {'lies' if len(displaced) == 1 else 'lie'} elsewhere than "
            "the image by their affines; they are paired voxel by voxel all the same.",
            "Resample the masks onto their images, or correct the headers.",
            displaced,
        )
    readable = [one for one in report.examined if one.values is not None]
    if not readable or split is None:
        return
    learned, validated = set(split.labelled), set(split.val)
    coding = _infer(report, [one for one in readable if one.case.stem in learned | validated], spec)
    if coding is None:
        return
    report.coding = coding
    strange = []
    for one in readable:
        if one.case.label is not None and one.values is not None:
            strange.append((one, coding.problem(one.case.label, one.values) or ""))
    _faulty_masks(
        report,
        "unknown-values",
        ("has values that are no class", "have values that are no class"),
        [pair for pair in strange if pair[1]],
        opened,
        "Correct the masks, or say what their values mean: --classes, --label-values or --ignore-value.",
    )
    training = [one for one in readable if one.case.stem in learned]
    validation = [one for one in readable if one.case.stem in validated]
    report.classes = _count_classes(coding, training, validation)
    _judge_classes(report, training, bool(validation))
    _judge_empty(report, coding, readable, learned)


def _faulty_masks(
    report: CheckReport,
    kind: str,
    says: tuple[str, str],
    faulty: list[tuple[CaseFacts, str]],
    opened: set[str],
    suggestion: str,
) -> None:
    """An error for the masks that training opens, a warning for the hidden ones and those of the test images."""
    ours = [pair for pair in faulty if pair[0].case.stem in opened]
    others = [pair for pair in faulty if pair[0].case.stem not in opened]
    if ours:
        report.add(
            "error",
            kind,
            f"{count_text(len(ours), 'mask')} {says[len(ours) > 1]}.",
            suggestion,
            [one.case.stem for one, _ in ours],
            [said for _, said in ours],
        )
    if others:
        report.add(
            "warning",
            kind,
            f"{count_text(len(others), 'mask')} {says[len(others) > 1]}, hidden from training or of the test images.",
            suggestion,
            [one.case.stem for one, _ in others],
            [f"{said} {NOT_OPENED}" for _, said in others],
        )


def _infer(report: CheckReport, examined: list[CaseFacts], spec: LabelSpec) -> LabelCoding | None:
    """The coding training would find; where it finds none, the error is reported and None returned."""
    first_seen: dict[int, Path] = {}
    for one in examined:
        for value in one.values or {}:
            if one.case.label is not None:
                first_seen.setdefault(value, one.case.label)
    if not first_seen:
        return None
    try:
        coding, notes = infer_coding(first_seen, *spec)
    except InputError as error:
        given = None if spec.classes is None and spec.label_values is None else _coding_of_spec(spec)
        if given is None:
            report.add_sentence("error", "classes", str(error))
        return given
    for note in notes:
        report.add("note", "classes", note)
    return coding


def _coding_of_spec(spec: LabelSpec) -> LabelCoding | None:
    """The coding that the settings alone give: with it every mask that does not fit can be named."""
    try:
        return infer_coding({}, *spec)[0]
    except InputError:
        return None  # The settings contradict each other; the caller reports that error.


def _count_classes(coding: LabelCoding, training: list[CaseFacts], validation: list[CaseFacts]) -> list[ClassCount]:
    total = class_counts((one.values for one in training if one.values), coding)
    pixels = int(total.sum())
    counted = []
    for name, value, number in zip(coding.names, coding.values, total.tolist(), strict=True):
        showing = [one for one in training if one.values and value in one.values]
        counted.append(
            ClassCount(
                name,
                value,
                round(number / pixels, 7) if pixels else 0.0,
                len(showing),
                len({one.case.group for one in showing}),
                sum(value in (one.values or {}) for one in validation),
            )
        )
    return counted


def _judge_classes(report: CheckReport, training: list[CaseFacts], has_validation: bool) -> None:
    """Foreground classes that are absent, rare, or not to be validated."""
    n_groups = len({one.case.group for one in training})
    for index, one in enumerate(report.classes):
        said = f"Class {index} ({one.name}, mask value {one.value})"
        if one.images == 0:
            report.add(
                "warning",
                "absent-class",
                f"{said} never occurs in the labelled set: it cannot be learned.",
                "Label an image that shows it, or leave the class out.",
            )
            continue
        if index == 0:
            continue
        if one.groups < RARE_GROUPS and 2 * one.groups <= n_groups:
            report.add(
                "warning",
                "rare-class",
                f"{said} occurs in {one.groups} of {n_groups} labelled groups ({count_text(one.images, 'image')}).",
                f"Label more groups that show it, at least {RARE_GROUPS}.",
            )
        if one.pixel_share < RARE_SHARE:
            report.add(
                "warning",
                "small-class",
                f"{said} covers {share_text(one.pixel_share)} of the labelled pixels.",
                "Train at a larger --size, or cut the images to the region of interest.",
            )
        if has_validation and one.val_images == 0:
            report.add(
                "warning",
                "unvalidated-class",
                f"{said} occurs in no validation image: its validation Dice will say nothing.",
                "Put a group that shows it into val.txt.",
            )


def _judge_empty(report: CheckReport, coding: LabelCoding, readable: list[CaseFacts], learned: set[str]) -> None:
    ignored = {coding.values[0], coding.ignore_value}
    empty = [one.case.stem for one in readable if one.values is not None and set(one.values) <= ignored]
    report.counts["masks with background only"] = len(empty)
    in_training = [stem for stem in empty if stem in learned]
    if len(in_training) > len(learned) / 2:
        report.add(
            "warning",
            "empty-masks",
            f"{len(in_training)} of {len(learned)} labelled training images show background only: they teach little.",
            "Label more images that show the object.",
            in_training,
        )
    elif empty:
        report.add(
            "note",
            "empty-masks",
            f"{count_text(len(empty), 'mask')} {'shows' if len(empty) == 1 else 'show'} background only: read as "
            "'nothing to see here', not as 'not annotated yet'.",
            "Remove those that nobody has annotated: an image without a mask is unlabelled.",
            empty,
        )

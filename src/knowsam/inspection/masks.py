"""The findings about masks: unreadable, of another size or place, of unknown values, empty; rare and absent classes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from knowsam.data.discover import infer_coding, palette_notes
from knowsam.data.labels import NO_CLASS, LabelCoding, LabelSpec, class_counts, values_text
from knowsam.data.mask_values import MaskFacts
from knowsam.errors import InputError
from knowsam.inspection.examine import CaseFacts
from knowsam.inspection.findings import CheckReport, ClassCount, ValueCount
from knowsam.presentation.text import count_clause, count_text, share_text
from knowsam.types import IGNORE

RARE_GROUPS = 3
"""A class in fewer labelled groups than this depends on single patients."""

RARE_SHARE = 1e-4
"""A class is small below this share of the labelled pixels: 6 px of a 256 x 256 image."""

MOST_VALUES = 12
"""Number of mask values up to which each has a row of its own."""

NOT_OPENED = "(Training does not open this mask.)"


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
            f"{count_clause(len(displaced), 'mask', 'lies', 'lie')} elsewhere than "
            "the image by their affines; they are paired voxel by voxel all the same.",
            "Resample the masks onto their images, or correct the headers.",
            displaced,
        )
    readable = [one for one in report.examined if one.mask is not None]
    if not readable or split is None:
        return
    learned, validated = set(split.labelled), set(split.val)
    used = _masks(one for one in readable if one.case.stem in learned | validated)
    coding = report.coding = _infer(report, used, spec)
    report.values = count_values(_masks(readable), coding)
    if coding is None:
        return
    unknown = [(one, coding.problem(one.mask) or "") for one in readable if one.mask is not None]
    _faulty_masks(
        report,
        "unknown-values",
        ("has values that are no class", "have values that are no class"),
        [pair for pair in unknown if pair[1]],
        opened,
        "Correct the masks, or say what their values mean (docs/masks.md).",
    )
    training = [one for one in readable if one.case.stem in learned]
    validation = [one for one in readable if one.case.stem in validated]
    report.classes = _count_classes(coding, training, validation)
    _judge_classes(report, training, bool(validation))
    _judge_empty(report, coding, readable, learned)


def _faulty_masks(
    report: CheckReport,
    kind: str,
    verbs: tuple[str, str],
    faulty: list[tuple[CaseFacts, str]],
    opened: set[str],
    suggestion: str,
) -> None:
    """An error for the masks that training opens, a warning for the hidden ones and those of the test images."""
    used = [pair for pair in faulty if pair[0].case.stem in opened]
    unused = [pair for pair in faulty if pair[0].case.stem not in opened]
    if used:
        report.add(
            "error",
            kind,
            f"{count_text(len(used), 'mask')} {verbs[len(used) > 1]}.",
            suggestion,
            [one.case.stem for one, _ in used],
            [said for _, said in used],
        )
    if unused:
        report.add(
            "warning",
            kind,
            f"{count_text(len(unused), 'mask')} {verbs[len(unused) > 1]}, hidden from training or of the test images.",
            suggestion,
            [one.case.stem for one, _ in unused],
            [f"{said} {NOT_OPENED}" for _, said in unused],
        )


def _infer(report: CheckReport, masks: list[MaskFacts], spec: LabelSpec) -> LabelCoding | None:
    """The coding training would find; where it finds none, the error is reported and None returned."""
    if not masks:
        return None
    try:
        coding, notes = infer_coding(masks, spec)
    except InputError as error:
        given = None if spec.is_free else _coding_of_spec(spec)
        if given is None or not any(given.problem(mask) for mask in masks):
            report.add_sentence("error", "classes", str(error))
        return given
    differing = palette_notes(masks)[1:]
    for note in notes:
        report.add("warning" if note in differing else "note", "classes", note)
    return coding


def _coding_of_spec(spec: LabelSpec) -> LabelCoding | None:
    """The coding that the settings alone give: with it every mask that does not fit can be named."""
    try:
        return infer_coding([], spec)[0]
    except InputError:
        return None  # The settings contradict each other; the caller reports that error.


def _masks(cases: Iterable[CaseFacts]) -> list[MaskFacts]:
    return [one.mask for one in cases if one.mask is not None]


def count_values(masks: list[MaskFacts], coding: LabelCoding | None) -> list[ValueCount]:
    """Each value that occurs in any mask: what it means, how many pixels and masks have it; ascending.

    Neighbouring values of one meaning are put together where there are more than `MOST_VALUES`.

    Args:
        masks: All masks that can be read.
        coding: What the values mean; None where nobody knows.
    """
    names = {} if coding is None else {IGNORE: "ignored", NO_CLASS: "no class"} | dict(enumerate(coding.names))
    # The same value may mean two things: 1 in a mask of one bit is what 255 is in others.
    found: dict[tuple[int, str], tuple[int, set[int]]] = {}
    for number, mask in enumerate(masks):
        meanings = dict.fromkeys(mask.counts, NO_CLASS) if coding is None else coding.classes_in(mask)
        for value, index in meanings.items():
            pixels, having = found.get((value, names.get(index, "?")), (0, set()))
            found[value, names.get(index, "?")] = pixels + mask.counts[value], having | {number}
    many = len(found) > MOST_VALUES
    rows = []
    for _, group in groupby(sorted(found.items()), key=lambda item: item[0][1] if many else item[0]):
        same = list(group)
        values = [value for (value, _), _ in same]
        files = set().union(*(having for _, (_, having) in same))
        rows.append(ValueCount(values[0], values[-1], same[0][0][1], sum(px for _, (px, _) in same), len(files)))
    return rows


def _count_classes(coding: LabelCoding, training: list[CaseFacts], validation: list[CaseFacts]) -> list[ClassCount]:
    total = class_counts(_masks(training), coding)
    pixels = int(total.sum())
    counted = []
    for index, (name, number) in enumerate(zip(coding.names, total.tolist(), strict=True)):
        showing = [one for one in training if index in _shown(coding, one)]
        values = [value for mask in _masks(training) for value, of in coding.classes_in(mask).items() if of == index]
        counted.append(
            ClassCount(
                name,
                coding.values[index],
                round(number / pixels, 7) if pixels else 0.0,
                len(showing),
                len({one.case.group for one in showing}),
                sum(index in _shown(coding, one) for one in validation),
                values_text(coding, index, values),
            )
        )
    return counted


def _shown(coding: LabelCoding, one: CaseFacts) -> set[int]:
    """The classes that a mask shows."""
    return set() if one.mask is None else set(coding.classes_in(one.mask).values())


def _judge_classes(report: CheckReport, training: list[CaseFacts], has_validation: bool) -> None:
    """Foreground classes that are absent, rare, or not to be validated."""
    n_groups = len({one.case.group for one in training})
    for index, one in enumerate(report.classes):
        said = f"Class {index} ({one.name}, mask value {one.values})"
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
    empty = [one.case.stem for one in readable if _shown(coding, one) <= {0, IGNORE}]
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
            f"{count_clause(len(empty), 'mask', 'shows', 'show')} background only: read as "
            "'nothing to see here', not as 'not annotated yet'.",
            "Remove those that nobody has annotated: an image without a mask is unlabelled.",
            empty,
        )

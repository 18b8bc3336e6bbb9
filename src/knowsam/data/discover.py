"""From the values that occur in the masks of a set to what they mean: one policy, docs/masks.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from knowsam.data import label_messages
from knowsam.data.folder import Case
from knowsam.data.labels import NOTHING_SAID, LabelCoding, LabelSpec, absent_notes, class_counts, read_masks
from knowsam.data.mask_values import (
    GREY_FROM,
    MOST_CLASSES,
    RARE,
    MaskFacts,
    main_values,
    numbers_objects,
    total,
    two_groups,
)
from knowsam.errors import InputError
from knowsam.presentation.text import count_text, first_few, share_text

NOTE_255 = "Mask values 0 and 255 are read as classes 0 and 1."

LEAST_OBJECT = 32
"""A JPEG mask whose largest value is below this shows no white object, only what compression adds to black."""


@dataclass(frozen=True)
class FoundCoding:
    """What the masks of a set say.

    Attributes:
        coding: The meaning of their values.
        notes: Sentences for the user.
        pixels: `(K,)` int64, pixels of each class in the labelled cases.
        shapes: Spatial shape of each labelled mask, in order.
    """

    coding: LabelCoding
    notes: list[str]
    pixels: np.ndarray
    shapes: list[tuple[int, ...]]


def discover_coding(cases: Sequence[Case], spec: LabelSpec = NOTHING_SAID, also: Sequence[Case] = ()) -> FoundCoding:
    """Read the given masks and decide what their values mean.

    Args:
        cases: The labelled training cases; no other mask is opened.
        spec: What was said about their values.
        also: Cases whose values belong to the coding but not to the counts: those of validation.

    Returns:
        The coding and what else the labelled masks say.

    Raises:
        InputError: A broken mask, values outside the given classes, values that have no obvious meaning, a
            single class; no case at all.
    """
    if not cases:
        raise InputError("No labelled image was given; expected at least one mask to learn the classes from.")
    counted = list(read_masks(_mask_of(case) for case in cases))
    beside = list(read_masks(_mask_of(case) for case in also))
    coding, notes = infer_coding(counted + beside, spec)
    pixels = class_counts(counted, coding)
    return FoundCoding(coding, notes + absent_notes(pixels, coding), pixels, [mask.shape for mask in counted])


def _mask_of(case: Case) -> Path:
    if case.label is None:
        raise InputError(f"{case.image}: has no mask; expected a labelled image.")
    return case.label


def infer_coding(masks: Sequence[MaskFacts], spec: LabelSpec = NOTHING_SAID) -> tuple[LabelCoding, list[str]]:
    """Decide what observed mask values mean.

    In this order: a rule for two classes (`mask_threshold`, `instances`); `label_values` as given; {0, 255}, and masks
    of one bit or in JPEG, as 0/1; 0..K-1 or K values in ascending order for K given classes; the values that occur, in
    ascending order, where they look like classes.

    Args:
        masks: What the masks hold; none, to see what `spec` alone says.
        spec: What was said about the values.

    Returns:
        The coding and notes for the user.

    Raises:
        InputError: As in `discover_coding`.
    """
    _check_spec(spec)
    notes = palette_notes(masks)
    if spec.is_binary:
        coding = LabelCoding((0, 1), (), spec.ignore_value, spec.mask_threshold, all_objects=spec.instances)
    else:
        coding, said = _by_values(masks, spec)
        notes += said
    if coding.classes < 2:
        raise InputError(f"classes is {coding.classes}; expected at least 2, the background counted as one.")
    if not spec.is_binary and spec.ignore_value in coding.values:
        raise InputError(f"ignore_value={spec.ignore_value} is also the value of a class; expected another value.")
    names = spec.names or ("background", *(f"class_{index}" for index in range(1, coding.classes)))
    if len(names) != coding.classes:
        raise InputError(f"classes names {len(names)} classes; expected 2 beside mask_threshold or instances.")
    coding = replace(coding, names=names, stray_share=spec.stray_share)
    for mask in masks:
        if (problem := coding.problem(mask)) is not None:
            raise InputError(problem)
    if masks and (spec.is_free or spec.is_binary) and not class_counts(masks, coding)[1:].any():
        raise _no_object(masks, spec.ignore_value)
    return coding, notes + _stray_notes(masks, coding)


def _check_spec(spec: LabelSpec) -> None:
    given = {"label_values": spec.label_values, "mask_threshold": spec.mask_threshold, "instances": spec.instances}
    named = [name for name, value in given.items() if value is not None and value is not False]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} were both given; expected one rule for mask values; leave one out.")
    if spec.is_binary and spec.class_number not in (None, 2):
        raise InputError(f"{named[0]} makes 2 classes, but classes is {spec.class_number}; leave one of them out.")


def _by_values(masks: Sequence[MaskFacts], spec: LabelSpec) -> tuple[LabelCoding, list[str]]:
    """The coding by the values themselves, its names still to be set; and notes."""
    jpeg = [mask for mask in masks if mask.storage.lossy]
    one_bit = [mask for mask in masks if mask.storage.one_bit and not mask.storage.lossy]
    seen = _seen([mask for mask in masks if not mask.storage.lossy and not mask.storage.one_bit], spec.ignore_value)
    values = None if spec.label_values is None else checked_label_values(spec)
    K = spec.class_number if values is None else len(values)
    if (jpeg or one_bit) and K in (None, 2) and len({0, *seen}) <= 2:
        return _of_two_colours(jpeg, one_bit, seen, values, spec)
    if jpeg and (values is None or not spec.stray_share):
        raise InputError(label_messages.jpeg_classes(max(jpeg, key=lambda mask: max(mask.counts))))
    if values is not None:
        return LabelCoding(values, (), spec.ignore_value), []
    seen = _seen(masks, spec.ignore_value)
    if 255 in seen and set(seen) <= {0, 255} and K in (None, 2):
        return LabelCoding((0, 255), (), spec.ignore_value), [NOTE_255]
    if K is not None:
        ascending = tuple(sorted({0, *seen}))
        if max(ascending) < K or len(ascending) != K:
            return LabelCoding(tuple(range(K)), (), spec.ignore_value), []
        return LabelCoding(ascending, (), spec.ignore_value), [_in_ascending_order(ascending)]
    return _of_what_occurs(masks, seen, spec)


def _of_two_colours(
    jpeg: Sequence[MaskFacts],
    one_bit: Sequence[MaskFacts],
    seen: list[int],
    values: tuple[int, ...] | None,
    spec: LabelSpec,
) -> tuple[LabelCoding, list[str]]:
    """Masks of one bit, in JPEG, or with 0 and one more value: background and object."""
    notes = []
    lossy_from = None
    if jpeg:
        if spec.ignore_value is not None:
            raise InputError(
                f"{jpeg[0].path}: a mask in JPEG, which blurs values, but ignore_value={spec.ignore_value} must be"
                " exact; expected lossless masks; save them as PNG, or leave ignore_value out."
            )
        groups = two_groups(jpeg)
        if groups is None:
            dark = max(max(mask.counts) for mask in jpeg) < LEAST_OBJECT
            if not (dark and (max(seen, default=0) == 255 or (not seen and one_bit))):
                raise InputError(label_messages.jpeg_classes(max(jpeg, key=lambda mask: max(mask.counts))))
            lossy_from = 128
        else:
            lossy_from = groups.threshold
            notes.append(
                f"{count_text(len(jpeg), 'mask')} in JPEG: background and object are told apart at {lossy_from};"
                f" {groups.doubtful} px ({share_text(groups.doubtful / groups.pixels)}) are far from both greys."
            )
    white = max(seen, default=0)
    if white == 0:
        white = 255 if jpeg or any(255 in mask.counts for mask in one_bit) else 1
    if one_bit and seen and white > 1:
        notes.append(
            f"{count_text(len(one_bit), 'mask')} of one bit per pixel: white is the class that {white} is in others."
        )
    if values is None and white == 255 and not jpeg:
        notes.append(NOTE_255)
    return LabelCoding(values or (0, white), (), spec.ignore_value, lossy_from=lossy_from), notes


def _of_what_occurs(masks: Sequence[MaskFacts], seen: list[int], spec: LabelSpec) -> tuple[LabelCoding, list[str]]:
    """Nobody said anything: the values that occur are the classes, or an error that says what to type."""
    if not any(seen):
        raise _no_object(masks, spec.ignore_value)
    having = {value: mask.path for mask in reversed(masks) for value in mask.counts}
    if min(seen) < 0:
        raise InputError(
            f"{having[min(seen)]}: mask value {min(seen)}, which is no class; expected values from 0 on; if it marks"
            f" pixels without ground truth type {label_messages.option('ignore_value', min(seen))}."
        )
    if numbers_objects([_without(mask, spec.ignore_value) for mask in masks]):
        raise InputError(label_messages.instances(having[max(seen)], sum(value > 0 for value in seen), len(masks)))
    below = sorted({0, *seen} - {255})
    main = main_values(masks, seen)
    if 255 in seen and spec.ignore_value is None and below[-1] < GREY_FROM and not _are_rare(below[1:], 255, masks):
        raise InputError(label_messages.white_or_ignored(having[255], below))
    if len(seen) > len(main):
        if not spec.stray_share:
            raise _slips(masks, main, seen)
        seen = main
    if len(seen) > MOST_CLASSES:
        raise InputError(label_messages.too_many_values(having[seen[-1]], seen))
    values = tuple(sorted({0, *seen}))
    notes = [] if values == tuple(range(len(values))) else [_in_ascending_order(values)]
    return LabelCoding(values, (), spec.ignore_value), notes


def _are_rare(values: Sequence[int], beside: int, masks: Sequence[MaskFacts]) -> bool:
    """Whether some values together have next to no area beside that of another one."""
    areas = total([mask.areas for mask in masks])
    return sum(areas[value] for value in values) < RARE * areas[beside]


def _slips(masks: Sequence[MaskFacts], main: list[int], seen: list[int]) -> InputError:
    """Values beside the main ones: a blurred set, or a few pixels here and there."""
    grey = [mask for mask in masks if mask.flat]
    groups = two_groups(masks)
    if groups is not None and len(seen) > label_messages.SHOWN_VALUES:
        return InputError(label_messages.blurred(grey or masks, groups, len(seen)))
    if len(seen) > MOST_CLASSES:
        worst = max(masks, key=lambda mask: len(mask.counts))
        return InputError(label_messages.too_many_values(worst.path, seen))
    return InputError(label_messages.slips(masks, main, [value for value in seen if value not in main]))


def palette_notes(masks: Sequence[MaskFacts]) -> list[str]:
    """That masks have palettes of colours, and that these differ where they do."""
    coloured = [mask for mask in masks if mask.storage.palette is not None]
    if not coloured:
        return []
    differing: dict[str, tuple[int, str]] = {}
    meaning: dict[int, tuple[tuple[int, int, int], Path]] = {}
    for mask in coloured:
        for value in mask.counts:
            colour = (mask.storage.palette or ())[value : value + 1]
            known, where = meaning.setdefault(value, (colour[0] if colour else (0, 0, 0), mask.path))
            if colour and colour[0] != known:
                differing.setdefault(mask.path.name, (value, where.name))
    notes = [f"{count_text(len(coloured), 'mask')} with a palette of colours: the indices are the values."]
    if differing:
        name, (value, other) = next(iter(differing.items()))
        notes.append(
            f"Palettes differ: index {value} has another colour in {first_few(differing)} than in {other}; expected"
            f" one palette; look whether {name} means the same by {value}."
        )
    return notes


def checked_label_values(spec: LabelSpec) -> tuple[int, ...]:
    """The given values of the classes.

    Raises:
        InputError: A value is given twice, or there are more or fewer than classes.
    """
    values = tuple(int(value) for value in spec.label_values or ())
    if len(set(values)) != len(values):
        raise InputError(f"label_values={list(values)} names a value twice; expected one value for each class.")
    if spec.class_number not in (None, len(values)):
        raise InputError(
            f"label_values={list(values)} has {len(values)} values for {spec.class_number} classes; expected one for"
            " each class."
        )
    return values


def _stray_notes(masks: Sequence[MaskFacts], coding: LabelCoding) -> list[str]:
    """How many pixels took the nearest class's value."""
    if not coding.stray_share:
        return []
    unknown = [(mask, coding.unknown_in(mask)) for mask in masks]
    concerned = [(mask, found) for mask, found in unknown if found]
    if not concerned:
        return []
    counts = total([found for _, found in concerned])
    names = first_few(mask.path.name for mask, _ in concerned)
    return [
        f"{counts.total()} px of value {label_messages.listed(sorted(counts))} in"
        f" {count_text(len(concerned), 'mask')} ({names}) take the nearest class's value."
    ]


def _in_ascending_order(values: Sequence[int]) -> str:
    listed = ", ".join(map(str, values))
    return f"Mask values {listed} are read as classes 0 to {len(values) - 1} in this order."


def _no_object(masks: Sequence[MaskFacts], ignore_value: int | None) -> InputError:
    found = "only the value 0" if any(_without(mask, ignore_value).counts for mask in masks) else "no pixel with truth"
    return InputError(
        f"{masks[0].path}: this and every other mask to learn from has {found}; "
        "expected at least two classes; add a labelled image that shows the object."
    )


def _seen(masks: Sequence[MaskFacts], ignore_value: int | None) -> list[int]:
    return sorted({value for mask in masks for value in mask.counts} - {ignore_value})


def _without(mask: MaskFacts, ignore_value: int | None) -> MaskFacts:
    """The mask as if ignored pixels were not there."""
    return replace(mask, counts={value: number for value, number in mask.counts.items() if value != ignore_value})

"""What the values of truth files and of predictions mean: decided once for all files, said, and never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from knowsam.data.discover import infer_coding
from knowsam.data.label_messages import listed
from knowsam.data.labels import LabelCoding, LabelSpec
from knowsam.data.mask_values import GREY_FROM, MaskFacts, two_groups
from knowsam.errors import InputError

INDICES, VALUES = "indices", "values"


def code_both(
    truth: Sequence[MaskFacts], predicted: Sequence[MaskFacts], spec: LabelSpec, hold: str | None = None
) -> tuple[LabelCoding, LabelCoding, list[str]]:
    """How file values become classes in the truth and in the predictions.

    Decided for all files together: a single mask that happens to hold only 0 says nothing about the others.

    Args:
        truth: The truth files.
        predicted: The predictions.
        spec: What was said about the values of the truth.
        hold: `"indices"`, `"values"` or None, as in `code_predictions`.

    Returns:
        The coding of the truth, that of the predictions, and notes.

    Raises:
        InputError: Values that mean nothing, or that could mean two things.
    """
    if hold not in (None, INDICES, VALUES):
        raise InputError(f"--predictions: '{hold}' was found, but expected {INDICES} or {VALUES}; correct it.")
    empty = all(set(mask.counts) <= {0, spec.ignore_value} for mask in truth)
    # Of a truth that shows no object only the predictions can say which classes there are.
    coding, notes = infer_coding([*truth, *predicted] if spec.is_free and empty else truth, spec)
    if spec.is_free and hold != INDICES and not _are_known(predicted, coding):
        values = _values(predicted) - {spec.ignore_value}
        grey = max(coding.values) >= GREY_FROM
        could_be_indices = max(values) < coding.classes
        if could_be_indices and hold is None and not grey:
            raise InputError(
                f"{predicted[0].path.parent}: the predictions have the values {listed(sorted(values))}, the truth"
                f" {listed(coding.values)}; expected to know what they mean; type --predictions {INDICES} if they are"
                f" the classes 0 to {coding.classes - 1}, --predictions {VALUES} if they are values like those of the"
                " truth."
            )
        if hold == VALUES or (not could_be_indices and (max(values) >= GREY_FROM) == grey):
            notes.append(
                f"The predictions hold values up to {max(values)}, the truth up to {max(coding.values)}: each that"
                " occurs is a class."
            )
            joint = sorted({*coding.values, *values})
            coding, _ = infer_coding(truth, spec._replace(label_values=joint))
    prediction_coding, said = code_predictions(predicted, coding, hold)
    return coding, prediction_coding, notes + said


def code_predictions(
    predicted: Sequence[MaskFacts], coding: LabelCoding, hold: str | None = None
) -> tuple[LabelCoding, list[str]]:
    """How the values of predictions become classes.

    Args:
        predicted: The predictions.
        coding: That of the truth.
        hold: `"indices"`: they are class indices; `"values"`: those of the truth files; None: values where all of them
            are values of the truth, else indices where all are.

    Returns:
        The coding and notes: what was decided, and how to decide otherwise where both are possible.
    """
    values, indices, lossy_from = _values(predicted), tuple(range(coding.classes)), _lossy_from(predicted)
    as_indices = LabelCoding(indices, coding.names, lossy_from=lossy_from)
    if coding.is_rule:
        if hold != VALUES and values <= {0, 1}:
            return as_indices, ["The predictions hold the class indices 0 and 1."]
        return replace(coding, ignore_value=None), ["The predictions are read by the same rule as the truth."]
    if values <= {0} and coding.values[0] == 0:
        return as_indices, []  # no object in any prediction: 0 is the background either way
    if hold is None and _is_black_and_white(values, coding):
        return replace(as_indices, values=(0, 255)), [_said_values((0, 255))]
    if coding.values == indices:
        return as_indices, []
    if hold == INDICES or (hold is None and not values <= set(coding.values)):
        return as_indices, [f"The predictions hold the class indices 0 to {indices[-1]}."]
    said = _said_values(coding.values)
    if hold is None and any(value in indices and coding.values.index(value) != value for value in values):
        said += f" If they hold class indices, type --predictions {INDICES}."
    return replace(coding, ignore_value=None, lossy_from=lossy_from), [said]


def _said_values(values: Sequence[int]) -> str:
    return f"The predictions hold the mask values {list(values)}: read as classes 0 to {len(values) - 1}."


def _values(masks: Sequence[MaskFacts]) -> set[int]:
    """The values of masks, those of one bit and in JPEG left out: there white is white."""
    return {value for mask in masks for value in mask.counts if not (mask.storage.one_bit or mask.storage.lossy)}


def _are_known(masks: Sequence[MaskFacts], coding: LabelCoding) -> bool:
    """Whether predictions hold nothing but values of the truth, or 0 and 255 for its two classes."""
    values = _values(masks)
    return coding.is_rule or values <= set(coding.values) or _is_black_and_white(values, coding)


def _is_black_and_white(values: set[int], coding: LabelCoding) -> bool:
    return coding.classes == 2 and values <= {0, 255} and 255 in values and coding.values in ((0, 1), (0, 255))


def _lossy_from(masks: Sequence[MaskFacts]) -> int | None:
    lossy = [mask for mask in masks if mask.storage.lossy]
    groups = two_groups(lossy) if lossy else None
    return None if groups is None else groups.threshold

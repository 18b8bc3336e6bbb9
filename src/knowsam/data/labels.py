"""The meaning of the numbers in a mask file: from file values to classes 0..K-1.

The coding is decided once, from the masks that training may see, and then holds for every mask: a value
outside it is an error that names the file, never a silent extra class.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from knowsam.data.folder import Case
from knowsam.errors import InputError
from knowsam.io import read_label
from knowsam.types import IGNORE, MedicalLabel

TABLE_SPAN = 1 << 16
"""Value ranges up to this are handled by lookup tables; wider ones, which are rare, by sorting."""

MOST_INFERRED_CLASSES = 32
"""More different values than this mean numbered instances or damaged masks unless `classes` is set."""


@dataclass(frozen=True)
class LabelCoding:
    """The meaning of mask values.

    Attributes:
        values: File value of class 0..K-1.
        names: Name of class 0..K-1.
        ignore_value: File value of pixels without ground truth, or None.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    ignore_value: int | None = None

    @property
    def classes(self) -> int:
        """Number of classes K, background included."""
        return len(self.values)

    def encode(self, label: MedicalLabel) -> np.ndarray:
        """Classes instead of file values.

        Args:
            label: A mask as read, any shape.

        Returns:
            The same shape, int64, values 0..K-1 and `IGNORE`.

        Raises:
            InputError: The mask has a value that is neither a class nor the ignore value.
        """
        problem = self.problem(label.path, value_counts(label.array))
        if problem is not None:
            raise InputError(problem)
        low = min(self._class_of)
        if self._table is not None:
            return self._table[label.array - low]
        known = np.array(sorted(self._class_of), dtype=np.int64)
        classes = np.array([self._class_of[value] for value in known], dtype=np.int64)
        return classes[np.searchsorted(known, label.array)]

    def problem(self, path: Path, found: Iterable[int]) -> str | None:
        """The sentence about values that are neither a class nor the ignore value, None if all are known.

        Args:
            path: The mask file.
            found: The values it has.
        """
        unknown = sorted(set(found) - self._class_of.keys())
        return _unknown_values(path, unknown, self.values, self.ignore_value) if unknown else None

    @cached_property
    def _class_of(self) -> dict[int, int]:
        class_of = {value: index for index, value in enumerate(self.values)}
        if self.ignore_value is not None:
            class_of[self.ignore_value] = IGNORE
        return class_of

    @cached_property
    def _table(self) -> np.ndarray | None:
        """Class of `value - lowest value`, or None where the range is too wide for a table."""
        low, high = min(self._class_of), max(self._class_of)
        if high - low >= TABLE_SPAN:
            return None
        table = np.full(high - low + 1, IGNORE, dtype=np.int64)
        for value, index in self._class_of.items():
            table[value - low] = index
        return table


def value_counts(array: np.ndarray) -> dict[int, int]:
    """How often each value occurs in an integer array, ascending by value."""
    low, high = int(array.min()), int(array.max())
    if high - low < TABLE_SPAN:
        # int64, since the difference of two int32 may not fit int32.
        counts = np.bincount(array.ravel().astype(np.int64) - low)
        return {int(index) + low: int(counts[index]) for index in np.flatnonzero(counts)}
    values, numbers = np.unique(array, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers, strict=True)}


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


def discover_coding(
    cases: Sequence[Case],
    classes: int | Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
    also: Sequence[Case] = (),
) -> FoundCoding:
    """Read the given masks and decide what their values mean.

    Args:
        cases: The labelled training cases; no other mask is opened.
        classes: Number of classes with background, or their names; None to infer it.
        label_values: File value of class 0..K-1 where they are not 0..K-1.
        ignore_value: File value of pixels without ground truth.
        also: Cases whose values belong to the coding but not to the counts: those of validation.

    Returns:
        The coding and what else the labelled masks say.

    Raises:
        InputError: A broken mask, values outside the given classes, values that have no obvious meaning, a
            single class; no case at all.
    """
    if not cases:
        raise InputError("No labelled image was given; expected at least one mask to learn the classes from.")
    counted = list(_read_counts(cases))
    beside = list(_read_counts(also))
    first_seen: dict[int, Path] = {}
    for path, counts, _ in counted + beside:
        for value in counts:
            first_seen.setdefault(value, path)
    coding, notes = infer_coding(first_seen, classes, label_values, ignore_value)
    total = class_counts((counts for _, counts, _ in counted), coding)
    return FoundCoding(coding, notes + absent_notes(total, coding), total, [shape for *_, shape in counted])


def infer_coding(
    first_seen: Mapping[int, Path],
    classes: int | Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
) -> tuple[LabelCoding, list[str]]:
    """Decide what observed mask values mean.

    In this order: `label_values` as given; {0, 255} is 0/1, and a note says so; 0..K-1 for K given classes;
    0..max where at least half of these values occur.

    Args:
        first_seen: Every value found -> a file that has it, for messages.
        classes: As in `discover_coding`.
        label_values: As in `discover_coding`.
        ignore_value: As in `discover_coding`.

    Returns:
        The coding and notes for the user.

    Raises:
        InputError: As in `discover_coding`.
    """
    names = None if classes is None or isinstance(classes, int) else tuple(classes)
    K = len(names) if names is not None else classes if isinstance(classes, int) else None
    seen = sorted(set(first_seen) - {ignore_value})
    notes = []
    if label_values is not None:
        values = _checked_label_values(label_values, K, ignore_value)
    elif 255 in seen and set(seen) <= {0, 255} and K in (None, 2):
        values = (0, 255)
        notes.append("Mask values 0 and 255 are read as classes 0 and 1.")
    elif K is not None:
        values = tuple(range(K))
    else:
        values = _inferred_values(seen, first_seen, ignore_value)
    if len(values) < 2:
        raise InputError(f"classes is {len(values)}; expected at least 2, the background counted as one.")
    if ignore_value in values:
        raise InputError(f"ignore_value={ignore_value} is also the value of a class; expected another value.")
    unknown = [value for value in seen if value not in values]
    if unknown:
        raise InputError(_unknown_values(first_seen[unknown[0]], unknown, values, ignore_value))
    if names is None:
        names = ("background", *(f"class_{index}" for index in range(1, len(values))))
    return LabelCoding(values, names, ignore_value), notes


def class_counts(counts: Iterable[Mapping[int, int]], coding: LabelCoding) -> np.ndarray:
    """Pixels of each class over several masks' value counts, `(K,)` int64; ignored pixels are not counted."""
    total = np.zeros(coding.classes, dtype=np.int64)
    for one in counts:
        for index, value in enumerate(coding.values):
            total[index] += one.get(value, 0)
    return total


def absent_notes(total: np.ndarray, coding: LabelCoding) -> list[str]:
    """One note for each class without a single pixel in the labelled set."""
    return [
        f"Class {index} ({coding.names[index]}, mask value {coding.values[index]}) never occurs in the "
        "labelled set: it cannot be learned."
        for index in np.flatnonzero(total == 0)
    ]


def _read_counts(cases: Sequence[Case]) -> Iterator[tuple[Path, dict[int, int], tuple[int, ...]]]:
    """(mask file, its value counts, its shape) of each case, in order; decoding runs in threads."""

    def read(case: Case) -> tuple[Path, dict[int, int], tuple[int, ...]]:
        if case.label is None:
            raise InputError(f"{case.image}: has no mask; expected a labelled image.")
        array = read_label(case.label).array
        return case.label, value_counts(array), array.shape

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(read, cases)


def _checked_label_values(label_values: Sequence[int], K: int | None, ignore_value: int | None) -> tuple[int, ...]:
    values = tuple(int(value) for value in label_values)
    if len(set(values)) != len(values):
        raise InputError(f"label_values={list(values)} names a value twice; expected one value for each class.")
    if K is not None and len(values) != K:
        raise InputError(
            f"label_values={list(values)} has {len(values)} values for {K} classes; expected one for each class."
        )
    return values


def _inferred_values(seen: list[int], first_seen: Mapping[int, Path], ignore_value: int | None) -> tuple[int, ...]:
    """0..max for values that look like class indices, else an error that says what to set."""
    if not any(seen):
        found = "no pixel with ground truth" if not seen else "only the value 0"
        raise InputError(
            f"{next(iter(first_seen.values()))}: this and every other mask to learn from has {found}; "
            "expected at least two classes; add a labelled image that shows the object."
        )
    if len(seen) > MOST_INFERRED_CLASSES:
        raise InputError(
            f"{first_seen[seen[-1]]}: the masks have {len(seen)} different values from {seen[0]} to "
            f"{seen[-1]}; expected one value for each class; were they interpolated or lossily compressed, "
            "or are they instance numbers? Save class indices 0, 1, 2, ... as PNG, or set classes if there "
            "really are so many."
        )
    without_255 = [value for value in seen if value != 255]
    if _consecutive_like(seen):
        return tuple(range(max(seen) + 1))
    if 255 in seen and ignore_value is None and _consecutive_like(without_255):
        raise InputError(
            f"{first_seen[255]}: mask value 255 beside the classes {without_255}; if it marks pixels without "
            "ground truth set ignore_value=255; if some masks use 255 for class 1, save all of them with "
            "the same values."
        )
    raise InputError(
        f"{first_seen[seen[-1]]}: the masks have the values {seen}, which are no class indices 0, 1, 2, ...; "
        f"if each is a class set label_values={_as_text(seen)}, in the order of the classes."
    )


def _consecutive_like(values: Sequence[int]) -> bool:
    """True for what looks like 0..max with at most half of it missing, and something besides 0."""
    if not values or min(values) < 0 or max(values) in (0, 255):
        return False
    return 2 * len(values) >= max(values) + 1


def _unknown_values(path: Path, unknown: list[int], values: tuple[int, ...], ignore_value: int | None) -> str:
    listed = ", ".join(str(value) for value in unknown[:8]) + (", ..." if len(unknown) > 8 else "")
    advice = "correct the mask, or set classes or label_values"
    if unknown == [255] and ignore_value is None:
        advice = "if 255 marks pixels without ground truth set ignore_value=255, else correct the mask"
    ignored = "" if ignore_value is None else f" and {ignore_value} to ignore"
    expected = _as_text(values)
    return f"{path}: mask values outside the classes: {listed}; expected only {expected}{ignored}; {advice}."


def _as_text(values: Sequence[int]) -> str:
    return "[" + ",".join(str(value) for value in values) + "]"

"""The meaning of the numbers in mask files: from file values to classes 0..K-1 (docs/masks.md).

The coding is decided once, from the masks that training may see, and then holds for every mask: a value
outside it is an error that names the file, never a silent extra class.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knowsam.data.label_messages import jpeg_classes, unknown_values
from knowsam.data.mask_values import TABLE_SPAN, MaskFacts, examine_mask, value_counts
from knowsam.errors import InputError
from knowsam.io import read_label
from knowsam.types import IGNORE, MaskStorage, MedicalLabel

NO_CLASS = -2
"""Class of file values that are neither a class nor ignored."""


class LabelSpec(NamedTuple):
    """What somebody said about mask values; the settings of the same names in `data`.

    Attributes:
        classes: Number of classes with background, or their names; None to infer it.
        label_values: File value of class 0..K-1.
        ignore_value: File value of pixels without ground truth.
        mask_threshold: Two classes: everything from this value on is class 1.
        instances: Two classes: every value but 0 numbers an object of class 1.
        stray_share: Largest share of a mask's pixels that may have a value of no class; they take the nearest one.
    """

    classes: int | Sequence[str] | None = None
    label_values: Sequence[int] | None = None
    ignore_value: int | None = None
    mask_threshold: int | None = None
    instances: bool = False
    stray_share: float = 0.0

    @property
    def is_free(self) -> bool:
        """Whether the values alone say which classes there are."""
        return self.classes is None and self.label_values is None and not self.is_binary

    @property
    def is_binary(self) -> bool:
        """Whether object and background are told apart by a rule instead of by values."""
        return self.mask_threshold is not None or self.instances

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the classes, where they were given."""
        return None if self.classes is None or isinstance(self.classes, int) else tuple(self.classes)

    @property
    def class_number(self) -> int | None:
        """K, where it was given."""
        names = self.names
        return len(names) if names is not None else self.classes if isinstance(self.classes, int) else None


NOTHING_SAID = LabelSpec()


@dataclass(frozen=True)
class LabelCoding:
    """The meaning of mask values.

    Attributes:
        values: File value of class 0..K-1.
        names: Name of class 0..K-1.
        ignore_value: File value of pixels without ground truth, or None.
        object_from: Of two classes: every value from this one on is class 1, whatever `values` says; or None.
        lossy_from: The same in masks of lossy compression alone.
        all_objects: Of two classes: every value but 0 is class 1.
        stray_share: Largest share of a mask's pixels with a value of no class that take the nearest one.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    ignore_value: int | None = None
    object_from: int | None = None
    lossy_from: int | None = None
    all_objects: bool = False
    stray_share: float = 0.0

    @property
    def classes(self) -> int:
        """Number of classes K, background included."""
        return len(self.values)

    @property
    def mask_values(self) -> tuple[int, ...] | None:
        """The values that predictions are written with, in the order of the classes; None: class indices are.

        Indices where masks have them, and for 0/255, which everybody reads as 0/1; else what the masks have, so that
        masks and predictions mean the same by the same number.
        """
        indices = tuple(range(self.classes))
        if self.values in (indices, (0, 255)) or not 0 <= min(self.values) <= max(self.values) < TABLE_SPAN:
            return None
        return self.values

    @property
    def is_rule(self) -> bool:
        """Whether object and background are told apart by a rule instead of by values."""
        return self.object_from is not None or self.all_objects

    def encode(self, label: MedicalLabel) -> np.ndarray:
        """Classes instead of file values.

        Args:
            label: A mask as read, any shape.

        Returns:
            The same shape, int64, values 0..K-1 and `IGNORE`.

        Raises:
            InputError: The mask has a value that is neither a class nor the ignore value.
        """
        mask = MaskFacts(label.path, value_counts(label.array), label.array.shape, label.storage)
        problem = self.problem(mask)
        if problem is not None:
            raise InputError(problem)
        class_of = self.classes_in(mask)
        values = np.array(list(class_of), dtype=np.int64)
        low, high = int(values[0]), int(values[-1])
        if high - low >= TABLE_SPAN:
            return np.array(list(class_of.values()), dtype=np.int64)[np.searchsorted(values, label.array)]
        table = np.full(high - low + 1, IGNORE, dtype=np.int64)
        table[values - low] = list(class_of.values())
        return table[label.array - low]

    def problem(self, mask: MaskFacts) -> str | None:
        """The sentence about values that are neither a class nor the ignore value, None if all are known."""
        if NO_CLASS not in self.classes_in(mask).values():
            return None
        if mask.storage.lossy:
            return jpeg_classes(mask)
        return unknown_values(mask, self.unknown_in(mask), self.values, self.ignore_value)

    def unknown_in(self, mask: MaskFacts) -> dict[int, int]:
        """Pixels of each value of a mask that is neither a class nor the ignore value, however few they are."""
        classes = self._classes_of(list(mask.counts), mask.storage)
        return {
            value: number
            for (value, number), index in zip(mask.counts.items(), classes, strict=True)
            if index == NO_CLASS
        }

    def classes_in(self, mask: MaskFacts) -> dict[int, int]:
        """Value -> class of all values of a mask, ascending: 0..K-1, `IGNORE`, or `NO_CLASS` where that is an error."""
        classes = dict(zip(mask.counts, self._classes_of(list(mask.counts), mask.storage), strict=True))
        unknown = [value for value, index in classes.items() if index == NO_CLASS]
        if unknown and sum(mask.counts[value] for value in unknown) <= self.stray_share * mask.pixels:
            for value in unknown:
                distances = [abs(value - other) for other in self.values]
                classes[value] = distances.index(min(distances))
        return classes

    def _classes_of(self, values: list[int], storage: MaskStorage) -> list[int]:
        """Class of each value by the rules, slips not yet forgiven."""
        white, black = self.values.index(max(self.values)), self.values.index(min(self.values))
        binary = self.classes == 2
        if self.object_from is not None:
            classes = [int(value >= self.object_from) for value in values]
        elif self.all_objects:
            classes = [int(value != 0) for value in values]
        elif storage.lossy and binary and self.lossy_from is not None:
            return [white if value >= self.lossy_from else black for value in values]
        elif storage.one_bit and binary:
            return [white if value else black for value in values]
        else:
            classes = [self._class_of.get(value, NO_CLASS) for value in values]
        return [IGNORE if value == self.ignore_value else index for value, index in zip(values, classes, strict=True)]

    @cached_property
    def _class_of(self) -> dict[int, int]:
        return {value: index for index, value in enumerate(self.values)}


def class_counts(masks: Iterable[MaskFacts], coding: LabelCoding) -> np.ndarray:
    """Pixels of each class over several masks, `(K,)` int64; ignored pixels and those of no class are not counted."""
    total = np.zeros(coding.classes, dtype=np.int64)
    for mask in masks:
        for value, index in coding.classes_in(mask).items():
            if index >= 0:
                total[index] += mask.counts[value]
    return total


def absent_notes(total: np.ndarray, coding: LabelCoding) -> list[str]:
    """One note for each class without a single pixel in the labelled set."""
    return [
        f"Class {index} ({coding.names[index]}, mask value {coding.values[index]}) never occurs in the "
        "labelled set: it cannot be learned."
        for index in np.flatnonzero(total == 0)
    ]


def read_masks(paths: Iterable[Path]) -> Iterator[MaskFacts]:
    """What is in each mask file, in order; decoding runs in threads.

    Raises:
        InputError: A file is broken.
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda path: examine_mask(read_label(path)), paths)


def values_text(coding: LabelCoding, index: int, values: Iterable[int]) -> str:
    """The file values of a class for a table: `"85"`, `"128 to 255"`, `"0, 1"`.

    Args:
        coding: What they mean.
        index: The class.
        values: Those that were found for it.
    """
    found = sorted(set(values))
    if len(found) < 2:
        return str(found[0] if found else coding.values[index])
    return ", ".join(map(str, found)) if len(found) <= 3 else f"{found[0]} to {found[-1]}"

"""A run's data folder opened again: report, comparison and calibration find its cases and their coding here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from knowsam.config import DataConfig
from knowsam.data.discover import FoundCoding, discover_coding
from knowsam.data.folder import Case, DataFolder, scan_folder
from knowsam.data.labels import LabelCoding
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.runs.folder import RunFolder

Part = Literal["labelled", "unlabelled", "val", "test"]


@dataclass(frozen=True)
class RunCases:
    """Who is what in the data of a run, and what its masks mean.

    Attributes:
        folder: The data folder as it is now.
        split: The run's own split.
        found: What the masks of its labelled and validation cases say.
    """

    folder: DataFolder
    split: Split
    found: FoundCoding

    @property
    def coding(self) -> LabelCoding:
        """How mask values become classes."""
        return self.found.coding

    @property
    def class_pixels(self) -> np.ndarray:
        """Pixels of each class in the labelled masks, `(K,)` int64."""
        return self.found.pixels

    def of(self, part: Part) -> list[Case]:
        """The cases of one part of the split, in its order.

        Raises:
            InputError: One of them is no longer in the folder.
        """
        return cases_of(self.folder, getattr(self.split, part))


def read_coding(folder: DataFolder, split: Split, data: DataConfig) -> FoundCoding:
    """What mask values mean to a run: decided by its labelled and validation masks, the only ones that it may open.

    Raises:
        InputError: One of these cases is not in the folder, or its mask is broken or of unknown values.
    """
    labelled, validation = cases_of(folder, split.labelled), cases_of(folder, split.val)
    return discover_coding(labelled, data.label_spec, also=validation)


def open_cases(run: RunFolder, classes: int | None = None, data: str | Path | None = None) -> RunCases:
    """Open the data folder of a run.

    Args:
        run: The run.
        classes: K of its student; None leaves it unchecked.
        data: Where the data folder is now, if it was moved.

    Raises:
        InputError: No run, no data, a case that is gone, or masks of another number of classes.
    """
    split, config = Split.read(run.split), run.read_config()
    folder = scan_folder(Path(data or config.data.path), group_by=config.data.group_by)
    found = read_coding(folder, split, config.data)
    if classes is not None and found.coding.classes != classes:
        raise InputError(
            f"{folder.root}: masks of {found.coding.classes} classes were found, but expected {classes} as in"
            f" {run.student}; restore the masks the run was trained on."
        )
    return RunCases(folder, split, found)


def cases_of(folder: DataFolder, stems: list[str]) -> list[Case]:
    """The cases of these stems, in their order.

    Raises:
        InputError: One of them is not in the folder.
    """
    absent = [stem for stem in stems if stem not in folder.cases]
    if absent:
        raise InputError(
            f"{folder.root}: {absent[0]} of the run's split is not there ({len(absent)} such images), but expected the"
            " data the run was trained on; restore them, or name the folder they are in now."
        )
    return [folder.cases[stem] for stem in stems]

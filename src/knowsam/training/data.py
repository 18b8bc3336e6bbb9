"""From a folder and a configuration to everything the training loop draws from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knowsam.config import Config
from knowsam.data.dataset import ScoringVolume, SliceStore, load_scoring_volumes
from knowsam.data.folder import DataFolder, scan_folder
from knowsam.data.labels import LabelCoding, discover_coding
from knowsam.data.preprocess import Preprocessing
from knowsam.data.split import Split, make_split, parse_labelled
from knowsam.io import read_image
from knowsam.presentation.console import ProgressStart


@dataclass
class RunData:
    """What a run trains and validates on.

    Attributes:
        split: Which cases are labelled, unlabelled, validation and test.
        coding: How mask values become classes.
        preprocessing: How images become network input.
        labelled: Store of labelled slices.
        unlabelled: Store of unlabelled slices, None if there are none.
        validation: Validation volumes, at native size.
        notes: Sentences for the user: what was inferred, what is unusual.
    """

    split: Split
    coding: LabelCoding
    preprocessing: Preprocessing
    labelled: SliceStore
    unlabelled: SliceStore | None
    validation: list[ScoringVolume]
    notes: list[str]


def plan_split(config: Config) -> tuple[DataFolder, Split]:
    """Look into the folder and decide who is labelled, unlabelled, validation and test. Opens no image."""
    folder = scan_folder(Path(config.data.path))
    given = config.data.labelled
    labelled = parse_labelled(given) if isinstance(given, str) else given
    return folder, make_split(folder, labelled, config.data.val_fraction, config.train.seed)


def load_data(
    config: Config,
    folder: DataFolder,
    split: Split,
    use_unlabelled: bool = True,
    progress: ProgressStart | None = None,
) -> RunData:
    """Decode what the run needs. A mask of an unlabelled or hidden case is never opened.

    Args:
        config: The resolved configuration.
        folder: The scanned folder.
        split: Who is what.
        use_unlabelled: False for a method that never looks at unlabelled images.
        progress: Called with the number of files to read; returns what to call after each.

    Raises:
        InputError: At the first file that is broken or does not fit.
    """
    labelled = [folder.cases[stem] for stem in split.labelled]
    unlabelled = [folder.cases[stem] for stem in split.unlabelled] if use_unlabelled else []
    validation = [folder.cases[stem] for stem in split.val]
    data = config.data
    coding, notes, _ = discover_coding(labelled, data.classes, data.label_values, data.ignore_value, also=validation)
    notes = [*folder.warnings, *folder.notes, *notes]

    channels = data.channels
    if channels is None:
        channels = 3 if any(read_image(case.image).array.shape[-1] == 3 for case in labelled) else 1
    preprocessing = Preprocessing(data.size, channels, data.normalise, data.axis)

    advance = None if progress is None else progress(len(labelled) + len(unlabelled) + len(validation))
    labelled_store = SliceStore(labelled, preprocessing, coding, data.cache_mb)
    labelled_store.fill(advance)
    unlabelled_store = None
    if unlabelled:
        unlabelled_store = SliceStore(unlabelled, preprocessing, None, data.cache_mb)
        unlabelled_store.fill(advance)
    elif use_unlabelled:
        notes.append("No unlabelled image was found: the run trains supervised, on the labelled images alone.")
    volumes = load_scoring_volumes(validation, preprocessing, coding, advance)
    if not volumes:
        notes.append("No validation case: the last weights are kept, and no score is computed while training.")
    return RunData(split, coding, preprocessing, labelled_store, unlabelled_store, volumes, notes)

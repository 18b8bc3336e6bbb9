"""From a folder and a configuration to everything the training loop draws from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from knowsam.config import Config
from knowsam.data.augment import Flip
from knowsam.data.dataset import ScoringVolume, Slices, SliceStore, StepDataset, scoring_volumes
from knowsam.data.folder import Case, DataFolder, scan_folder
from knowsam.data.labels import LabelCoding
from knowsam.data.leaks import leak_warnings
from knowsam.data.mirroring import allowed_flips
from knowsam.data.preprocess import Preprocessing, preprocessing_of
from knowsam.data.split import Split, make_split, parse_labelled
from knowsam.data.volumes import KnownMaps
from knowsam.errors import InputError
from knowsam.io import read_image
from knowsam.methods import load_method
from knowsam.presentation.console import ProgressStart
from knowsam.presentation.text import first_few
from knowsam.runs.cases import RunCases, read_coding
from knowsam.runs.data_record import changed_files, file_hashes, write_data_record
from knowsam.runs.folder import RunFolder

if TYPE_CHECKING:
    from knowsam.training.display import TrainingDisplay


@dataclass
class RunData:
    """What a run trains and validates on.

    Attributes:
        cases: The data folder, who is what in it, and what its masks mean.
        preprocessing: How images become network input.
        labelled: Labelled slices.
        unlabelled: Store of unlabelled slices, None if there are none.
        validation: Validation volumes, at native size.
        class_shares: `(K,)` share of each class of the labelled pixels; None where `train.class_prior` is off.
        flip: How training mirrors images: `train.flip`, or what `auto` came to.
        notes: Sentences for the user: what was inferred, what is unusual.
        masks_judged: Number of mask files of unlabelled images that were read, for a judge that asks for them.
        answers: What a SAM said beforehand of the unlabelled slices (`Method.answered_once`); None: nothing.
    """

    cases: RunCases
    preprocessing: Preprocessing
    labelled: Slices
    unlabelled: SliceStore | None
    validation: list[ScoringVolume]
    class_shares: Tensor | None
    flip: Flip
    notes: list[str]
    masks_judged: int = 0
    answers: KnownMaps | None = None

    def record(self, folder: RunFolder) -> None:
        """Write into a new run who is what in its data, and what their files hold."""
        self.split.write(folder.split)
        self.record_files(folder, self.hashes())

    def hashes(self) -> dict[str, str]:
        """The content of every file that was read, see `file_hashes`."""
        opened = self.unlabelled is not None
        return file_hashes(self.cases.folder, self.split, opened, hidden_masks=self.masks_judged > 0)

    def record_files(self, folder: RunFolder, hashes: dict[str, str]) -> None:
        """Write `data.json`."""
        write_data_record(folder, hashes, self.masks_judged)

    @property
    def split(self) -> Split:
        """Which cases are labelled, unlabelled, validation and test."""
        return self.cases.split

    @property
    def coding(self) -> LabelCoding:
        """How mask values become classes."""
        return self.cases.coding


def plan_split(config: Config, needs_labels: bool = True) -> tuple[DataFolder, Split]:
    """Look into the folder and decide who is labelled, unlabelled, validation and test. Opens no image.

    Args:
        config: The resolved configuration.
        needs_labels: See `make_split`.
    """
    folder = scan_folder(Path(config.data.path), group_by=config.data.group_by)
    given = config.data.labelled
    labelled = parse_labelled(given) if isinstance(given, str) else given
    return folder, make_split(folder, labelled, config.data.val_fraction, config.train.seed, needs_labels)


def load_data(
    config: Config,
    folder: DataFolder,
    split: Split,
    use_unlabelled: bool = True,
    progress: ProgressStart | None = None,
    opens_hidden: str = "",
) -> RunData:
    """Decode what the run needs. A mask of an unlabelled or hidden case is never opened, but for `opens_hidden`.

    Args:
        config: The resolved configuration.
        folder: The scanned folder.
        split: Who is what.
        use_unlabelled: False for a method that never looks at unlabelled images.
        progress: Called with the number of files to read; returns what to call after each.
        opens_hidden: See `Method.opens_hidden_masks`.

    Raises:
        InputError: At the first file that is broken or does not fit.
    """
    data = config.data
    cases = RunCases(folder, split, read_coding(folder, split, data))
    labelled, validation = cases.of("labelled"), cases.of("val")
    unlabelled = cases.of("unlabelled") if use_unlabelled else []
    notes = [*leak_warnings(folder, split), *folder.warnings, *folder.notes, *cases.found.notes]

    images = (read_image(case.image) for case in labelled)
    preprocessing, note = preprocessing_of(images, data.size, data.channels, data.normalise, data.axis, data.context)
    notes += [] if note is None else [note]

    advance = None if progress is None else progress(len(labelled) + len(unlabelled) + len(validation))
    labelled_store = SliceStore(labelled, preprocessing, cases.coding, data.cache_mb)
    labelled_store.fill(advance)
    flip, flip_notes = choose_flip(config.train.flip, labelled_store, cases.coding)
    notes += flip_notes
    shares = class_shares(labelled_store, cases.coding.classes) if config.train.class_prior else None
    unlabelled_store = None
    if unlabelled:
        if opens_hidden:
            _require_masks(unlabelled, opens_hidden)
            notes.append(
                f"{opens_hidden}: the masks of all {len(unlabelled)} unlabelled files are read, for ranking alone;"
                " tables and report say so."
            )
        unlabelled_store = SliceStore(unlabelled, preprocessing, cases.coding if opens_hidden else None, data.cache_mb)
        unlabelled_store.fill(advance)
    elif use_unlabelled:
        notes.append("No unlabelled image was found: the run trains supervised, on the labelled images alone.")
    volumes = list(scoring_volumes(validation, preprocessing, cases.coding, advance))
    if not volumes:
        notes.append("No validation case: the last weights are kept, and no score is computed while training.")
    judged = len(unlabelled) if opens_hidden else 0
    return RunData(cases, preprocessing, labelled_store, unlabelled_store, volumes, shares, flip, notes, judged)


def hidden_masks_setting(config: Config) -> str:
    """The setting under which a configuration's method reads masks of unlabelled images; empty: it does not."""
    method = load_method(config.method)
    return method.opens_hidden_masks(method.Options.model_validate(config.options))


def _require_masks(unlabelled: list[Case], setting: str) -> None:
    lacking = [case for case in unlabelled if case.label is None]
    if lacking:
        raise InputError(
            f"{lacking[0].image}: no mask was found ({len(lacking)} of {len(unlabelled)} unlabelled images have none),"
            f" but {setting} expected one of every unlabelled image, to rank by; add them, take these images out, or"
            " choose a judge that is no oracle."
        )


def choose_flip(asked: Flip | Literal["auto"], labelled: Slices, coding: LabelCoding) -> tuple[Flip, list[str]]:
    """What `train.flip` means for these labels, and sentences about the flips that `auto` leaves out."""
    if asked != "auto":
        return asked, []
    flip, left_out = allowed_flips((label.numpy() for label in labelled.labels()), coding.classes)
    return flip, [
        f"Images are not mirrored ({name}): {coding.names[first]} and {coding.names[second]} always lie in the same"
        " order in the labels; train.flip=both mirrors them all the same."
        for name, (first, second) in left_out.items()
    ]


def class_shares(labelled: Slices, classes: int) -> Tensor:
    """Share of each class of all labelled pixels at network size, `(K,)` float32; `IGNORE` counts nowhere."""
    counts = torch.zeros(classes, dtype=torch.float64)
    for label in labelled.labels():
        counts += torch.bincount(label[label >= 0], minlength=classes)
    return (counts / counts.sum().clamp(min=1)).float()


def require_same_files(folder: RunFolder, data: RunData) -> None:
    """Make sure that what goes on reads what it began with.

    Raises:
        InputError: An image or mask is another one.
    """
    if changed := changed_files(folder, data.hashes()):
        raise other_files(data.cases.folder.root, folder, changed, "or begin anew in an empty folder.")


def other_files(root: str | Path, folder: RunFolder, changed: Sequence[str], otherwise: str) -> InputError:
    """The error about files below `root` that are not those a run began with; `otherwise` says what else helps."""
    return InputError(
        f"{root}: {first_few(changed)} {'is' if len(changed) == 1 else 'are'} not what {folder.path} began with, but"
        f" expected the same files; restore them, {otherwise}"
    )


def read_run_data(config: Config, folder: RunFolder, resume: bool, display: TrainingDisplay) -> RunData:
    """Read what a run trains on, and say what was found: a run that begins is split here, later it keeps its split.

    Args:
        config: The resolved configuration.
        folder: The run.
        resume: The run is there already; without a checkpoint it begins once more.
        display: Shows what was found.

    Raises:
        InputError: For an occupied folder, and as `load_data`.
    """
    if resume and folder.checkpoint.exists():
        scanned, split = scan_folder(Path(config.data.path), group_by=config.data.group_by), Split.read(folder.split)
    else:
        if not resume:
            folder.check_free()
        scanned, split = plan_split(config)
    with display.reading() as progress:
        uses_unlabelled, opens_hidden = load_method(config.method).uses_unlabelled, hidden_masks_setting(config)
        data = load_data(config, scanned, split, uses_unlabelled, progress, opens_hidden)
    display.data(config, data)
    return data


def step_dataset(config: Config, data: RunData, rank: int = 0, world: int = 1) -> StepDataset:
    """The batches of a run; without unlabelled images the labelled ones fill both halves.

    Args:
        config: The resolved configuration.
        data: What the run trains on.
        rank: Index of this process.
        world: Number of processes.
    """
    train = config.train
    labelled, unlabelled = train.batch
    if data.unlabelled is None:
        labelled, unlabelled = labelled + unlabelled, 0
    return StepDataset(
        data.labelled,
        data.unlabelled,
        (labelled, unlabelled),
        train.steps,
        train.seed,
        rank,
        world,
        labelled_only_steps=round(train.pretrain * train.steps),
    )

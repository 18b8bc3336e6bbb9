"""Decoded slices in memory, and the stream of training batches as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from knowsam.data.folder import Case
from knowsam.data.labels import LabelCoding
from knowsam.data.lists import grouped
from knowsam.data.pairing import read_pair
from knowsam.data.preprocess import Preprocessing, resize_label
from knowsam.errors import InputError
from knowsam.io import read_image
from knowsam.presentation.console import Advance
from knowsam.types import Batch


@dataclass
class DecodedCase:
    """One file at network size.

    Attributes:
        stem: The case's name.
        images: `(N, C, H, W)` float16 in [0, 1], each slice once, without its neighbours (`Preprocessing.context`).
            Half precision holds 8-bit steps exactly enough at half the memory.
        labels: `(N, H, W)` uint8 or int16, class index or `IGNORE`; None for an unlabelled case.
    """

    stem: str
    images: Tensor
    labels: Tensor | None


def decode_case(case: Case, preprocessing: Preprocessing, coding: LabelCoding | None) -> DecodedCase:
    """Read one file, and its mask if `coding` is given.

    Args:
        case: The files.
        preprocessing: What the networks expect.
        coding: How mask values become classes; None for a case used without its mask, which is then never opened.

    Raises:
        InputError: For an unreadable file, a mask of another size or with unknown values.
    """
    if coding is None:
        return DecodedCase(case.stem, preprocessing.single_slices(read_image(case.image)).to(torch.float16), None)
    if case.label is None:
        raise InputError(f"{case.image}: no mask was found, but expected one for a labelled case; add it or unlist it.")
    image, label = read_pair(case.image, case.label)
    images = preprocessing.single_slices(image).to(torch.float16)
    native = preprocessing.label_slices(coding.encode(label), image)
    return DecodedCase(case.stem, images, resize_label(native, preprocessing.size).to(torch.int16))


class Slices(Protocol):
    """Slices at network size by their index, whatever keeps them.

    Attributes:
        coding: Label coding where there are labels; else None.
    """

    @property
    def coding(self) -> LabelCoding | None: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, str]:
        """Slice `index`: image `(context * C, H, W)` float32, label `(H, W)` int64 or None, name."""

    def labels(self) -> Iterator[Tensor]:
        """The label of every slice in order, `(H, W)` int64."""


@dataclass
class SliceStore:
    """All slices of some cases at network size, decoded once and kept while memory lasts.

    Attributes:
        cases: The files, in order.
        preprocessing: What the networks expect.
        coding: Label coding of a labelled store; None for an unlabelled one, unless its masks are read for a judge.
        cache_mb: Decoded cases are kept until this many MB are used; later ones are decoded again at each use.
    """

    cases: Sequence[Case]
    preprocessing: Preprocessing
    coding: LabelCoding | None
    cache_mb: float = 4096.0
    _cache: dict[int, DecodedCase] = field(default_factory=dict, repr=False)
    _bytes: int = 0
    _index: list[tuple[int, int]] = field(default_factory=list, repr=False)
    _names: list[str] = field(default_factory=list, repr=False)

    def fill(self, advance: Advance | None = None) -> None:
        """Decode every case once, which finds broken files before training starts and counts the slices.

        Args:
            advance: Called after each case, for a progress bar.
        """
        self._index.clear()
        self._names.clear()
        for number in range(len(self.cases)):
            decoded = self._decode(number)
            count = len(decoded.images)
            self._index += [(number, position) for position in range(count)]
            self._names += [decoded.stem if count == 1 else f"{decoded.stem}:{at}" for at in range(count)]
            if advance is not None:
                advance()

    def _decode(self, number: int) -> DecodedCase:
        if number in self._cache:
            return self._cache[number]
        decoded = decode_case(self.cases[number], self.preprocessing, self.coding)
        size = decoded.images.nbytes + (0 if decoded.labels is None else decoded.labels.nbytes)
        if self._bytes + size <= self.cache_mb * 2**20:
            self._cache[number] = decoded
            self._bytes += size
        return decoded

    def __len__(self) -> int:
        return len(self._index)

    def labels(self) -> Iterator[Tensor]:
        """The label of every slice in order, `(H, W)` int64, without its image; each case is decoded once at most."""
        for number in range(len(self.cases)):
            labels = self._decode(number).labels
            assert labels is not None  # of a labelled store
            yield from labels.long()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, str]:
        """Slice `index`: image `(context * C, H, W)` float32, label `(H, W)` int64 or None, name."""
        number, position = self._index[index]
        decoded = self._decode(number)
        label = None if decoded.labels is None else decoded.labels[position].long()
        image = self.preprocessing.neighbours(decoded.images, position).float()
        return image, label, self._names[index]

    def name(self, index: int) -> str:
        """The name of a slice: its file's, and its position where the file has several."""
        return self._names[index]

    def volumes(self) -> list[list[int]]:
        """The slices of each volume, in order; a picture is a volume of one slice."""
        volume_of = {index: self.cases[number].volume for index, (number, _) in enumerate(self._index)}
        return list(grouped(range(len(self)), volume_of.__getitem__).values())


class IndexStream:
    """An endless shuffled stream over `n` items, addressed by position, so that it has no state to save.

    Every epoch is a permutation of its own, so that after `k` epochs each item was drawn exactly `k` times.
    """

    def __init__(self, n: int, seed: int, name: str) -> None:
        self.n = n
        self.key = [seed, *name.encode()]
        self._permutations: dict[int, np.ndarray] = {}

    def take(self, positions: Iterable[int]) -> list[int]:
        """Items at these positions of the stream."""
        return [int(self._permutation(position // self.n)[position % self.n]) for position in positions]

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            if len(self._permutations) > 2:  # a batch spans at most a few epochs; older ones are not needed again
                self._permutations.clear()
            self._permutations[epoch] = np.random.default_rng([*self.key, epoch]).permutation(self.n)
        return self._permutations[epoch]


class StepDataset(Dataset[Batch]):
    """`dataset[step]` is this process's share of the batch of that step, not yet augmented.

    The batch of a step depends on seed and step alone. Several processes cut the same batch into equal shares, so that
    together they see what one process would have seen.

    Args:
        labelled: Labelled slices.
        unlabelled: Unlabelled slices, or None for a supervised run; those with labels give them, too.
        batch: Images per step over all processes, labelled and unlabelled.
        steps: Number of steps.
        seed: Seed of the shuffling.
        rank: Index of this process.
        world: Number of processes; divides both batch sizes.
        labelled_only_steps: Number of first steps whose batch holds labelled images alone, as many as both halves
            together.
    """

    def __init__(
        self,
        labelled: Slices,
        unlabelled: Slices | None,
        batch: tuple[int, int],
        steps: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        labelled_only_steps: int = 0,
    ) -> None:
        for kind, size in zip(("labelled", "unlabelled"), batch, strict=True):
            if size % world:
                raise InputError(
                    f"batch: {size} {kind} images per step were asked for on {world} processes, but expected a"
                    f" multiple of {world}; the batch is the total over all processes."
                )
        # A batch of 4+0 is a batch without unlabelled half, whatever the folder holds.
        self.labelled, self.unlabelled = labelled, unlabelled if batch[1] else None
        self.batch, self.steps, self.rank, self.world = batch, steps, rank, world
        self.labelled_only_steps = 0 if self.unlabelled is None else labelled_only_steps
        self._labelled_stream = IndexStream(len(labelled), seed, "labelled")
        self._unlabelled_stream = (
            None if self.unlabelled is None else IndexStream(len(self.unlabelled), seed, "unlabelled")
        )

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        pretrained = min(step, self.labelled_only_steps)
        size = sum(self.batch) if step < self.labelled_only_steps else self.batch[0]
        first = pretrained * sum(self.batch) + (step - pretrained) * self.batch[0]
        images, labels, names = self._draw(self.labelled, self._labelled_stream, first, size)
        batch = Batch(torch.stack(images), torch.stack([label for label in labels if label is not None]))
        batch.labelled_stems = tuple(names)
        if self.unlabelled is not None and self._unlabelled_stream is not None and step >= self.labelled_only_steps:
            first = (step - pretrained) * self.batch[1]
            images, hidden, names = self._draw(self.unlabelled, self._unlabelled_stream, first, self.batch[1])
            batch.unlabelled_image, batch.unlabelled_stems = torch.stack(images), tuple(names)
            if self.unlabelled.coding is not None:
                batch.unlabelled_label = torch.stack([label for label in hidden if label is not None])
        return batch

    def _draw(
        self, store: Slices, stream: IndexStream, first: int, size: int
    ) -> tuple[list[Tensor], list[Tensor | None], list[str]]:
        """This process's share of `size` items of the stream from position `first` on."""
        share = size // self.world
        first += self.rank * share
        items = [store[index] for index in stream.take(range(first, first + share))]
        images, labels, names = zip(*items, strict=True)
        return list(images), list(labels), list(names)


@dataclass
class ScoringVolume:
    """One case with its truth: everything that is scored together, at native size.

    Attributes:
        name: The volume's name.
        images: `(N, C, H, W)` at network size, in [0, 1].
        labels: One `(h, w)` int64 native label map per slice, class index or `IGNORE`.
        group: What it shares with other volumes: usually the patient.
        files: The cases it was read from, in order.
        counts: Number of slices of each file.
        slice_axis: Axis along which its one file was cut; None for a picture, and for several files.
        spacing_mm: Distances of neighbouring pixels along the axes of `stacked`, in mm; None where they are not known,
            and for several files, whose distance from each other is stored nowhere.
    """

    name: str
    images: Tensor
    labels: list[Tensor]
    group: str = ""
    files: tuple[Case, ...] = ()
    counts: tuple[int, ...] = ()
    slice_axis: int | None = None
    spacing_mm: tuple[float, ...] | None = None

    def stacked(self, slices: Sequence[np.ndarray]) -> np.ndarray:
        """Put maps of its slices, `(h, w)` each, together: in the axes of its file, or `(N, h, w)` of several files."""
        if len(slices) == 1 and self.slice_axis is None:
            return slices[0]
        return np.moveaxis(np.stack(slices), 0, self.slice_axis or 0)


def scoring_volumes(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    coding: LabelCoding,
    advance: Advance | None = None,
    dtype: torch.dtype = torch.float16,
) -> Iterator[ScoringVolume]:
    """Read cases with their masks, one volume at a time; slices that belong to one volume are gathered into it.

    Args:
        cases: In the order in which a volume's slices are put together.
        preprocessing: What the networks expect.
        coding: How mask values become classes.
        advance: Called after each file.
        dtype: Of the images; half precision holds 8-bit steps exactly enough at half the memory.

    Raises:
        InputError: A case has no mask, a file is broken, or a mask does not fit its image or the coding.
    """
    for name, files in grouped(cases, lambda case: case.volume).items():
        images: list[Tensor] = []
        labels: list[Tensor] = []
        counts: list[int] = []
        axis: int | None = None
        spacing: tuple[float, ...] | None = None
        for case in files:
            if case.label is None:
                raise InputError(
                    f"{case.image}: no mask was found, but expected one for a validation case; add it or take it off"
                    " val.txt."
                )
            image, label = read_pair(case.image, case.label)
            images.append(preprocessing.slices(image).to(dtype))
            found = preprocessing.label_slices(coding.encode(label), image)
            labels.extend(found)
            counts.append(len(found))
            if len(files) == 1:
                axis = preprocessing.axis_of(image) if image.is_volume else None
                spacing = label.geometry.spacing_mm
            if advance is not None:
                advance()
        yield ScoringVolume(name, torch.cat(images), labels, files[0].group, tuple(files), tuple(counts), axis, spacing)

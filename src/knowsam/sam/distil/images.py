"""The images of some data folders at the teacher's size, with the masks that `train` would learn from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from knowsam.config import DataConfig
from knowsam.data.dataset import decode_case
from knowsam.data.folder import Case, DataFolder, scan_folder
from knowsam.data.labels import LabelCoding
from knowsam.data.preprocess import Preprocessing
from knowsam.data.split import make_split, parse_labelled
from knowsam.errors import InputError
from knowsam.runs.cases import cases_of, read_coding
from knowsam.sam.distil.settings import NO_MASKS, DistilConfig
from knowsam.types import IGNORE

HELD_OUT_SHARE = 0.1
"""Of the files, at least one: never learned from, measured on."""


@dataclass
class DistilImages:
    """What is distilled on.

    Attributes:
        image: `(N, 3, S, S)` uint8, every slice of a volume.
        label: `(N, S, S)` int16, class index; `IGNORE` all over where no mask is read.
        held_out: `(N,)` bool.
    """

    image: Tensor
    label: Tensor
    held_out: Tensor

    @property
    def has_mask(self) -> Tensor:
        """`(N,)` bool: every pixel's class is known, and there is an object."""
        label = self.label.flatten(1)
        return (label != IGNORE).all(dim=1) & (label > 0).any(dim=1)


def read_images(config: DistilConfig, side: int) -> DistilImages:
    """Read all images but those of `test.txt`, and the masks that `train` would learn from.

    Raises:
        InputError: A folder is none, a file is broken, or there are fewer than two images.
    """
    preprocessing = Preprocessing((side, side), 3)
    chosen = [one for folder in config.images for one in _chosen(scan_folder(folder), config)]
    with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock alone
        decoded = list(pool.map(lambda one: decode_case(one[0], preprocessing, one[1]), chosen))
    images = [(case.images.float() * 255).round().byte() for case in decoded]
    labels = [
        torch.full((len(case.images), side, side), IGNORE, dtype=torch.int16) if case.labels is None else case.labels
        for case in decoded
    ]
    count = sum(map(len, images))
    if count < 2:
        raise InputError(
            f"--images: {count} images were found in {', '.join(config.images)}, but expected at least 2; add more."
        )
    return DistilImages(torch.cat(images), torch.cat(labels), _held_out([len(one) for one in images]))


def _chosen(folder: DataFolder, config: DistilConfig) -> list[tuple[Case, LabelCoding | None]]:
    """The cases of a folder; with a coding where the mask is read."""
    test = set(folder.test or [])
    with_mask: list[Case] = []
    coding = None
    if folder.labelled_cases() and config.labelled != NO_MASKS:
        asked = parse_labelled(config.labelled) if config.labelled else None
        split = make_split(folder, asked, config.val_fraction, seed=0)
        coding = read_coding(folder, split, DataConfig()).coding
        with_mask = cases_of(folder, split.labelled)
    read = {case.stem for case in with_mask}
    cases = [case for stem, case in folder.cases.items() if stem not in test]
    return [(case, coding if case.stem in read else None) for case in cases]


def _held_out(slices: list[int]) -> Tensor:
    """Files spread evenly over all of them; of a single volume its last slices. `(N,)` bool."""
    files = len(slices)
    if files == 1:
        count = max(1, round(HELD_OUT_SHARE * slices[0]))
        return torch.arange(slices[0]) >= slices[0] - count
    count = max(1, round(HELD_OUT_SHARE * files))
    chosen = torch.zeros(files, dtype=torch.bool)
    chosen[((torch.arange(count) + 0.5) * files / count).long()] = True
    return chosen.repeat_interleave(torch.tensor(slices))

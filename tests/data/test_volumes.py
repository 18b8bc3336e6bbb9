"""Label maps of whole unlabelled volumes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from knowsam.data.dataset import SliceStore
from knowsam.data.folder import scan_folder
from knowsam.data.preprocess import Preprocessing
from knowsam.data.volumes import VolumeMaps
from support.folders import make_image, make_nifti_folder, save_picture


class Labeller:
    """Labels each slice with its position, and remembers what it saw."""

    def __init__(self, first: int = 0) -> None:
        self.seen: list[Tensor] = []
        self.first = first

    def __call__(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return torch.arange(self.first, self.first + len(image)).view(-1, 1, 1).expand(-1, *image.shape[2:])


def store_of(root: Path) -> SliceStore:
    store = SliceStore(list(scan_folder(root).cases.values()), Preprocessing((32, 32), 1), None)
    store.fill()
    return store


def test_each_volume_is_labelled_whole_once_and_handed_out_by_slice(tmp_path: Path) -> None:
    store, labeller = store_of(make_nifti_folder(tmp_path)), Labeller()
    maps = VolumeMaps(store, labeller)
    drawn = maps.of(["vol_1:3", "vol_0:0", "vol_1:4"])
    assert drawn.dtype == torch.int64
    assert drawn[:, 0, 0].tolist() == [3, 0, 4]
    assert drawn.shape == (3, 32, 32)
    assert [len(image) for image in labeller.seen] == [5, 5]
    assert torch.equal(labeller.seen[0], torch.stack([store[index][0] for index in range(5, 10)]))
    maps.of(["vol_0:2", "vol_1:0"])
    assert len(labeller.seen) == 2
    maps.forget()
    maps.of(["vol_0:2"])
    assert len(labeller.seen) == 3


def test_slices_of_several_files_are_one_volume_and_a_picture_is_its_own(tmp_path: Path) -> None:
    names = [f"patient{number}_slice_{position}" for number in range(2) for position in (0, 1, 2)]
    for seed, name in enumerate([*names, "single"]):
        save_picture(tmp_path / "images" / f"{name}.png", make_image(seed=seed))
    labeller = Labeller()
    maps = VolumeMaps(store_of(tmp_path), labeller)
    assert maps.of(["patient1_slice_2", "single", "patient0_slice_1"])[:, 0, 0].tolist() == [2, 0, 1]
    assert [len(image) for image in labeller.seen] == [3, 1, 3]


def test_many_classes_and_unknown_pixels_survive(tmp_path: Path) -> None:
    store = store_of(make_nifti_folder(tmp_path, n_images=1))
    for first in (-1, 300):
        assert VolumeMaps(store, Labeller(first)).of(["vol_0:0", "vol_0:4"])[:, 0, 0].tolist() == [first, first + 4]

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from knowsam.errors import InputError
from knowsam.io import apart, hdf5, read_image, read_label, write_label, write_probabilities
from support.folders import make_image, make_label, save_hdf5

SLICE = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)


def test_slice_and_volume(tmp_path: Path) -> None:
    flat = read_image(save_hdf5(tmp_path / "a.h5", image=SLICE, label=make_label((6, 8))))
    assert flat.array.shape == (6, 8, 1)
    np.testing.assert_array_equal(flat.array[..., 0], SLICE)
    volume = read_image(save_hdf5(tmp_path / "b.h5", image=np.stack([SLICE] * 3)))
    assert volume.array.shape == (3, 6, 8, 1)
    assert volume.geometry.slice_axis == 0
    assert volume.geometry.unit == "px"


def test_reading_the_image_does_not_read_the_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_hdf5(tmp_path / "a.h5", image=SLICE, label=make_label((6, 8)))
    asked: list[str] = []
    original = hdf5.find_dataset
    monkeypatch.setattr(hdf5, "find_dataset", lambda file, name, path: asked.append(name) or original(file, name, path))
    monkeypatch.setattr(apart.sys, "executable", "")  # read in this process
    read_image(path)
    assert asked == ["image"]


def test_missing_dataset_says_what_is_there(tmp_path: Path) -> None:
    path = save_hdf5(tmp_path / "a.h5", image=SLICE)
    with pytest.raises(InputError, match=r"no dataset `label` \(found: image\)"):
        read_label(path)


def test_wrong_shape_and_nan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(6,\)"):
        read_image(save_hdf5(tmp_path / "a.h5", image=SLICE[:, 0]))
    with pytest.raises(InputError, match="NaN"):
        read_image(save_hdf5(tmp_path / "b.h5", image=np.full((6, 8), np.nan)))


def test_colour(tmp_path: Path) -> None:
    colour = make_image((6, 8), channels=3)
    image = read_image(save_hdf5(tmp_path / "a.h5", image=colour, label=make_label((6, 8))[..., None]))
    assert not image.is_volume
    np.testing.assert_array_equal(image.array, colour)
    label = read_label(tmp_path / "a.h5")
    assert label.array.shape == image.spatial_shape
    np.testing.assert_array_equal(read_label(write_label(tmp_path / "o", label.array, image)).array, make_label((6, 8)))
    volume = read_image(save_hdf5(tmp_path / "b.h5", image=np.stack([colour] * 4)))
    assert volume.is_volume
    assert volume.array.shape == (4, 6, 8, 3)
    assert read_image(save_hdf5(tmp_path / "c.h5", image=SLICE[..., None])).array.shape == (6, 8, 1)
    for shape in ((6, 8, 4), (4, 6, 8, 2)):
        with pytest.raises(InputError, match="expected"):
            read_image(save_hdf5(tmp_path / "d.h5", image=np.zeros(shape)))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = save_hdf5(tmp_path / "a.h5", image=np.zeros((50, 50)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.h5: broken or truncated"):
        read_image(path)


def test_outputs_have_their_datasets(tmp_path: Path) -> None:
    image = read_image(save_hdf5(tmp_path / "a.h5", image=np.stack([SLICE] * 3)))
    label = make_label((3, 6, 8))
    np.testing.assert_array_equal(read_label(write_label(tmp_path / "o", label, image)).array, label)
    probs = np.random.default_rng(0).random((2, 3, 6, 8), dtype=np.float32)
    with h5py.File(write_probabilities(tmp_path / "p", probs, image)) as file:
        np.testing.assert_array_equal(file["probabilities"][()], probs)


def test_real_sample(shared_data: Path) -> None:
    path = sorted((shared_data / "acdc_h5" / "data").glob("*.h5"))[0]
    image, label = read_image(path), read_label(path)
    assert image.is_volume
    assert image.spatial_shape == label.array.shape
    assert set(np.unique(label.array)) <= {0, 1, 2, 3}


def test_a_broken_table_of_parts_is_refused_before_hdf5_follows_it(tmp_path: Path) -> None:
    path, label = tmp_path / "a.h5", make_label((20, 24))
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("label", data=label, chunks=(8, 8), compression="gzip")
        part = stored.id.get_chunk_info(5)
    np.testing.assert_array_equal(read_label(path).array, label)
    entry = struct.pack("<IIQQQ", part.size, 0, *part.chunk_offset, 0)
    raw = path.read_bytes()
    assert raw.count(entry) == 1
    path.write_bytes(raw.replace(entry, struct.pack("<IIQQQ", 0, 0, 0, 0, 0)))
    with pytest.raises(InputError, match=r"a\.h5: the table of parts of dataset `label` is broken"):
        read_label(path)

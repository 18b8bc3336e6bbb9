"""One limit of size for every format, looked at before memory is taken."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from knowsam.errors import InputError
from knowsam.io import read_image, read_label
from knowsam.io.limits import MAX_PIXELS, VARIABLE, check_size, max_pixels


def write(path: Path) -> Path:
    """A file of 30 x 20 (x 2) zeros."""
    array = np.zeros((30, 20), np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["image"] = file["label"] = array
    elif path.suffix == ".nii":
        nib.save(nib.Nifti1Image(np.zeros((30, 20, 1), np.uint8), np.eye(4)), path)
    else:
        Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.h5", "a.nii"])
def test_one_limit_for_every_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / name)
    monkeypatch.setenv(VARIABLE, "600")
    assert read_image(path).array.size == 600
    monkeypatch.setenv(VARIABLE, "599")
    for read in (read_image, read_label):
        with pytest.raises(InputError, match=rf"{name}: .*30 x 20.*{VARIABLE}=600 .*GB of memory") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_pillows_own_limit_neither_warns_nor_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png")
    for theirs in (400, 200):  # Pillow warns above its limit and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", theirs)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_image(path).array.shape == (30, 20, 1)
        assert theirs == Image.MAX_IMAGE_PIXELS


def test_files_are_read_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    read: list[int] = []
    threads = [threading.Thread(target=lambda: read.append(read_image(path).array.size)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [600] * 8
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_default_holds_a_large_ct_and_says_what_more_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert max_pixels() == MAX_PIXELS
    check_size((512, 512, 1024), Path("ct.nii"))
    with pytest.raises(InputError, match=r"slide\.png: 20000 x 20000 = 400 million pixels .* about 14\.0 GB"):
        check_size((20_000, 20_000), Path("slide.png"))
    # Numbers of a broken header must not overflow.
    with pytest.raises(InputError, match="million pixels"):
        check_size(np.array([2**40, 2**40], np.int64), Path("a.nii"))  # type: ignore[arg-type]


def test_a_limit_that_is_no_number_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1e9")
    with pytest.raises(InputError, match=f"{VARIABLE}: '1e9' was found, but expected a whole number"):
        read_image(write(tmp_path / "a.png"))


def test_a_header_that_promises_more_strips_than_there_are_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((30, 20), np.uint8), rowsperstrip=30)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["RowsPerStrip"].overwrite(1)
    with pytest.raises(InputError, match=r"1 parts of the picture were found, but its header promises 30"):
        read_image(path)


def test_values_of_another_hdf5_file_are_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = np.ones((4, 4), np.uint8)
    linked, virtual, outside = (tmp_path / f"{name}.h5" for name in ("linked", "virtual", "outside"))
    with h5py.File(linked, "w") as file:
        file["image"] = h5py.ExternalLink("secret.h5", "/image")
    layout = h5py.VirtualLayout((4, 4), np.uint8)
    layout[:] = h5py.VirtualSource("gone.h5", "image", (4, 4))
    with h5py.File(virtual, "w") as file:
        file.create_virtual_dataset("image", layout)
    with h5py.File(outside, "w") as file:
        file.create_dataset("image", (4, 4), np.uint8, external=[(str(tmp_path / "raw.bin"), 0, 16)])
    for path in (linked, virtual, outside):
        with pytest.raises(InputError, match="lies in another file"):
            read_image(path)


def test_a_tiff_cut_behind_its_pixels_is_no_whole_picture(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (96, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compression="tiff_deflate")
    assert np.array_equal(read_image(path).array, pixels)
    path.write_bytes(path.read_bytes()[:-5])  # the pixels are whole, the depth of the samples is not
    with pytest.raises(InputError, match=r"cut\.tif: the value of TIFF tag 258 lies outside the file"):
        read_image(path)

"""TIFF stacks: slices in their order, spacing where it is stated, and a sentence where pages could be anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from knowsam.errors import InputError
from knowsam.io import read_image, read_label, write_label, write_probabilities
from support.folders import make_image, make_label, save_stack

STACK = make_image((6, 24, 32))
SPACING_MM = (0.002, 0.0003, 0.0005)


def save_pages(path: Path, stack: np.ndarray) -> Path:
    with tifffile.TiffWriter(path) as file:
        for page in stack:
            file.write(page, photometric="minisblack")
    return path


def save_with_pillow(path: Path, stack: np.ndarray, compression: str) -> Path:
    frames = [Image.fromarray(one) for one in stack]
    frames[0].save(path, save_all=True, append_images=frames[1:], compression=compression)
    return path


def save_plain(path: Path, stack: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, stack, photometric="minisblack", **options)
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "plain pages": lambda path: save_plain(path, STACK, metadata=None),
    "pages of tifffile": lambda path: save_plain(path, STACK),
    "pages written one by one": lambda path: save_pages(path, STACK),
    "LZW, which Pillow decodes": lambda path: save_with_pillow(path, STACK, "tiff_lzw"),
    "ImageJ": lambda path: save_stack(path, STACK),
    "ImageJ above 4 GB, one page for all": lambda path: save_stack(path, STACK, truncate=True),
    "OME": lambda path: save_stack(path, STACK, ome=True),
    "tiles": lambda path: save_plain(path, STACK, tile=(16, 16), compression="zlib"),
    "big-endian": lambda path: save_plain(path, STACK, byteorder=">", bigtiff=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_slices_are_read_in_their_order(form: str, tmp_path: Path) -> None:
    path = FORMS[form](tmp_path / "a.tif")
    image, label = read_image(path), read_label(path)
    np.testing.assert_array_equal(image.array[..., 0], STACK)
    np.testing.assert_array_equal(label.array, STACK)
    assert image.is_volume
    assert image.geometry.slice_axis == 0
    assert image.geometry.spacing_mm is None


def test_planes_behind_one_page_keep_their_byte_order(tmp_path: Path) -> None:
    stack = STACK.astype(np.uint16) * 257
    path = save_stack(tmp_path / "a.tif", stack, truncate=True, byteorder=">")
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
    np.testing.assert_array_equal(read_image(path).array[..., 0], stack)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="promises 6 planes"):
        read_image(path)


def test_colour_and_palette_slices(tmp_path: Path) -> None:
    colour = make_image((6, 24, 32), channels=3)
    np.testing.assert_array_equal(read_image(save_stack(tmp_path / "a.tif", colour)).array, colour)
    grey = np.stack([STACK] * 3, axis=-1)
    np.testing.assert_array_equal(read_label(save_stack(tmp_path / "b.tif", grey)).array, STACK)
    with pytest.raises(InputError, match="a colour picture"):
        read_label(tmp_path / "a.tif")
    label = make_label((6, 24, 32))
    greys = np.zeros((3, 256), np.uint16)
    greys[:, :3] = np.array([0, 40, 90]) * 256
    tifffile.imwrite(tmp_path / "c.tif", label, photometric="palette", colormap=greys)
    np.testing.assert_array_equal(read_label(tmp_path / "c.tif").array, np.array([0, 40, 90])[label])


@pytest.mark.parametrize("ome", [False, True])
def test_spacing_is_read_where_all_of_it_is_stated(ome: bool, tmp_path: Path) -> None:
    image = read_image(save_stack(tmp_path / "a.tif", STACK, spacing_mm=SPACING_MM, ome=ome))
    assert image.geometry.spacing_mm == SPACING_MM
    mask = make_label(STACK.shape)
    again = read_label(write_label(tmp_path / "mask", mask, image))
    assert again.geometry == image.geometry
    np.testing.assert_array_equal(again.array, mask)


@pytest.mark.parametrize(
    ("metadata", "resolution"),
    [
        ({"unit": "um"}, (2, 2)),  # no distance of slices
        ({"spacing": 2.0, "unit": "pixel"}, (2, 2)),
        ({"spacing": 2.0}, (2, 2)),
        ({"spacing": -2.0, "unit": "um"}, (2, 2)),
    ],
)
def test_half_a_spacing_is_none(metadata: dict[str, Any], resolution: Any, tmp_path: Path) -> None:
    metadata = {"axes": "ZYX"} | metadata
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata=metadata, resolution=resolution)
    assert read_image(tmp_path / "a.tif").geometry.spacing_mm is None


def test_a_mask_has_the_pages_of_its_image(tmp_path: Path) -> None:
    image = read_image(save_stack(tmp_path / "a.tif", STACK, spacing_mm=SPACING_MM, turned=6))
    assert image.spatial_shape == (6, 32, 24)
    mask = make_label(image.spatial_shape)
    written = write_label(tmp_path / "mask", mask, image)
    assert written.suffix == ".tif"
    with tifffile.TiffFile(written) as file:
        assert (len(file.pages), file.pages[0].shape) == (6, STACK.shape[1:])
        assert file.series[0].axes == "ZYX"
    soft = np.stack([mask == value for value in range(3)]).astype(np.float32)
    with tifffile.TiffFile(write_probabilities(tmp_path / "soft", soft, image)) as file:
        assert file.series[0].axes == "ZCYX"


def save_sizes(path: Path) -> Path:
    with tifffile.TiffWriter(path) as file:
        for page in (*STACK, STACK[0, ::2, ::2]):
            file.write(page, photometric="minisblack", metadata=None)
    return path


def save_ome_without_others(path: Path) -> Path:
    save_stack(path, STACK, ome=True)
    content = path.read_bytes()
    assert content.count(b'SizeZ="6"') == 1
    path.write_bytes(content.replace(b'SizeZ="6"', b'SizeZ="9"'))
    return path


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda path: save_plain(path, STACK[:3]), "3 pages that does not say whether they are slices or channels"),
        (lambda path: tifffile.imwrite(path, STACK, imagej=True), "a TIFF of 6 channels"),
        (
            lambda path: tifffile.imwrite(path, STACK.reshape(3, 2, 24, 32), ome=True, metadata={"axes": "ZCYX"}),
            "a TIFF of 2 channels of 3 slices",
        ),
        (
            lambda path: tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TYX"}),
            "a TIFF of 6 time points",
        ),
        (lambda path: save_plain(path, STACK.reshape(3, 2, 24, 32)), "a TIFF of 3 x 2"),
        (save_sizes, "2 pictures of different kinds"),
        (save_ome_without_others, "6 pages were found, but its OME header promises 9 planes"),
    ],
)
def test_what_are_no_slices_of_one_volume_is_a_sentence(save: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    save(tmp_path / "a.tif")
    for read in (read_image, read_label):
        with pytest.raises(InputError, match=said) as caught:
            read(tmp_path / "a.tif")
        assert "\n" not in str(caught.value)


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    for ome, text, lie in ((True, b'SizeZ="6"', b'SizeZ="9999999999"'), (False, b"slices=6", b"slices=9")):
        path = save_stack(tmp_path / "a.tif", STACK, ome=ome)
        content = path.read_bytes()
        # At the end, where a longer text moves no pixels: the tag is pointed there.
        assert content.count(text) == 1
        if ome:
            with tifffile.TiffFile(path) as file:
                said = file.ome_metadata
            tifffile.tiffcomment(path, said.replace(text.decode(), lie.decode()))
        else:
            path.write_bytes(content.replace(text, lie).replace(b"images=6", b"images=9"))
        with pytest.raises(InputError, match="promises"):
            read_image(path)


def test_a_single_plane_is_a_picture(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], imagej=True)
    image = read_image(tmp_path / "a.tif")
    assert not image.is_volume
    np.testing.assert_array_equal(image.array[..., 0], STACK[0])


def test_a_cut_stack_is_refused(tmp_path: Path) -> None:
    path = save_stack(tmp_path / "a.tif", STACK, compression="zlib")
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a\.tif"):
            read_image(path)

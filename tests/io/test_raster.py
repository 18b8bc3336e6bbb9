from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from knowsam.errors import InputError
from knowsam.io import read_image, read_label, write_label, write_probabilities
from support.folders import make_image, make_label, orientation_tag, save_picture

GREY = make_image((6, 8))
RGB = make_image((6, 8), channels=3)
LABEL = make_label((6, 8), classes=3)
COLOURS = [0, 0, 0, 255, 0, 0, 0, 255, 0]


def palette_picture(path: Path, colours: list[int]) -> Path:
    picture = Image.frombytes("P", LABEL.shape[::-1], LABEL.tobytes())
    picture.putpalette(colours)
    picture.save(path)
    return path


def grey_png(path: Path, values: np.ndarray, depth: int) -> Path:
    """A grey PNG of 2 or 4 bits, which Pillow cannot write."""
    per_byte = 8 // depth
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % per_byte))).astype(np.uint8)
    shifts = np.arange(per_byte)[::-1] * depth
    packed = (padded.reshape(len(values), -1, per_byte) << shifts).sum(-1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_grey_and_rgb_keep_values(tmp_path: Path, suffix: str) -> None:
    grey = read_image(save_picture(tmp_path / f"g{suffix}", GREY))
    assert grey.array.shape == (6, 8, 1)
    assert not grey.is_volume
    np.testing.assert_array_equal(grey.array[..., 0], GREY)
    rgb = read_image(save_picture(tmp_path / f"c{suffix}", RGB))
    np.testing.assert_array_equal(rgb.array, RGB)
    assert rgb.geometry.spacing_mm is None
    assert rgb.geometry.unit == "px"


def test_a_jpeg_mask_is_known_to_be_lossy_whatever_its_name(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.jpg", GREY)
    assert read_image(path).array.shape == (6, 8, 1)
    assert read_label(path).storage.lossy
    path.rename(tmp_path / "disguised.png")
    assert read_label(tmp_path / "disguised.png").storage.lossy
    assert not read_label(save_picture(tmp_path / "b.png", LABEL)).storage.lossy


def test_a_grey_jpeg_mask_saved_as_colour_is_read_and_a_colour_one_refused(tmp_path: Path) -> None:
    grey = np.zeros((32, 32), np.uint8)
    grey[8:24, 8:24] = 255
    label = read_label(save_picture(tmp_path / "a.jpg", np.dstack([grey] * 3), quality=90)).array
    assert (label[grey == 255] > 200).all()
    assert (label[grey == 0] < 55).all()
    with pytest.raises(InputError, match=r"b\.jpg: a colour picture"):
        read_label(save_picture(tmp_path / "b.jpg", np.dstack([grey, grey * 0, grey * 0]), quality=90))


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    for path in (tmp_path / "a.png", tmp_path / "a.tif"):
        image = read_image(save_picture(path, deep))
        assert image.array.dtype == np.uint16
        np.testing.assert_array_equal(image.array[..., 0], deep)
    tifffile.imwrite(tmp_path / "rgb.tif", RGB.astype(np.uint16) * 257, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.tif").array, RGB.astype(np.uint16) * 257)


def test_sixteen_bit_label_above_255(tmp_path: Path) -> None:
    label = LABEL.astype(np.uint16) * 300
    np.testing.assert_array_equal(read_label(save_picture(tmp_path / "a.png", label)).array, label)


def test_big_endian_tiff_becomes_native(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.uint16), byteorder=">")
    array = read_image(tmp_path / "a.tif").array
    assert array.dtype.isnative
    np.testing.assert_array_equal(array[..., 0], GREY)


def test_float_tiff(tmp_path: Path) -> None:
    values = GREY.astype(np.float32) / 7
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[..., 0], values)
    with pytest.raises(InputError, match="not whole numbers"):
        read_label(tmp_path / "a.tif")
    values[0, :2] = np.nan
    tifffile.imwrite(tmp_path / "b.tif", values)
    with pytest.raises(InputError, match=r"b\.tif.*2 of 48 values are NaN"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    path = save_picture(tmp_path / "a.tif", GREY, compression=compression)
    np.testing.assert_array_equal(read_image(path).array[..., 0], GREY)
    np.testing.assert_array_equal(read_label(path).array, GREY)


def test_jpeg_compressed_tiff_mask_is_lossy(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.tif", RGB, compression="jpeg")
    assert read_image(path).array.shape == (6, 8, 3)
    grey = save_picture(tmp_path / "b.tif", LABEL * 100, compression="jpeg")
    assert read_label(grey).storage.lossy


def test_planar_and_alpha_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p.tif", np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "p.tif").array, RGB)
    rgba = np.dstack([RGB, GREY])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, RGB)


def test_white_is_zero_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[..., 0], 255 - GREY)
    with pytest.raises(InputError, match="white as zero"):
        read_label(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_palette_is_expanded_for_images_and_kept_for_labels(tmp_path: Path, suffix: str) -> None:
    path = palette_picture(tmp_path / f"a{suffix}", COLOURS)
    np.testing.assert_array_equal(read_label(path).array, LABEL)
    expected = np.reshape(COLOURS, (3, 3))[LABEL]
    np.testing.assert_array_equal(read_image(path).array, expected)
    assert read_label(path).storage.palette[:3] == ((0, 0, 0), (255, 0, 0), (0, 255, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
def test_a_grey_palette_stands_for_its_greys(tmp_path: Path, suffix: str) -> None:
    grey = palette_picture(tmp_path / f"b{suffix}", [200, 200, 200, 9, 9, 9, 0, 0, 0])
    expected = np.array([200, 9, 0])[LABEL]
    np.testing.assert_array_equal(read_image(grey).array[..., 0], expected)
    np.testing.assert_array_equal(read_label(grey).array, expected)
    assert read_label(grey).storage.palette is None


def test_gif(tmp_path: Path) -> None:
    mask = (LABEL > 0).astype(np.uint8) * 255
    np.testing.assert_array_equal(read_label(save_picture(tmp_path / "a.gif", mask)).array, mask)
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif").array[..., 0], mask)
    frames = [Image.fromarray(mask), Image.fromarray(255 - mask)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"b\.gif: a GIF of several pictures"):
        read_label(tmp_path / "b.gif")


def test_alpha_is_dropped_from_images_and_must_be_opaque_in_masks(tmp_path: Path) -> None:
    rgba = save_picture(tmp_path / "rgba.png", np.dstack([RGB, GREY]))
    np.testing.assert_array_equal(read_image(rgba).array, RGB)
    grey_alpha = save_picture(tmp_path / "la.png", np.dstack([GREY, 255 - GREY]))
    np.testing.assert_array_equal(read_image(grey_alpha).array, GREY[..., None])
    opaque = np.full_like(LABEL, 255)
    for name, channels in (("rgba", [LABEL] * 3), ("la", [LABEL])):
        mask = save_picture(tmp_path / f"{name}_mask.png", np.dstack([*channels, opaque]))
        np.testing.assert_array_equal(read_label(mask).array, LABEL)
        clear = save_picture(tmp_path / f"{name}_clear.png", np.dstack([*channels, GREY]))
        with pytest.raises(InputError, match=rf"{name}_clear\.png: a mask with \d+ of 48 pixels transparent"):
            read_label(clear)
    tifffile.imwrite(
        tmp_path / "m.tif", np.dstack([LABEL] * 3 + [GREY]), photometric="rgb", extrasamples=["unassalpha"]
    )
    with pytest.raises(InputError, match="transparent"):
        read_label(tmp_path / "m.tif")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_one_bit(tmp_path: Path, name: str) -> None:
    path = save_picture(tmp_path / name, LABEL > 0)
    np.testing.assert_array_equal(read_label(path).array, (LABEL > 0).astype(int))
    assert read_label(path).storage.one_bit
    np.testing.assert_array_equal(read_image(path).array[..., 0], (LABEL > 0) * 255)


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_one_bit_with_white_first(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray((LABEL == 0).astype(np.uint8), mode="P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.save(tmp_path / name, bits=1)
    label = read_label(tmp_path / name)
    np.testing.assert_array_equal(label.array, (LABEL > 0) * 255)
    assert label.storage.one_bit


def test_fax_compressed_one_bit_tiff(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.tif", LABEL > 0, compression="group4")
    np.testing.assert_array_equal(read_label(path).array, (LABEL > 0).astype(int))


@pytest.mark.parametrize("depth", [2, 4])
def test_two_and_four_bit_labels_are_not_stretched(tmp_path: Path, depth: int) -> None:
    path = grey_png(tmp_path / "a.png", LABEL, depth)
    np.testing.assert_array_equal(read_label(path).array, LABEL)
    assert read_image(path).array.max() == 2 * 255 // (2**depth - 1)


def test_colour_mask(tmp_path: Path) -> None:
    same = save_picture(tmp_path / "same.png", np.dstack([LABEL] * 3))
    np.testing.assert_array_equal(read_label(same).array, LABEL)
    with pytest.raises(InputError, match=r"differ\.png: a colour picture of 48 colours.*one number per pixel"):
        read_label(save_picture(tmp_path / "differ.png", RGB))


def test_cmyk_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="CMYK"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = save_picture(tmp_path / f"a{suffix}", make_image((40, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.\w+: broken or truncated") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def tagged(path: Path, array: np.ndarray, tag: int) -> Path:
    return save_picture(path, array, exif=orientation_tag(tag))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_the_orientation_tag_is_applied_as_viewers_do(tmp_path: Path, name: str, tag: int) -> None:
    path = tagged(tmp_path / name, RGB, tag)
    with Image.open(path) as stored:  # Pillow itself turns a TIFF
        shown = np.asarray(ImageOps.exif_transpose(stored))
    image = read_image(path)
    np.testing.assert_array_equal(image.array, shown)
    assert image.geometry.as_stored(image.array).shape == RGB.shape
    if path.suffix != ".jpg":
        np.testing.assert_array_equal(image.geometry.as_stored(image.array), RGB)
    assert image.geometry.oriented == (tag != 1)
    mask = LABEL if tag < 5 else LABEL.T
    mask = mask + np.arange(mask.shape[1], dtype=np.uint8)
    written = write_label(tmp_path / "mask", mask, image)
    with Image.open(written) as stored:
        assert stored.size == (8, 6)  # as the image is stored, with its tag
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(stored)), mask)
    np.testing.assert_array_equal(read_label(written).array, mask)
    soft = np.stack([mask, 1 - mask]).astype(np.float32)
    pages = tifffile.imread(write_probabilities(tmp_path / "soft", soft, image))
    assert pages.shape == (2, 6, 8)
    if name == "a.tif":  # a compression that tifffile leaves to Pillow
        packed = read_image(save_picture(tmp_path / "b.tif", RGB, exif=orientation_tag(tag), compression="tiff_lzw"))
        np.testing.assert_array_equal(packed.array, shown)
        assert packed.geometry.turn == image.geometry.turn


def test_a_tag_that_says_nothing_is_none(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(tagged(tmp_path / "a.png", GREY, 9)).array[..., 0], GREY)
    content = bytearray(tagged(tmp_path / "b.jpg", GREY, 6).read_bytes())
    place = content.index(b"Exif") + 6
    content[place : place + 8] = bytes(8)  # neither byte order
    (tmp_path / "b.jpg").write_bytes(content)
    assert read_image(tmp_path / "b.jpg").array.shape == (6, 8, 1)


def test_moving_pictures_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(one) for one in make_image((6, 24, 32))]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="a PNG of several pictures"):
        read_image(tmp_path / "moving.png")

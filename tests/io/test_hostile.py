"""Files of strangers: corruption that a checksum or a length shows, sizes that are lies, files that are none."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from knowsam.errors import InputError
from knowsam.io import IMAGE_SUFFIXES, checks, read_image, read_label
from support.folders import make_image, make_label, save_hdf5, save_nifti, save_picture


def refusal(path: Path) -> str:
    """The one sentence about a file."""
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int) -> bytes:
    """A whole PNG of 16 bits that promises a size, and has next to no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def every_flip(path: Path, step: int = 1) -> list[int]:
    """The bits of a file that can be flipped so that other values are read."""
    whole, content = read_image(path).array, path.read_bytes()
    wrong = []
    for bit in range(0, 8 * len(content), step):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = read_image(path).array
        except InputError:
            continue
        if found.shape != whole.shape or not np.array_equal(found, whole):
            wrong.append(bit)
    return wrong


def test_a_flipped_bit_is_noticed_where_the_format_has_checksums(tmp_path: Path) -> None:
    label = make_label((6, 7, 5))
    assert every_flip(save_nifti(tmp_path / "a.nii.gz", label), 7) == []
    assert every_flip(save_picture(tmp_path / "a.png", label[..., 0]), 3) == []
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=make_image((8, 8)), fletcher32=True, chunks=(8, 8))
        offset, size = file["image"].id.get_chunk_info(0)[-2:]
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[offset + size // 2] ^= 1
    (tmp_path / "a.h5").write_bytes(content)
    refusal(tmp_path / "a.h5")


@pytest.mark.parametrize("suffix", [suffix for suffix in IMAGE_SUFFIXES if suffix not in (".dcm", ".nii.gz")])
def test_a_cut_file_is_refused_or_reads_the_same(suffix: str, tmp_path: Path) -> None:
    path, image = tmp_path / f"a{suffix}", make_image((20, 24))
    if suffix == ".nii":
        save_nifti(path, image[..., None])
    elif suffix in (".h5", ".hdf5"):
        save_hdf5(path, image=image)
    else:
        save_picture(path, image)
    whole, content = read_image(path).array, path.read_bytes()
    for length in [*range(len(content) - 12, len(content)), *range(1, len(content), 37)]:
        path.write_bytes(content[:length])
        try:
            found = read_image(path).array
        except InputError:
            continue
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", None])
def test_a_cut_tiff_is_refused_or_reads_the_same(compression: str | None, tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.tif", make_image((20, 24)), compression=compression)
    whole, content = read_image(path).array, path.read_bytes()
    for cut in range(1, 11):
        path.write_bytes(content[:-cut])
        try:
            found = read_image(path).array
        except InputError:
            continue
        np.testing.assert_array_equal(found, whole)


def test_a_volume_that_goes_on_behind_its_end_is_read_to_the_checksum_and_a_bomb_is_not(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", make_label((6, 7, 5)))
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content + b"\0" * 100))
    assert read_image(path).array.shape == (6, 7, 5, 1)
    path.write_bytes(gzip.compress(content + b"\0" * (1 << 22)))
    assert "more than twice as much is packed" in refusal(path)


def test_promises_are_held_against_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(16_000, 16_000))
    assert "header promises 16000 x 16000 pixels" in refusal(tmp_path / "a.png")
    for suffix in (".nii", ".nii.gz"):
        path = save_nifti(tmp_path / f"a{suffix}", make_label((6, 7, 5)))
        content = bytearray(path.read_bytes() if suffix == ".nii" else gzip.decompress(path.read_bytes()))
        content[42:48] = struct.pack("<3h", 600, 600, 700)
        path.write_bytes(content if suffix == ".nii" else gzip.compress(content))
        assert "header promises 600 x 600 x 700 pixels" in refusal(path)
    path = save_picture(tmp_path / "a.bmp", make_image((20, 24)))
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", 15_000, 15_000)
    path.write_bytes(content)
    assert "header promises 15000 x 15000 pixels" in refusal(path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (10_000, 20_000), np.uint8, chunks=(1, 10))
    assert "header promises 10000 x 20000 pixels" in refusal(tmp_path / "a.h5")


def test_what_would_be_made_up_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (16, 16), np.uint8, chunks=(8, 8))[:8] = 1
        file.create_dataset("label", (16, 16), np.uint8)
    assert "2 parts of dataset `image` are stored, but expected 4" in refusal(tmp_path / "a.h5")
    with pytest.raises(InputError, match="0 bytes of dataset `label` are stored, but expected 256"):
        read_label(tmp_path / "a.h5")
    gif = save_picture(tmp_path / "a.gif", make_label((20, 24)))
    content = bytearray(gif.read_bytes())
    content[6:10] = struct.pack("<HH", 300, 300)
    gif.write_bytes(content)
    assert "covers only a part of its canvas" in refusal(gif)
    for tag, value, said in ((279, 0, "is not stored"), (273, 10**6, "is not stored, or lies behind")):
        tifffile.imwrite(tmp_path / "a.tif", make_image((20, 24)), rowsperstrip=20)
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as opened:
            opened.pages[0].tags[tag].overwrite(value)
        assert said in refusal(tmp_path / "a.tif")


def test_a_link_is_not_followed_out_of_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, link in (
        ("external", h5py.ExternalLink(str(tmp_path / "pipe"), "/image")),
        ("soft", h5py.SoftLink("/door/image")),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["door"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
            file["image"] = link
        assert "expected all of it here" in refusal(tmp_path / f"{name}.h5")


def test_an_ome_header_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("other.tif")
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0"'
        ' DimensionOrder="XYZCT" Type="uint8" SizeX="24" SizeY="20" SizeZ="2" SizeC="1" SizeT="1">'
        '<TiffData FirstZ="0" IFD="0"><UUID FileName="a.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData FirstZ="1" IFD="0"><UUID FileName="other.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite("a.tif", make_image((20, 24)), description=xml, metadata=None)
    assert read_image(Path("a.tif")).array.shape == (20, 24, 1)  # the FIFO was not waited for


def test_postscript_is_no_picture_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n")
    assert "no known picture format inside" in refusal(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii", "a.nii.gz", "a.h5", "a.dcm"])
def test_what_is_no_file_is_not_opened(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    assert "a FIFO was found, but expected a file" in refusal(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "a device was found, but expected a file" in refusal(path)
    path.unlink()
    path.symlink_to(path)
    assert "could not be read (Too many levels of symbolic links)" in refusal(path)


def test_a_fifo_without_suffix_is_passed_over(tmp_path: Path) -> None:
    from knowsam.io import is_image_file

    os.mkfifo(tmp_path / "IM0001")
    assert not is_image_file(tmp_path / "IM0001")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "a.tif", "a.dcm"])
def test_errors_of_the_system_are_no_broken_files(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins
    import io

    path = tmp_path / name
    path.write_bytes(b"x" * 200)

    def fail(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file) == str(path):
            raise OSError(number, os.strerror(number), str(path))
        return opened(file, *arguments, **options)

    opened = builtins.open
    monkeypatch.setattr(builtins, "open", fail)
    monkeypatch.setattr(io, "open", fail)
    said = refusal(path)
    assert f"could not be read ({os.strerror(number)})" in said
    assert "broken" not in said


def test_lack_of_memory_is_told_as_such() -> None:
    assert "memory ran out" in str(checks.unreadable(Path("a.png"), "PNG picture", MemoryError()))


def test_libraries_print_nothing_about_a_broken_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save_nifti(tmp_path / "a.nii", make_label((6, 7, 5)))
    content = bytearray(path.read_bytes())
    content[252:256] = struct.pack("<2h", 34, 35)
    path.write_bytes(content)
    assert read_image(path).geometry.doubt == "has a broken header (qform_code 34 not valid; setting to 0)"
    tiff = save_picture(tmp_path / "a.tif", make_image((20, 24)), compression="tiff_lzw")
    content = bytearray(tiff.read_bytes())
    for offset in range(len(content) - 100, len(content) - 40):
        content[offset] ^= 0x55
        tiff.write_bytes(content)
        refusal(tiff)
    assert capfd.readouterr() == ("", "")


def test_a_unit_that_stands_for_nothing_is_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", make_label((6, 7, 5)))
    content = bytearray(path.read_bytes())
    content[123] = 7
    path.write_bytes(content)
    assert "7 for the unit of distances" in refusal(path)


@pytest.mark.parametrize("size", [2_000_000_000, -16])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_extension_of_a_header_takes_no_memory_that_it_does_not_need(size: int, suffix: str, tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii", make_image((4, 5, 6)).astype(np.int16))
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[348] = 1  # there are extensions
    content[108:112] = struct.pack("<f", 2e9)  # and the voxels lie behind them
    content[352:360] = struct.pack("<ii", size, 4)
    path = tmp_path / f"hostile{suffix}"
    content += bytes(1 << 26)
    path.write_bytes(gzip.compress(content, 1) if suffix.endswith("gz") else content)
    del content
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_cifti_and_analyze_are_no_nifti(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.AnalyzeImage(make_label((6, 7, 5)), np.eye(4)).to_file_map(
        {"header": nib.FileHolder(str(path)), "image": nib.FileHolder(str(tmp_path / "a.img"))}
    )
    assert "no NIfTI header at its beginning" in refusal(path)


@pytest.mark.parametrize("rows", [60_000, 1])
def test_dicom_frames_are_counted_before_there_is_a_record_of_each(rows: int, tmp_path: Path) -> None:
    dicom = pytest.importorskip("support.dicom")
    picture = dicom.make_picture(make_image((20, 24)))
    picture.NumberOfFrames, picture.Rows, picture.Columns = 2_000_000_000, rows, 1
    path = dicom.save(picture, tmp_path / "a.dcm")
    assert "promises" in refusal(path) or "pixels were found" in refusal(path)


def test_a_deflated_dicom_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom = pytest.importorskip("support.dicom")
    picture = dicom.make_picture(make_image((20, 24)))
    picture.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    path = dicom.save(picture, tmp_path / "a.dcm")
    assert read_image(path).array.shape == (20, 24, 1)
    monkeypatch.setenv("KNOWSAM_MAX_PIXELS", "480")
    picture.add_new(0x00091001, "OB", b"\0" * 10_000)
    assert "more is packed in it than an image may have" in refusal(dicom.save(picture, tmp_path / "b.dcm"))


def test_pixels_of_a_real_picture_are_still_read(tmp_path: Path) -> None:
    for compressed in (1, 9):
        path = tmp_path / f"{compressed}.png"
        Image.fromarray(np.zeros((2000, 2000), np.uint8)).save(path, compress_level=compressed)
        assert read_image(path).array.shape == (2000, 2000, 1)

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from knowsam.errors import InputError
from knowsam.io import read_image, read_label, write_label, write_probabilities
from knowsam.io.nifti import largest_spacing_axis
from support.folders import (
    SPACING_MM,
    make_affine,
    make_image,
    make_label,
    save_nifti,
    save_turned,
    turned_affine,
)

SHAPE = (6, 8, 3)
VOLUME = make_image(SHAPE).astype(np.int16) - 100


def test_canonical_order_dtype_and_geometry(tmp_path: Path) -> None:
    image = read_image(save_nifti(tmp_path / "a.nii.gz", VOLUME))
    assert image.is_volume
    assert image.array.dtype == np.int16
    # The helper's third axis runs to inferior: it is turned, and the last voxel becomes the first.
    np.testing.assert_array_equal(image.array[..., 0], VOLUME[..., ::-1])
    np.testing.assert_array_equal(image.geometry.as_stored(image.array[..., 0]), VOLUME)
    np.testing.assert_allclose(image.geometry.spacing_mm, SPACING_MM, rtol=1e-6)
    affine = make_affine()
    affine[:, 3] += 2 * affine[:, 2]
    affine[:, 2] *= -1
    np.testing.assert_allclose(image.geometry.affine, affine, atol=1e-5)
    assert image.geometry.slice_axis == 2
    assert image.geometry.unit == "mm"


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = read_image(save_nifti(tmp_path / "a.nii", VOLUME, slope_inter=(0.5, -10.0)))
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(image.array[..., 0], VOLUME[..., ::-1] * 0.5 - 10)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("codes", [(2, 1), (1, 0), (0, 3), (4, 4)])
def test_label_keeps_affine_codes_and_header(tmp_path: Path, name: str, codes: tuple[int, int]) -> None:
    source = save_nifti(tmp_path / name, VOLUME, slope_inter=(0.5, 3.0), codes=codes)
    label = make_label(SHAPE)
    written = write_label(tmp_path / "out", label.astype(np.int64), read_image(source))
    assert written.name == name.replace("a", "out", 1)
    before, after = nib.load(source), nib.load(written)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    for code in ("qform_code", "sform_code", "xyzt_units"):
        assert int(after.header[code]) == int(before.header[code])
    np.testing.assert_array_equal(after.header.get_zooms(), before.header.get_zooms())
    assert after.header.get_data_dtype() == np.uint8
    assert (after.dataobj.slope, after.dataobj.inter) == (1.0, 0.0)
    np.testing.assert_array_equal(read_label(written).array, label)


def test_label_above_255_is_written_with_16_bits(tmp_path: Path) -> None:
    image = read_image(save_nifti(tmp_path / "a.nii", VOLUME))
    written = write_label(tmp_path / "out", make_label(SHAPE).astype(int) * 200, image)
    assert nib.load(written).get_data_dtype() == np.uint16
    assert read_label(written).array.max() == 400


def test_trailing_axis_of_one_is_squeezed_and_written_back(tmp_path: Path) -> None:
    image = read_image(save_nifti(tmp_path / "a.nii", VOLUME[..., None]))
    assert image.array.shape == (*SHAPE, 1)
    written = write_label(tmp_path / "out", make_label(SHAPE), image)
    assert nib.load(written).shape == (*SHAPE, 1)
    assert read_label(written).array.shape == SHAPE


def test_two_dimensional_file_is_a_picture(tmp_path: Path) -> None:
    image = read_image(save_nifti(tmp_path / "a.nii", VOLUME[..., 0]))
    assert image.array.shape == (6, 8, 1)
    assert not image.is_volume
    assert image.geometry.spacing_mm == pytest.approx(SPACING_MM[:2])
    written = write_label(tmp_path / "out", make_label((6, 8)), image)
    assert nib.load(written).shape == (6, 8)


def test_time_series_and_colour_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split time points"):
        read_image(save_nifti(tmp_path / "a.nii", np.stack([VOLUME, VOLUME], axis=-1)))
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InputError, match="grey volume"):
        read_image(save_nifti(tmp_path / "b.nii", colour))


def test_nan_is_counted(tmp_path: Path) -> None:
    values = VOLUME.astype(np.float32)
    values[0, 0, :2] = np.nan
    values[1, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"a\.nii\.gz: 3 of 144 values are NaN or infinite"):
        read_image(save_nifti(tmp_path / "a.nii.gz", values))


def test_float_label_must_be_whole(tmp_path: Path) -> None:
    label = make_label(SHAPE).astype(np.float64)
    np.testing.assert_array_equal(read_label(save_nifti(tmp_path / "a.nii", label)).array, label)
    with pytest.raises(InputError, match=r"not whole numbers \(such as 0\.5"):
        read_label(save_nifti(tmp_path / "b.nii", label + 0.5))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files_are_named(tmp_path: Path, name: str, share: float) -> None:
    path = save_nifti(tmp_path / name, make_image((20, 20, 20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.nii.*broken or truncated"):
        read_image(path)


def test_spacing_that_is_no_number_is_px_and_microns_are_converted(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[80:84] = np.float32(np.nan).tobytes()  # pixdim[1], which nibabel sets from the affine on saving
    (tmp_path / "a.nii").write_bytes(raw)
    geometry = read_image(tmp_path / "a.nii").geometry
    assert geometry.spacing_mm == (1, 1, 1)
    assert "no spacing in pixdim" in geometry.doubt
    raw[254:256] = bytes(2)  # sform_code: now nothing else says it
    (tmp_path / "a.nii").write_bytes(raw)
    assert read_image(tmp_path / "a.nii").geometry.unit == "px"
    image = nib.Nifti1Image(VOLUME, np.diag([500, 500, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "b.nii")
    assert read_image(tmp_path / "b.nii").geometry.spacing_mm == pytest.approx((0.5, 0.5, 2.0))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "IPL", "SRA", "AIL"])
def test_a_volume_is_the_same_however_it_is_stored(tmp_path: Path, codes: str) -> None:
    ras = save_turned(tmp_path / "ras.nii", VOLUME, "RAS", spacing_mm=(1, 2, 3))
    target = nib.orientations.axcodes2ornt(codes)
    turned = nib.load(ras).as_reoriented(target)
    nib.save(turned, tmp_path / "turned.nii")
    first, second = read_image(ras), read_image(tmp_path / "turned.nii")
    np.testing.assert_array_equal(second.array, first.array)
    np.testing.assert_allclose(second.geometry.affine, first.geometry.affine, atol=1e-6)
    assert second.geometry.spacing_mm == (1, 2, 3)
    assert second.geometry.slice_axis == 2
    label = make_label((3, 6, 8)).transpose(1, 2, 0)
    written = nib.load(write_label(tmp_path / "out", label, second))
    np.testing.assert_array_equal(written.affine, turned.affine)
    assert int(written.header["sform_code"]) == int(turned.header["sform_code"])
    np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(written).dataobj), label)


def test_a_picture_is_the_same_however_it_is_stored(tmp_path: Path) -> None:
    first = read_image(save_turned(tmp_path / "a.nii", VOLUME[..., 0], "RAS", spacing_mm=(1, 2, 3)))
    second = read_image(save_turned(tmp_path / "b.nii", VOLUME[::-1, ::-1, 0].T, "PLS", spacing_mm=(2, 1, 3)))
    np.testing.assert_array_equal(second.array, first.array)
    assert first.geometry.spacing_mm == second.geometry.spacing_mm == (1, 2)


def test_what_does_not_say_how_it_lies_stays_as_stored(tmp_path: Path) -> None:
    image = read_image(save_turned(tmp_path / "a.nii", VOLUME, "LPS", stated=0))
    assert not image.geometry.oriented
    np.testing.assert_array_equal(image.array[..., 0], VOLUME)


def test_the_affine_is_believed_where_pixdim_contradicts_it(tmp_path: Path) -> None:
    path = save_turned(tmp_path / "a.nii", VOLUME, "PIR", spacing_mm=(1, 1, 1))
    raw = bytearray(path.read_bytes())
    raw[252:254] = bytes(2)  # qform_code: pixdim is the spacing of the qform
    raw[88:92] = np.float32(0.97).tobytes()  # pixdim[3]
    path.write_bytes(raw)
    geometry = read_image(path).geometry
    assert geometry.spacing_mm == pytest.approx((1, 1, 1))
    assert "1 x 1 x 0.97 mm in pixdim and 1 x 1 x 1 mm in its affine" in geometry.doubt
    raw[88:92] = np.float32(0.995).tobytes()
    path.write_bytes(raw)
    geometry = read_image(path).geometry
    assert (geometry.doubt, geometry.spacing_mm) == ("", pytest.approx((1, 1, 1)))
    image = nib.Nifti1Image(VOLUME, None)
    image.set_sform(turned_affine("RAS"), code=1)
    image.set_qform(turned_affine("LPS"), code=1)
    nib.save(image, tmp_path / "b.nii")
    assert "turns differently by its qform" in read_image(tmp_path / "b.nii").geometry.doubt


def test_nifti2_stays_nifti2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VOLUME, make_affine()), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    written = write_label(tmp_path / "out", make_label(SHAPE), image)
    assert isinstance(nib.load(written), nib.Nifti2Image)


def test_slice_axis_rule() -> None:
    assert largest_spacing_axis((1.0, 1.0, 1.0), (5, 5, 5)) == 2
    assert largest_spacing_axis((3.0, 1.0, 1.0), (5, 5, 5)) == 0
    assert largest_spacing_axis((1.00001, 1.0, 0.99999), (5, 5, 5)) == 2
    assert largest_spacing_axis((1.0, 1.0, 0.5), (5, 5, 1)) == 2


def test_probabilities_are_4d_with_the_class_last(tmp_path: Path) -> None:
    image = read_image(save_nifti(tmp_path / "a.nii.gz", VOLUME))
    probs = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)
    after = nib.load(write_probabilities(tmp_path / "out", probs, image))
    assert after.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.moveaxis(probs, 0, -1)[:, :, ::-1])
    np.testing.assert_allclose(after.affine, make_affine(), atol=1e-5)


def test_real_volume(shared_data: Path, tmp_path: Path) -> None:
    path = sorted((shared_data / "hippocampus" / "images").iterdir())[0]
    image = read_image(path)
    label = read_label(shared_data / "hippocampus" / "labels" / path.name)
    assert image.spatial_shape == label.array.shape
    written = write_label(tmp_path / "out", label.array, image)
    np.testing.assert_array_equal(nib.load(written).affine, nib.load(path).affine)
    np.testing.assert_array_equal(read_label(written).array, label.array)

"""What every reader promises: what is written for an image reads back the same, in the same place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from knowsam.io import READERS, file_suffix, read_image, read_label, write_label, write_map, write_probabilities
from knowsam.types import MedicalImage
from support.folders import (
    make_image,
    make_label,
    orientation_tag,
    save_hdf5,
    save_nifti,
    save_picture,
    save_stack,
    save_turned,
)

MAKERS: dict[str, Callable[[Path], Path]] = {
    "grey.png": lambda path: save_picture(path, make_image((6, 8))),
    "deep.png": lambda path: save_picture(path, make_image((6, 8)).astype(np.uint16) * 257),
    "colour.png": lambda path: save_picture(path, make_image((6, 8), channels=3)),
    "a.jpg": lambda path: save_picture(path, make_image((6, 8))),
    "b.jpeg": lambda path: save_picture(path, make_image((6, 8), channels=3)),
    "a.tif": lambda path: save_picture(path, make_image((6, 8)).astype(np.float32)),
    "b.tiff": lambda path: save_picture(path, make_image((6, 8))),
    "a.bmp": lambda path: save_picture(path, make_image((6, 8), channels=3)),
    "a.gif": lambda path: save_picture(path, make_image((6, 8))),
    "a.nii": lambda path: save_nifti(path, make_image((6, 8, 3))),
    "flat.nii": lambda path: save_nifti(path, make_image((6, 8))),
    "turned.png": lambda path: save_picture(path, make_image((6, 8), channels=3), exif=orientation_tag(6)),
    "turned.tif": lambda path: save_picture(path, make_image((6, 8)), exif=orientation_tag(5)),
    "pir.nii.gz": lambda path: save_turned(path, make_image((6, 8, 3)), "PIR"),
    "flat_lp.nii": lambda path: save_turned(path, make_image((6, 8)), "LPS"),
    "colour.h5": lambda path: save_hdf5(path, image=make_image((6, 8), channels=3)),
    "a.nii.gz": lambda path: save_nifti(path, make_image((6, 8, 3)).astype(np.float32)),
    "slice.h5": lambda path: save_hdf5(path, image=make_image((6, 8))),
    "volume.hdf5": lambda path: save_hdf5(path, image=make_image((3, 6, 8)).astype(np.float32)),
    "stack.tif": lambda path: save_stack(path, make_image((6, 8, 5)), spacing_mm=(0.4, 0.3, 0.7)),
    "turned_stack.tif": lambda path: save_stack(path, make_image((3, 6, 8)), spacing_mm=(0.4, 0.3, 0.7), turned=6),
    "colour_stack.ome.tif": lambda path: save_stack(path, make_image((5, 6, 8), channels=3), ome=True),
    "series/a.dcm": lambda path: save_dicom(path, (6, 8, 3)),
    "slice/a.dcm": lambda path: save_dicom(path, (6, 8, 1)),
    "picture/a.dcm": lambda path: save_dicom(path, (6, 8)),
    "colour/a.dcm": lambda path: save_dicom(path, (6, 8, 3), colour=True),
}


def save_dicom(path: Path, shape: tuple[int, ...], colour: bool = False) -> Path:
    """A volume or a picture in a folder of its own; without the extra `dicom` the test is skipped."""
    pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")
    from support.dicom import make_picture, make_slices, make_stored, save, save_series

    if colour:
        return save(make_picture(make_image(shape[:2], channels=3), "RGB"), path)
    if len(shape) == 2:
        return save(make_picture(make_image(shape)), path)
    return save_series(path.parent, make_slices(make_stored(shape)), lambda index: f"{'ca'[index > 0]}{index}.dcm")


@pytest.fixture(params=sorted(MAKERS))
def image(request: pytest.FixtureRequest, tmp_path: Path) -> MedicalImage:
    return read_image(MAKERS[request.param](tmp_path / request.param))


def test_every_suffix_is_under_contract() -> None:
    assert {file_suffix(name) for name in MAKERS} == set(READERS)


def test_image_has_channels_last_and_native_finite_numbers(image: MedicalImage) -> None:
    assert image.array.ndim in (3, 4)
    assert image.array.shape[-1] in (1, 3)
    assert image.array.dtype.isnative
    assert np.isfinite(image.array).all()
    assert image.is_volume == (len(image.spatial_shape) == 3)
    if image.geometry.spacing_mm is not None:
        assert len(image.geometry.spacing_mm) == len(image.spatial_shape)
    assert 0 <= image.geometry.slice_axis < len(image.spatial_shape)


def test_label_round_trip(image: MedicalImage, tmp_path: Path) -> None:
    label = make_label(image.spatial_shape, classes=3)
    written = write_label(tmp_path / "predicted", label.astype(np.int64), image)
    again = read_label(written)
    assert again.array.dtype == np.int32
    np.testing.assert_array_equal(again.array, label)
    assert again.geometry.spacing_mm == image.geometry.spacing_mm
    assert again.geometry.slice_axis == image.geometry.slice_axis
    if image.geometry.affine is None:
        assert again.geometry.affine is None
    else:
        np.testing.assert_array_equal(again.geometry.affine, image.geometry.affine)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_label_is_written_with_the_values_of_its_classes(image: MedicalImage, tmp_path: Path) -> None:
    label = make_label(image.spatial_shape, classes=3)
    written = read_label(write_label(tmp_path / "predicted", label, image, values=(0, 300, 7))).array
    numbered = image.path.suffix == ".dcm"  # DICOM numbers segments without gaps
    np.testing.assert_array_equal(written, label if numbered else np.array([0, 300, 7])[label])


def test_probabilities_keep_values_and_order(image: MedicalImage, tmp_path: Path) -> None:
    probs = np.random.default_rng(0).random((3, *image.spatial_shape), dtype=np.float32)
    written = write_probabilities(tmp_path / "soft", probs, image)
    # In the file they lie as the image is stored.
    np.testing.assert_array_equal(_read_probabilities(written, image), image.geometry.as_stored(probs, first=1))


def test_map_keeps_values_place_and_order(image: MedicalImage, tmp_path: Path) -> None:
    values = np.linspace(0, 1, int(np.prod(image.spatial_shape)), dtype=np.float32).reshape(image.spatial_shape)
    written = write_map(tmp_path / "map", values, image)
    if file_suffix(written) == ".h5":
        import h5py

        with h5py.File(written) as file:
            np.testing.assert_array_equal(np.asarray(file["map"]), values)
        return
    again = read_image(written)
    assert again.array.shape == (*image.spatial_shape, 1)
    if file_suffix(written) == ".png":
        np.testing.assert_allclose(again.array[..., 0] / 255, values, atol=0.5 / 255 + 1e-6)
        return
    np.testing.assert_array_equal(again.array[..., 0], values)
    if file_suffix(written) == ".tif":
        assert again.geometry == image.geometry
        return
    assert image.geometry.affine is not None
    np.testing.assert_array_equal(again.geometry.affine, image.geometry.affine)


def _read_probabilities(path: Path, image: MedicalImage) -> np.ndarray:
    """`(K, *spatial)` read with the format's own library, not with ours."""
    suffix = file_suffix(path)
    if suffix == ".tif":
        import tifffile

        found = np.asarray(tifffile.imread(path))
        return found.swapaxes(0, 1) if image.is_volume else found  # ImageJ has slices before channels
    if suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            return np.asarray(file["probabilities"])
    import nibabel as nib

    array = np.asarray(nib.load(path).dataobj)
    return np.moveaxis(array, -1, 0).reshape(3, *image.geometry.as_stored(image.array[..., 0]).shape)

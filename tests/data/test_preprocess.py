from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from knowsam.data.preprocess import (
    PERCENTILES,
    Preprocessing,
    preprocessing_of,
    resize,
    resize_label,
    to_channels,
    to_unit_range,
)
from knowsam.errors import InputError
from knowsam.types import Geometry, MedicalImage


def picture(array: np.ndarray) -> MedicalImage:
    return MedicalImage(array, Geometry(), Path("somewhere/a.png"))


def volume(array: np.ndarray, axis: int = 2) -> MedicalImage:
    return MedicalImage(array, Geometry(spacing_mm=(1.0, 1.0, 1.0), slice_axis=axis), Path("somewhere/a.nii.gz"))


def test_eight_bit_values_are_divided_by_255() -> None:
    array = np.array([[0, 51, 255]], np.uint8)[..., None]
    found = to_unit_range(picture(array))
    assert found.dtype == np.float32
    assert found[0, :, 0].tolist() == pytest.approx([0, 0.2, 1])


def test_a_volume_is_mapped_alike_whatever_type_it_was_stored_in() -> None:
    # Exports of one scanner mix 8-bit and 16-bit files; the anatomy must not be darker in one of them.
    array = np.random.default_rng(0).integers(0, 120, (8, 8, 8, 1))
    eight, sixteen = (to_unit_range(volume(array.astype(dtype))) for dtype in (np.uint8, np.int16))
    np.testing.assert_array_equal(eight, sixteen)
    assert eight.max() == 1


def test_booleans_become_zero_and_one() -> None:
    assert to_unit_range(picture(np.array([[[False], [True]]])))[0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_other_values_are_mapped_by_their_own_percentiles(dtype: type) -> None:
    array = np.random.default_rng(0).normal(1000, 100, (64, 64, 1)).astype(dtype)
    low, high = np.percentile(array, PERCENTILES)
    found = to_unit_range(picture(array))
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1)
    expected = np.clip((array.astype(np.float64) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.isclose((found == 0).mean(), 0.005, atol=0.002)


def test_percentiles_on_request_hold_for_eight_bit_too() -> None:
    array = np.linspace(100, 150, 256).astype(np.uint8).reshape(16, 16, 1)
    found = to_unit_range(picture(array), "percentile")
    assert (found.min(), found.max()) == (0, 1)


def test_range_on_request_divides_by_the_largest_value_of_the_type() -> None:
    assert to_unit_range(picture(np.array([[[65535]]], np.uint16)), "range").item() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_range_is_refused_where_the_type_has_none(dtype: type) -> None:
    with pytest.raises(InputError, match=rf"a\.png: {np.dtype(dtype)} values were found.*percentile"):
        to_unit_range(picture(np.zeros((2, 2, 1), dtype)), "range")


@pytest.mark.parametrize("value", [0, 700])
def test_a_constant_image_becomes_zero(value: int) -> None:
    assert not to_unit_range(picture(np.full((4, 4, 1), value, np.int16))).any()


def test_a_small_object_on_a_constant_background_is_not_lost() -> None:
    array = np.zeros((64, 64, 1), np.float32)
    array[3, 4] = 5.0
    found = to_unit_range(picture(array))
    assert found[3, 4, 0] == 1
    assert found.sum() == 1


def test_slices_of_a_picture() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    found = Preprocessing((2, 4), 3).slices(picture(array))
    assert found.shape == (1, 3, 2, 4)
    assert torch.equal(found[0], torch.from_numpy(array.transpose(2, 0, 1).astype(np.float32) / 255))


@pytest.mark.parametrize(("asked", "axis"), [(None, 1), (0, 0), (2, 2)])
def test_slices_of_a_volume_are_cut_along_the_files_axis_or_the_one_asked_for(asked: int | None, axis: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 1)).astype(np.uint8)
    image = volume(array, axis=1)
    native = tuple(np.delete(array.shape[:3], axis))
    found = Preprocessing(native, 1, "range", slice_axis=asked).slices(image)
    assert found.shape == (array.shape[axis], 1, *native)
    expected = np.take(array[..., 0], 2, axis=axis).astype(np.float32) / 255
    assert torch.equal(found[2, 0], torch.from_numpy(expected))


def test_a_volume_has_one_scale_for_all_its_slices() -> None:
    array = np.zeros((8, 8, 2, 1), np.float32)
    array[..., 0, 0], array[..., 1, 0] = np.linspace(0, 1, 64).reshape(8, 8), np.linspace(0, 10, 64).reshape(8, 8)
    found = Preprocessing((8, 8), 1).slices(volume(array))
    assert found[0].max() < 0.2
    assert found[1].max() == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_restore_undoes_label_slices_of_a_volume(axis: int) -> None:
    label = np.random.default_rng(0).integers(0, 4, (3, 4, 5))
    image, preprocessing = volume(label[..., None].astype(np.uint8), axis), Preprocessing((16, 16), 1)
    slices = preprocessing.label_slices(label, image)
    assert slices.shape[0] == label.shape[axis]
    np.testing.assert_array_equal(preprocessing.restore(slices.numpy(), image), label)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_restore_keeps_the_class_axis_of_probabilities_first(axis: int) -> None:
    probs = np.random.default_rng(0).random((2, 3, 4, 5))
    image = volume(np.zeros((3, 4, 5, 1), np.uint8), axis)
    slices = np.moveaxis(probs, axis + 1, 0)  # (N, K, h, w)
    np.testing.assert_array_equal(Preprocessing((16, 16), 1).restore(slices, image), probs)


def test_restore_of_a_picture_drops_the_slice_axis() -> None:
    label = np.arange(6).reshape(2, 3)
    image, preprocessing = picture(np.zeros((2, 3, 1), np.uint8)), Preprocessing((16, 16), 1)
    np.testing.assert_array_equal(preprocessing.restore(preprocessing.label_slices(label, image).numpy(), image), label)


def test_an_axis_that_a_volume_does_not_have_is_named() -> None:
    with pytest.raises(InputError, match=r"a\.nii\.gz: slice axis 3 was asked for"):
        Preprocessing((16, 16), 1, slice_axis=3).slices(volume(np.zeros((3, 4, 5, 1), np.uint8)))


def test_grey_to_rgb_repeats_and_rgb_to_grey_is_luminance() -> None:
    grey = torch.rand(2, 1, 3, 4)
    rgb = to_channels(grey, 3)
    assert torch.equal(rgb, grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(to_channels(rgb, 1), grey)
    pure = torch.eye(3).view(3, 3, 1, 1)
    torch.testing.assert_close(to_channels(pure, 1).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    assert to_channels(grey, 1) is grey


def test_an_image_of_two_channels_is_refused() -> None:
    with pytest.raises(InputError, match="2 channels"):
        to_channels(torch.zeros(1, 2, 4, 4), 1)


@pytest.mark.parametrize(("native", "size"), [((24, 36), (48, 64)), ((100, 70), (48, 48)), ((31, 47), (32, 48))])
def test_image_and_label_are_resized_about_the_same_centres(native: tuple[int, int], size: tuple[int, int]) -> None:
    # A linear ramp in each direction: wherever a pixel lands, its value says where it came from.
    rows = torch.arange(native[0], dtype=torch.float32)[:, None].expand(native).contiguous()
    columns = torch.arange(native[1], dtype=torch.float32)[None].expand(native).contiguous()
    for ramp, axis in ((rows, 0), (columns, 1)):
        image = resize(ramp[None, None], size)[0, 0]
        label = resize_label(ramp[None].long(), size)[0].float()
        scale = native[axis] / size[axis]
        difference = image - label
        inner = difference[8:-8, 8:-8]  # at the borders both are clamped
        assert inner.abs().max() <= 0.5 * max(1.0, scale) + 1e-3
        assert inner.mean().abs() < 0.1  # corner-aligned grids would differ by half a pixel on average


def test_resize_to_the_same_size_is_no_work() -> None:
    image, label = torch.rand(1, 1, 4, 6), torch.zeros(1, 4, 6, dtype=torch.long)
    assert resize(image, (4, 6)) is image
    assert resize_label(label, (4, 6)) is label


def test_resize_label_invents_no_class() -> None:
    label = torch.tensor([[[-1, 3], [7, 0]]])
    found = resize_label(label, (5, 7))
    assert found.dtype == torch.int64
    assert set(found.unique().tolist()) == {-1, 0, 3, 7}


def test_json_round_trip() -> None:
    import json

    for preprocessing in (
        Preprocessing((32, 48), 3, "percentile", 1),
        Preprocessing((32, 48), 3, "percentile", 1, (1.0, 2.0, 0.5)),
    ):
        written = json.loads(json.dumps(preprocessing.to_json()))
        assert Preprocessing.from_json(written) == preprocessing
    del written["spacing_mm"], written["slice_axis"]  # a file of earlier versions
    assert Preprocessing.from_json(written) == Preprocessing((32, 48), 3, "percentile")


def placed(spacing: tuple[float, ...], axis: int) -> MedicalImage:
    """A volume that says where it lies."""
    geometry = Geometry(spacing, axis, np.diag([*spacing, 1.0]), oriented=True)
    return MedicalImage(np.zeros((4, 5, 6, 1), np.uint8), geometry, Path("somewhere/v.nii.gz"))


def test_the_slice_axis_is_that_of_most_volumes() -> None:
    one, other = placed((1.0, 1.0, 1.0), 2), placed((1.0, 1.0, 0.97), 1)
    found, note = preprocessing_of([one, other, other], (32, 32))
    assert (found.slice_axis, found.spacing_mm, found.channels) == (1, (1.0, 1.0, 0.97), 1)
    assert note is not None
    assert "1 along axis 2 of 3 volumes would be cut; all are cut along axis 1 (coronal)" in note
    assert preprocessing_of([other, one], (32, 32))[0].slice_axis == 2  # the last of equals
    assert preprocessing_of([one, one], (32, 32)) == (Preprocessing((32, 32), 1, "auto", 2, (1.0, 1.0, 1.0)), None)
    assert preprocessing_of([one], (32, 32), axis=0)[0].slice_axis == 0
    assert {found.axis_of(one), found.axis_of(other)} == {1}


def test_formats_with_slices_first_and_pictures_keep_their_own_axis() -> None:
    slices_first = MedicalImage(np.zeros((4, 5, 6, 1), np.uint8), Geometry(), Path("v.h5"))
    found, _ = preprocessing_of([placed((1.0, 1.0, 5.0), 2)], (32, 32))
    assert found.axis_of(slices_first) == 0
    assert preprocessing_of([slices_first], (32, 32))[0].slice_axis is None
    assert preprocessing_of([slices_first], (32, 32), axis=2)[0].axis_of(slices_first) == 2
    colour = picture(np.zeros((4, 4, 3), np.uint8))
    images = iter([colour, picture(np.zeros((4, 4, 1), np.uint8))])
    assert preprocessing_of(images, (32, 32))[0] == Preprocessing((32, 32), 3)
    assert next(images, None) is not None  # nothing is read beyond the first image that decides


def test_what_is_unlike_training_is_said() -> None:
    found, _ = preprocessing_of([placed((1.0, 1.0, 3.0), 2)], (32, 32))
    assert found.doubts(placed((1.0, 1.0, 5.0), 2)) == []
    assert found.doubts(placed((1.0, 3.0, 1.0), 1)) == [
        "cut along axis 2 as in training; by its own spacing it would be axis 1",
        "spacing more than 2 times larger or smaller than in training (1 x 1 x 3 mm)",
    ]
    assert found.doubts(picture(np.zeros((4, 4, 1), np.uint8))) == []
    assert Preprocessing((32, 32), 1).doubts(placed((1.0, 3.0, 1.0), 1)) == []

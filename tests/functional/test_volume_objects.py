"""PCSW: the object of a class in a volume of rough masks, on volumes drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from knowsam.functional.boxes import slice_prompt
from knowsam.functional.volume_objects import accepted_label, find_object, window_lengths
from knowsam.types import IGNORE


@pytest.fixture
def ellipsoid() -> np.ndarray:
    """12 slices of 32x32, areas 0 0 0 61 145 193 193 145 61 0 16 0: an ellipsoid, and a blob two slices behind it."""
    z, y, x = np.mgrid[:12, :32, :32]
    mask = ((z - 5.5) / 3) ** 2 + ((y - 16) / 8) ** 2 + ((x - 16) / 8) ** 2 <= 1
    mask[10, 2:6, 2:6] = True
    assert mask.sum(axis=(1, 2)).tolist() == [0, 0, 0, 61, 145, 193, 193, 145, 61, 0, 16, 0]
    return mask


def naive(mask: np.ndarray, continuity: float, window: str) -> tuple[int, int, int] | None:
    """|V|, N, start of the window, by trying all."""
    found = []
    for length in window_lengths(len(mask)):
        for start in range(len(mask) - length + 1):
            part = mask[start : start + length]
            pieces, count = ndimage.label(part, structure=np.ones((3, 3, 3)))
            sizes = [int((pieces == number).sum()) for number in range(1, count + 1)]
            if sizes and max(sizes) / part.sum() >= continuity:
                found.append((max(sizes), length, start))
    if not found:
        return None
    return found[0] if window == "first" else min(found, key=lambda one: (-one[0], one[1], one[2]))


def test_the_best_window_has_the_whole_object(ellipsoid: np.ndarray) -> None:
    found = find_object(ellipsoid)
    assert found.window == (3, 6)
    assert found.key == 5
    assert found.mask.sum() == 798
    assert not found.mask[10].any()


def test_the_first_window_that_passes_cuts_off_what_begins_late(ellipsoid: np.ndarray) -> None:
    found = find_object(ellipsoid, window="first")
    assert found.window == (0, 5)
    assert found.key == 4  # 145 px, where 193 would have been
    assert found.mask[:5].sum() == 206
    assert found.mask.sum() == 798  # the object goes on outside of the window


@pytest.mark.parametrize(("slices", "lengths"), [(1, [1]), (2, [2]), (3, [2, 3]), (12, [5, 6]), (35, [14, 15, 16, 17])])
def test_lengths_of_windows(slices: int, lengths: list[int]) -> None:
    assert list(window_lengths(slices)) == lengths


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("window", ["best", "first"])
def test_windows_are_those_of_a_search_through_all(seed: int, window: str) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(14, 20, 20)), 1.5)
    mask = noise > np.quantile(noise, 0.9 + 0.015 * seed)
    for continuity in (0.3, 0.5, 0.8):
        found, expected = find_object(mask, continuity, window), naive(mask, continuity, window)
        if expected is None:
            assert found.window is None
            assert np.array_equal(found.mask, mask)
            assert found.key == mask.sum(axis=(1, 2)).argmax()
        else:
            assert found.window == (expected[2], expected[1])
            inside = slice(expected[2], expected[2] + expected[1])
            assert found.mask[inside].sum() == expected[0]


def test_two_voxels_that_touch_at_a_corner_are_one_piece_of_26_and_two_of_6_neighbours() -> None:
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 1, 1] = mask[1, 2, 2] = True
    assert find_object(mask).window == (0, 2)
    assert find_object(mask, connectivity=6).window is None
    assert find_object(mask, continuity=0.5, connectivity=6).mask.sum() == 1


def test_where_nothing_is_nothing_is_found() -> None:
    assert find_object(np.zeros((5, 8, 8), bool)) is None


@pytest.mark.parametrize("slices", [1, 2])
def test_a_picture_and_a_volume_of_two_slices(slices: int) -> None:
    mask = np.zeros((slices, 16, 20), bool)
    mask[:, 2:12, 3:13] = True
    mask[0, 14:, 17:] = True
    found = find_object(mask)
    assert found.window == (0, slices)
    assert found.key == 0
    assert found.mask.sum() == 100 * slices
    prompt = found.prompt(0)
    assert prompt.box == (3, 2, 13, 12)


def test_an_object_without_a_continuous_window_is_kept_whole_and_prompted_where_it_is_largest() -> None:
    mask = np.zeros((6, 12, 12), bool)
    mask[:, 1:3, 1:3] = True
    mask[:, 8:10, 8:10] = True
    mask[4, 8:11, 8:10] = True
    found = find_object(mask)
    assert found.window is None
    assert found.key == 4
    assert np.array_equal(found.mask, mask)
    assert found.prompt(4).box == (1, 1, 10, 11)


def test_the_point_of_a_crescent_lies_in_it() -> None:
    y, x = np.mgrid[:40, :40]
    crescent = ((y - 20) ** 2 + (x - 20) ** 2 <= 15**2) & ((y - 20) ** 2 + (x - 28) ** 2 > 15**2)
    assert not crescent[20, 20]  # the centre of its circle does not
    px, py = slice_prompt(crescent).point
    assert crescent[int(py), int(px)]
    depth = ndimage.distance_transform_edt(np.pad(crescent, 1))[1:-1, 1:-1]
    assert depth[int(py), int(px)] == depth.max()


def test_the_point_counts_the_border_of_the_image_as_edge() -> None:
    assert slice_prompt(np.ones((5, 5), bool)).point == (2.5, 2.5)


def test_a_mirrored_volume_gives_the_mirrored_box(ellipsoid: np.ndarray) -> None:
    ellipsoid = np.roll(ellipsoid, 5, axis=2)
    ellipsoid[5, 16, 29] = True
    found, mirrored = find_object(ellipsoid), find_object(ellipsoid[:, :, ::-1])
    assert mirrored.key == found.key
    x0, y0, x1, y1 = found.prompt(found.key).box
    assert mirrored.prompt(mirrored.key).box == (32 - x1, y0, 32 - x0, y1)


def test_boxes_and_points_are_in_pixels_of_the_image(ellipsoid: np.ndarray) -> None:
    found = find_object(ellipsoid)
    small, large = found.prompt(found.key), found.prompt(found.key, (64, 96))
    assert large.box == tuple(value * factor for value, factor in zip(small.box, (3, 2, 3, 2), strict=True))
    assert large.point == (small.point[0] * 3, small.point[1] * 2)


def test_each_class_is_cleaned_by_itself_and_what_is_rejected_is_unknown(ellipsoid: np.ndarray) -> None:
    label = ellipsoid.astype(np.int64)
    label[2:4, 28:, 28:] = 2
    label[9, 0, 0] = 2
    cleaned = accepted_label(label, 3)
    assert set(np.unique(cleaned[10])) == {IGNORE, 0}
    assert (cleaned[10] == IGNORE).sum() == 16
    assert cleaned[9, 0, 0] == IGNORE
    assert (cleaned == 2).sum() == 32
    assert (cleaned == 1).sum() == 798
    assert np.array_equal(cleaned[label == 0], label[label == 0])

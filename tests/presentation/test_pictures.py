"""Masks over images: seen on any ground, hiding little, in the colours of the legend."""

from __future__ import annotations

import numpy as np
import pytest

from knowsam.presentation.pictures import class_colour, overlay, scale_to, volume_sheet
from knowsam.types import IGNORE

DARK, LIGHT = (0, 0, 0), (255, 255, 255)


def square(side: int, first: int, last: int, index: int = 1) -> np.ndarray:
    """A square of a class over rows and columns `first` to `last - 1`."""
    label = np.zeros((side, side), int)
    label[first:last, first:last] = index
    return label


def ground(side: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((side, side, 3), np.array(colour) / 255)


@pytest.mark.parametrize("index", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("colour", [DARK, LIGHT, class_colour(1), (140, 140, 140)])
def test_contour_has_the_colour_of_its_class_between_dark_and_light(index: int, colour: tuple[int, int, int]) -> None:
    drawn = overlay(ground(100, colour), square(100, 30, 70, index))
    across = [tuple(pixel) for pixel in drawn[50, 27:36].tolist()]
    tint = tuple(np.rint(0.7 * np.array(colour) + 0.3 * np.array(class_colour(index))).astype(int).tolist())
    assert across == [colour, colour, DARK, class_colour(index), LIGHT, tint, tint, tint, tint]


def test_lines_grow_with_the_picture_but_not_over_thin_structures() -> None:
    large = overlay(ground(900, (140, 140, 140)), square(900, 300, 600))
    assert [tuple(pixel) for pixel in large[450, 296:308:4].tolist()] == [DARK, class_colour(1), LIGHT]
    assert tuple(large[450, 295]) == (140, 140, 140)

    vessels = np.zeros((900, 900), int)
    vessels[:, 100:800:100] = 1
    drawn = overlay(ground(900, (140, 140, 140)), vessels)
    across = [tuple(pixel) for pixel in drawn[450, 98:103].tolist()]
    assert across == [(140, 140, 140), DARK, class_colour(1), DARK, (140, 140, 140)]
    assert not (drawn == 255).all(axis=2).any()


def test_lines_of_an_enlarged_picture_are_thinner_than_its_pixels() -> None:
    label = square(40, 10, 30)
    scale = scale_to(label.shape, 760)
    assert scale == 19
    drawn = overlay(ground(40, (140, 140, 140)), label, scale)
    assert drawn.shape == (760, 760, 3)
    # 760 px: lines of 3 px, so that 16 of the 19 columns beside the square are as they were.
    row = drawn[380, 9 * 19 : 11 * 19].tolist()
    assert [row.count(list(colour)) for colour in ((140, 140, 140), DARK, class_colour(1), LIGHT)] == [16, 3, 3, 3]
    assert scale_to((900, 2000), 760) == 1


def test_classes_that_touch_show_both_colours_and_no_dark_line() -> None:
    label = square(100, 20, 80)
    label[:, 50:] *= 2
    drawn = overlay(ground(100, (140, 140, 140)), label)
    across = [tuple(pixel) for pixel in drawn[50, 48:52].tolist()]
    assert across == [LIGHT, class_colour(1), class_colour(2), LIGHT]


@pytest.mark.parametrize("value", [0, IGNORE])
def test_nothing_is_drawn_where_there_is_no_class(value: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 1)) / 255
    drawn = overlay(picture, np.full((20, 30), value))
    assert (drawn == np.rint(picture * 255)).all()


def test_a_mask_at_the_edge_of_the_picture_has_no_contour_there() -> None:
    everywhere = overlay(ground(20, DARK), np.ones((20, 20), int))
    assert (everywhere == np.rint(0.3 * np.array(class_colour(1)))).all()


def test_a_small_class_is_seen_in_a_sheet_of_slices() -> None:
    labels = np.zeros((3, 48, 48), np.uint8)
    labels[1, 20, 20] = 2
    sheet = volume_sheet(np.zeros((3, 48, 48, 1), np.float32), labels)
    # The one slice with a structure, four times as large, in a frame of 4 px.
    assert sheet.shape == (200, 200, 3)
    assert (sheet == class_colour(2)).all(axis=2).sum() == 12

"""Curves as SVG in the page's colours, pictures small enough to travel inside it."""

from __future__ import annotations

import base64
import colorsys
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from knowsam.presentation.pictures import CLASS_COLOURS
from knowsam.reporting import figures, panels
from knowsam.reporting.cases import SliceView
from knowsam.types import IGNORE
from support.records import run_with


def test_labels_are_pushed_apart_within_the_range() -> None:
    places = figures.spread_apart([0.1, 0.11, 0.95, 0.96], gap=0.1, low=0, high=1)
    assert places == pytest.approx([0.1, 0.2, 0.9, 1.0])
    assert figures.spread_apart([0.2, 0.8], gap=0.1, low=0, high=1) == [0.2, 0.8]


def test_a_long_log_is_averaged_and_a_short_one_left_alone() -> None:
    assert figures.thin([(1, 2.0), (2, 4.0)]) == [(1.0, 2.0), (2.0, 4.0)]
    assert figures.thin([(1, 2.0), (2, 4.0), (3, 10.0), (4, 20.0)], most=2) == [(1.5, 3.0), (3.5, 15.0)]


def test_running_mean_is_centred_and_narrower_at_the_ends() -> None:
    assert figures.smooth([0.0, 3.0, 6.0, 0.0]) == pytest.approx([1.5, 3.0, 3.0, 3.0])


def test_drawings_have_the_pages_colours_own_ids_and_no_address() -> None:
    run = run_with({"fused": [0.1, 0.2, 0.3], "unet": [0.1, 0.1, 0.2]})
    run.terms['odd "name" <b>'] = [(step, float(step)) for step in range(0, 300, 10)]
    validation = figures.validation_figure(run, None)
    assert validation is not None
    drawings = [validation, *figures.term_figures(run)]
    spread = figures.spread_figure(["$x^2$ & <i>", "b" * 60], np.random.default_rng(0).random((200, 2)))
    for drawing in [*drawings, spread]:
        ET.fromstring(drawing.svg)  # well-formed: names of classes and terms were escaped
        assert "http" not in drawing.svg
        assert not re.search("#0[1-7]0[1-7]0[1-7]", drawing.svg)
    ids = [name for drawing in [*drawings, spread] for name in re.findall(r' id="([^"]*)"', drawing.svg)]
    assert len(ids) == len(set(ids))
    assert "var(--series-1)" in validation.svg
    assert "fused 0.300" in validation.svg
    assert "U-Net 0.200" in validation.svg
    assert "fused 0.300" in validation.alt
    assert "$x^2$ &amp; &lt;i&gt;" in spread.svg  # no formula is made of a name
    # Axes and text alone are some elements; 200 cases a row would be 400 dots.
    assert spread.svg.count("<use") <= 2 * figures.DOTS + 20


def test_a_drawing_is_the_same_each_time() -> None:
    run = run_with({"fused": [0.1, 0.2, 0.3]})
    assert figures.term_figures(run) == figures.term_figures(run)


def test_errors_are_told_apart_and_ignored_pixels_are_no_error() -> None:
    truth = np.array([[0, 1, 1, 2], [0, 2, IGNORE, IGNORE]])
    prediction = np.array([[1, 1, 0, 1], [0, 2, 1, 0]])
    kinds = panels.error_kinds(prediction, truth)
    assert {name: np.argwhere(mask).tolist() for name, mask in kinds.items()} == {
        "missed": [[0, 2]],
        "too much": [[0, 0]],
        "wrong class": [[0, 3]],
    }
    drawn = panels.error_picture(np.ones((2, 4, 1), np.float32), prediction, truth)
    assert tuple(drawn[0, 2]) == panels.MISSED
    assert tuple(drawn[0, 0]) == panels.EXTRA
    assert tuple(drawn[0, 3]) == panels.CONFUSED
    assert tuple(drawn[1, 2]) == tuple(drawn[0, 1]) == (140, 140, 140)  # .55 of white


def test_colours_of_errors_are_no_colours_of_classes() -> None:
    for colour in (panels.MISSED, panels.EXTRA, panels.CONFUSED):
        hue, saturation, _ = colorsys.rgb_to_hsv(*(value / 255 for value in colour))
        for other in CLASS_COLOURS:
            apart = abs(hue - colorsys.rgb_to_hsv(*(value / 255 for value in other))[0])
            assert saturation == 0 or min(apart, 1 - apart) > 30 / 360, (colour, other)


def test_a_small_structure_is_cropped_with_a_margin_and_stays_inside() -> None:
    truth = np.zeros((100, 120), int)
    truth[2:12, 100:120] = 1  # 10 x 20 in a corner: a square of 20 * 1.7 = 34
    rows, columns = panels.crop_window(truth, np.zeros_like(truth))
    assert (rows, columns) == (slice(0, 34), slice(86, 120))
    truth[:, 20:100] = 1
    assert panels.crop_window(truth, truth) == (slice(None), slice(None))
    assert panels.crop_window(truth * 0, truth * 0) == (slice(None), slice(None))


def test_pictures_are_enlarged_by_whole_factors_or_shrunk() -> None:
    assert panels.enlargement((60, 50)) == 4
    assert panels.enlargement((1440, 720)) == 1
    assert panels.shrink(np.zeros((1440, 720, 3), np.uint8)).shape == (360, 180, 3)
    assert panels.shrink(np.zeros((240, 200, 3), np.uint8)).shape == (240, 200, 3)


def test_a_noisy_photograph_travels_as_jpeg_and_a_mask_as_png() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    assert panels.data_uri(noise).startswith("data:image/jpeg;base64,")
    flat = np.full((40, 30, 3), 7, np.uint8)
    uri = panels.data_uri(flat)
    assert uri.startswith("data:image/png;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (np.asarray(image) == flat).all()


def test_five_panels_with_alternative_texts() -> None:
    truth = np.zeros((40, 40), int)
    truth[10:30, 10:30] = 1
    view = SliceView(np.zeros((40, 40, 1), np.float32), truth, truth * 0, np.full((40, 40), 0.25, np.float32))
    drawn = panels.panels(view, "Worst case, x")
    assert [panel.title for panel in drawn] == ["image", "truth", "prediction", "errors", "entropy"]
    assert "400 wrong pixels marked, most of them missed" in drawn[3].alt
    assert "mean 0.25 of 1" in drawn[4].alt
    assert len({(panel.width, panel.height) for panel in drawn}) == 1

"""The pages of `check` and of `suggest` in a real browser, as `test_report_browser.py` looks at the report."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from knowsam.data.labels import LabelSpec
from knowsam.inference.predictor import Predictor
from knowsam.inspection.check import check_folder
from knowsam.inspection.page import write_page
from knowsam.reliability.suggest import suggest
from knowsam.reliability.suggest_output import write_suggestions
from support.browser import DESK_PX, PHONE_PX, ask, assert_fits, assert_silent_and_alone, needs_browser
from support.cli import make_trained_run
from support.folders import make_folder, make_image, save_picture

pytestmark = [needs_browser, pytest.mark.slow, pytest.mark.subprocess]

LONG = "a" * 60


class Page(NamedTuple):
    """A page, and how many pictures were put into it."""

    path: Path
    pictures: int


@pytest.fixture(scope="module")
def check_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """With a warning (a copy in another group), an unreadable image, and names that do not break by themselves."""
    root = tmp_path_factory.mktemp("check")
    data = make_folder(root / "data", n_images=7, n_masks=5, unlabelled=1, groups=[f"g{i}" for i in range(7)])
    save_picture(data / "unlabelled" / f"{LONG}.png", make_image(seed=0))
    (data / "images" / "case_6.png").write_bytes(b"no picture")
    write_page(check_folder(data, spec=LabelSpec(classes=["background", LONG, "b"])), root / "check.html")
    # Six labelled and unlabelled images of `images/` and two of `unlabelled/`; the copy again, with its twin.
    return Page(root / "check.html", 6 + 2 + 2)


@pytest.fixture(scope="module")
def suggest_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """One group of several files, one single image."""
    root = tmp_path_factory.mktemp("suggest")
    run = make_trained_run(root)
    data = make_folder(root / "free", n_images=4, n_masks=1, groups=[*"ab", LONG, LONG], size=(24, 300))
    predictor = Predictor(run, "cpu")
    write_suggestions(suggest(predictor, data), predictor, root / "next")
    return Page(root / "next" / "suggest.html", 2)


@pytest.fixture(params=["check_page", "suggest_page"])
def page(request: pytest.FixtureRequest) -> Page:
    return request.getfixturevalue(request.param)


def test_the_browser_neither_complains_nor_asks_for_anything(page: Page, tmp_path: Path) -> None:
    assert_silent_and_alone(page.path, tmp_path)


@pytest.mark.parametrize("width", [PHONE_PX, DESK_PX])
def test_every_picture_is_drawn_and_nothing_is_wider_than_the_screen(page: Page, tmp_path: Path, width: int) -> None:
    assert_fits(ask(page.path, tmp_path, width), width, page.pictures)


def test_dark_and_light_differ(page: Page, tmp_path: Path) -> None:
    light, dark = ask(page.path, tmp_path, DESK_PX), ask(page.path, tmp_path, DESK_PX, dark=True)
    assert (light["dark"], light["ground"]) == (False, "rgb(255, 255, 255)")
    assert dark["dark"]
    assert max(map(int, dark["ground"][4:-1].split(","))) < 40
    assert min(map(int, dark["ink"][4:-1].split(","))) > 200

"""The report in a real browser: no complaint, no request, every picture drawn, nothing wider than a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.reporting.write import write_report
from support.browser import (
    DESK_PX,
    PHONE_PX,
    ask,
    assert_fits,
    assert_silent_and_alone,
    browse,
    needs_browser,
    requests_of,
)
from support.training import make_run_with_cases

pytestmark = [needs_browser, pytest.mark.slow, pytest.mark.subprocess]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run_with_cases(tmp_path_factory.mktemp("browser"), classes=["background", "a" * 60, "b"])
    return write_report(run).path


def test_the_browser_neither_complains_nor_asks_for_anything(page: Path, tmp_path: Path) -> None:
    assert_silent_and_alone(page, tmp_path)
    # The same look at a page that does both.
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://knowsam.invalid/x.png"><script>console.error("a complaint")</script>')
    urls, complaints = requests_of(bad, tmp_path)
    assert urls == {"http://knowsam.invalid/x.png"}
    assert "a complaint" in complaints


@pytest.mark.parametrize("width", [PHONE_PX, DESK_PX])
def test_every_picture_is_drawn_and_nothing_is_wider_than_the_screen(page: Path, tmp_path: Path, width: int) -> None:
    told = ask(page, tmp_path, width)
    assert_fits(told, width, pictures=15)
    assert len(told["drawings"]) > 5
    assert all(shown > 200 and height > 80 for shown, height in told["drawings"])
    assert all(right <= width for right in told["labels"])
    assert len(told["commands"]) >= 5
    assert all(needed <= shown for needed, shown in told["commands"])
    assert len(told["captions"]) >= 4
    assert all(right <= width for right in told["captions"])


def test_dark_and_light_differ_and_the_drawings_follow(page: Path, tmp_path: Path) -> None:
    light, dark = ask(page, tmp_path, DESK_PX), ask(page, tmp_path, DESK_PX, dark=True)
    assert (light["dark"], dark["dark"]) == (False, True)
    assert (light["ground"], dark["ground"]) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")
    assert light["ink"] != dark["ink"]
    assert "rgb(0, 98, 155)" in light["strokes"]  # --series-1 of each theme
    assert "rgb(108, 185, 238)" in dark["strokes"]


def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    browse(page, tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 20_000

"""The page in a real browser: no complaint, no request, every picture drawn, nothing wider than a phone.

A second page shows the report in a frame of a phone's width and asks it; no window can be made that narrow.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from knowsam.report import write_report
from training_helpers import make_run_with_cases

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE_PX, DESK_PX = 390, 1280
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000",
)  # fmt: skip
# What the page says about itself, in the copy that is asked; the page as written has no script.
QUESTIONS = """<script>
addEventListener("load", () => setTimeout(() => parent.postMessage(JSON.stringify({
  width: innerWidth,
  scrollWidth: document.documentElement.scrollWidth,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  ground: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  pictures: [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]),
  drawings: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect()).map(b => [b.width, b.height]),
  strokes: [...document.querySelectorAll("svg path")].map(p => getComputedStyle(p).stroke),
  labels: [...document.querySelectorAll("svg text")].map(t => t.getBoundingClientRect().right),
  requests: performance.getEntriesByType("resource").map(r => r.name),
}), "*"), 100));
</script>"""
FRAME = """<body style="margin:0"><pre id="answer"></pre><iframe src="asked.html" width="{width}" height="900"
style="border:0"></iframe>
<script>addEventListener("message", m => document.getElementById("answer").textContent = m.data)</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run_with_cases(tmp_path_factory.mktemp("browser"), classes=["background", "a" * 60, "b"])
    return write_report(run).path


def browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def ask(page: Path, folder: Path, width: int, dark: bool = False) -> dict[str, Any]:
    """What the page says of itself in a frame of this width, in px."""
    text = page.read_text(encoding="utf-8")
    # The page forbids scripts; the copy that answers must not.
    text, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert removed == 1
    (folder / "asked.html").write_text(text.replace("</body>", QUESTIONS + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    window = f"--window-size={max(width, 600)},900"
    ended = browse(folder / "frame.html", folder / "profile", scheme, window, "--dump-dom")
    answer = re.search(r'<pre id="answer">(.*?)</pre>', ended.stdout, re.S)
    assert answer is not None
    assert answer[1], ended.stderr
    return json.loads(html.unescape(answer[1]))


def requests_of(page: Path, folder: Path) -> tuple[set[str], str]:
    """Addresses the browser tried to reach for a page, without its own calls home, and what it complained of."""
    log = folder / "net.json"
    ended = browse(page, folder / "profile", f"--log-net-log={log}", "--dump-dom")
    urls = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    complaints = "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)
    return {url for url in urls if not str(urlsplit(url).hostname).endswith("google.com")}, complaints


def test_the_browser_neither_complains_nor_asks_for_anything(page: Path, tmp_path: Path) -> None:
    assert requests_of(page, tmp_path) == (set(), "")
    assert "http" not in page.read_text(encoding="utf-8").replace("http-equiv", "")
    # The same look at a page that does both.
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://knowsam.invalid/x.png"><script>console.error("a complaint")</script>')
    urls, complaints = requests_of(bad, tmp_path)
    assert urls == {"http://knowsam.invalid/x.png"}
    assert "a complaint" in complaints


@pytest.mark.parametrize("width", [PHONE_PX, DESK_PX])
def test_every_picture_is_drawn_and_nothing_is_wider_than_the_screen(page: Path, tmp_path: Path, width: int) -> None:
    told = ask(page, tmp_path, width)
    assert told["width"] == width
    assert told["scrollWidth"] <= width
    assert len(told["pictures"]) == 15
    assert all(complete and natural > 0 and shown > 50 for complete, natural, shown in told["pictures"])
    assert len(told["drawings"]) > 5
    assert all(shown > 200 and height > 80 for shown, height in told["drawings"])
    assert all(right <= width for right in told["labels"])
    assert told["requests"] == []


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

"""A page in headless Chromium: what it asks for, what it complains of, and what it says of itself at a given width.

To ask, a second page shows it in a frame of that width; no window can be made as narrow as a phone.
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

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)")

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
  commands: [...document.querySelectorAll(".commands pre")].map(p => [p.scrollWidth, p.clientWidth]),
  captions: [...document.querySelectorAll("caption")].map(c => c.getBoundingClientRect().right),
  labels: [...document.querySelectorAll("svg text")].map(t => t.getBoundingClientRect().right),
  requests: performance.getEntriesByType("resource").map(r => r.name),
}), "*"), 100));
</script>"""
FRAME = """<body style="margin:0"><pre id="answer"></pre><iframe src="asked.html" width="{width}" height="900"
style="border:0"></iframe>
<script>addEventListener("message", m => document.getElementById("answer").textContent = m.data)</script>"""


def browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page; the profile is a folder of the browser's own."""
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
    return {url for url in urls if not _calls_home(url)}, complaints


def _calls_home(url: str) -> bool:
    """Chromium asks for its own updates; a font or script of the same company would be the page's doing."""
    host = str(urlsplit(url).hostname)
    return host == "update.googleapis.com" or host.endswith(".google.com")


def assert_silent_and_alone(page: Path, folder: Path) -> None:
    """The browser complains of nothing, and the page neither asks for nor names another address."""
    assert requests_of(page, folder) == (set(), "")
    assert "http" not in page.read_text(encoding="utf-8").replace("http-equiv", "")


def assert_fits(told: dict[str, Any], width: int, pictures: int) -> None:
    """So many pictures, all of them drawn, and nothing wider than the screen."""
    assert told["width"] == width
    assert told["scrollWidth"] <= width
    assert len(told["pictures"]) == pictures
    assert all(complete and natural > 0 and shown > 50 for complete, natural, shown in told["pictures"])
    assert told["requests"] == []

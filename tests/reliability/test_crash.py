"""Whatever kills or starves a command, going on with it leaves what an undisturbed one leaves: files, weights, numbers.

A few faults in `make test`, all of them in `make torture`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ledger import current_folder
from scenarios import SCENARIOS, environment

SCRIPT = Path(__file__).with_name("crash.py")
KILLS = {"train": 150, "train longer": 50, "compare": 50, "sam pretrain": 25, "sam distil": 25}
"""Rounds of one to three kills at random moments."""
ALIKE = ("train without validation", "train with SAM")
"""Of `train` in what two commands at once can do to each other."""


def crash(scenario: str, *options: str) -> None:
    """Run the script, and fail for what did not hold."""
    command = [sys.executable, str(SCRIPT), scenario, *options]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert result["tried"] > 0
    assert result["findings"] == []


def torture(scenario: str, kind: str, *options: str) -> None:
    """The same, going on where the last torture of this source ended."""
    crash(scenario, *options, "--ledger", str(current_folder() / f"{scenario}, {kind}.jsonl"))


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize(("scenario", "part"), [("train", "7/35"), ("predict", "7/55"), ("compare", "7/260")])
def test_a_few_faults(scenario: str, part: str) -> None:
    crash(scenario, "--part", part)


@pytest.mark.slow
@pytest.mark.subprocess
def test_two_at_once() -> None:
    crash("train longer", "--pairs", "2")


@pytest.mark.torture
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_fault(scenario: str, half: int) -> None:
    torture(scenario, "faults", "--part", f"{half}/2")


@pytest.mark.torture
@pytest.mark.parametrize("scenario", ["train", "predict"])
def test_every_error_of_reading(scenario: str) -> None:
    torture(scenario, "errors of reading", "--reads")


@pytest.mark.torture
@pytest.mark.parametrize("scenario", KILLS)
def test_kills_at_random(scenario: str) -> None:
    torture(scenario, "kills at random", "--kills", str(KILLS[scenario]))


@pytest.mark.torture
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in ALIKE])
def test_pairs_at_once(scenario: str) -> None:
    torture(scenario, "two at once", "--pairs", "20")

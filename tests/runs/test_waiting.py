"""`import knowsam` shortens the spinning of OpenMP's threads, unless the user has said otherwise or torch is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from knowsam.runs.waiting import SHORT_SPIN, SPIN_COUNT, USERS_OWN, wait_briefly

PRINT = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"


def in_new_process(code: str, **given: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=kept | given)


@pytest.mark.subprocess
def test_the_import_sets_it_before_torch_and_children_inherit_it() -> None:
    code = f"import knowsam, subprocess, sys; subprocess.run([sys.executable, '-c', {PRINT!r}])"
    assert in_new_process(code).stdout.strip() == SHORT_SPIN


@pytest.mark.subprocess
def test_the_command_sets_it() -> None:
    code = f"import atexit, os; atexit.register(lambda: print(os.environ.get('{SPIN_COUNT}')))"
    code += "; import sys; sys.argv = ['knowsam', '--version']; from knowsam.__main__ import main; main()"
    assert in_new_process(code).stdout.split()[-1] == SHORT_SPIN


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("given", "expected"), [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_the_users_own_choice_stays(given: dict[str, str], expected: str) -> None:
    assert in_new_process(f"import knowsam; {PRINT}", **given).stdout.strip() == expected


@pytest.mark.subprocess
@pytest.mark.slow
def test_it_is_read_when_torch_is_loaded_afterwards_and_not_set_when_it_was_loaded_before() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists() or "libgomp" not in maps.read_text(encoding="utf-8", errors="replace"):
        pytest.skip("this torch computes with another OpenMP than libgomp, which has no GOMP_SPINCOUNT")
    read = in_new_process("import knowsam, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert f"{SPIN_COUNT} = '{SHORT_SPIN}'" in read
    late = in_new_process(f"import torch, knowsam; {PRINT}", OMP_DISPLAY_ENV="verbose")
    assert late.stdout.strip() == "None"
    assert f"{SPIN_COUNT} = '{SHORT_SPIN}'" not in late.stderr


def test_a_process_to_be_started_gets_it_although_torch_is_here() -> None:
    assert torch.__version__
    assert not wait_briefly()
    environment: dict[str, str] = {}
    assert wait_briefly(environment)
    assert environment == {SPIN_COUNT: SHORT_SPIN}
    assert not wait_briefly(environment)  # it counts as chosen now

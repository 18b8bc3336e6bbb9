"""Loader processes do not outlive the process they read for, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from knowsam.runs.loading import load_steps
from knowsam.runs.lock import folder_lock
from knowsam.storage import is_alive

COMMAND = """
import multiprocessing, sys, time
from pathlib import Path
from knowsam.runs.loading import load_steps
from knowsam.runs.lock import folder_lock

class Large:
    def __getitem__(self, step):
        return bytes(1 << 20)  # more than a pipe holds

with folder_lock(Path(sys.argv[1])):
    steps = iter(load_steps(Large(), range(100), 2, bytes))
    next(steps)
    time.sleep(1)  # until the pipe is full
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(100)
"""


@pytest.mark.subprocess
def test_loaders_of_a_killed_process_end_although_nobody_takes_what_they_have(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path)], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        loaders = [int(pid) for pid in killed.stdout.readline().split()]
        assert len(loaders) == 2
        os.kill(killed.pid, signal.SIGKILL)
    with folder_lock(tmp_path):  # the loaders, forks of its holder, do not hold it
        pass
    until = time.monotonic() + 30
    while any(is_alive(pid) for pid in loaders):
        assert time.monotonic() < until, "a loader is left"
        time.sleep(0.1)


class Squares:
    def __getitem__(self, step: int) -> int:
        return step**2


@pytest.mark.subprocess
@pytest.mark.parametrize("workers", [0, 2])
def test_steps_come_in_order(workers: int) -> None:
    assert list(load_steps(Squares(), range(3, 8), workers, str)) == ["9", "16", "25", "36", "49"]

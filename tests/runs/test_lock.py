"""One writer per folder: the second is told who the first is, and a dead one holds nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from knowsam.errors import InputError
from knowsam.runs import lock
from knowsam.runs.lock import folder_lock
from knowsam.storage import LOCK_FILE


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with folder_lock(folder):
        held = json.loads((folder / LOCK_FILE).read_text())
        assert (held["process"], held["host"]) == (os.getpid(), platform.node())
        words = f"{folder}: another process is at work there \\(process {os.getpid()} on .*, since 20"
        with pytest.raises(InputError, match=words), folder_lock(folder):
            pass
        assert (folder / LOCK_FILE).exists()
    assert not folder.exists()  # nothing was written: the folder goes, too


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run" / "file").write_text("mine")
    assert [one.name for one in (tmp_path / "a" / "run").iterdir()] == ["file"]


def test_who_waits_gets_it_when_the_other_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "ASK_AGAIN_S", 0.01)
    order: list[str] = []

    def second() -> None:
        with folder_lock(tmp_path, wait=True):
            order.append("second")

    with folder_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append("first leaves")
    thread.join()
    assert order == ["first leaves", "second"]


@pytest.mark.subprocess
def test_the_lock_of_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from knowsam.runs.lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert (tmp_path / LOCK_FILE).exists()
    with folder_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


def test_without_locks_of_the_file_system_the_text_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def unknown(file: object, how: int) -> None:
        raise OSError(lock.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with folder_lock(tmp_path), pytest.raises(InputError, match="at work there"), folder_lock(tmp_path):
        pass
    dead = {"process": 2**22 + 1, "host": platform.node(), "since": "2026-01-01"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(dead))
    with folder_lock(tmp_path):
        pass
    (tmp_path / LOCK_FILE).write_text(json.dumps(dead | {"host": "another"}))
    with pytest.raises(InputError, match="on another, since"), folder_lock(tmp_path):
        pass

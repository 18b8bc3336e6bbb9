"""Files read in a process that may die."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from knowsam.errors import InputError
from knowsam.io.apart import read_apart

pytestmark = pytest.mark.subprocess
PATH = Path("/somewhere/a.h5")


def test_an_array_comes_back_and_what_a_library_prints_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    array, (value, process) = read_apart("support.ending:chatter", PATH, "file", 7)
    np.testing.assert_array_equal(array, np.full((2, 3), 7, np.uint16))
    assert array.dtype == np.uint16
    assert array.flags.writeable
    assert value == 7
    assert process != os.getpid()
    assert read_apart("support.ending:chatter", PATH, "file", 8)[1] == [8, process]  # kept for the next file
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("function", "said"), [("die", "SIGSEGV"), ("spin", "it took more than 120 s")])
def test_what_ends_the_process_is_a_sentence_and_the_next_file_is_read(function: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"a\.h5: reading it ended the library behind its format \({said}\)"):
        read_apart(f"support.ending:{function}", PATH, "HDF5 file")
    assert read_apart("support.ending:chatter", PATH, "file", 3)[1][0] == 3


def test_memory_and_strange_errors_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.h5: memory ran out"):
        read_apart("support.ending:swell", path, "HDF5 file")
    with pytest.raises(InputError, match=r"a\.h5: broken or truncated.*no such thing.*complete HDF5 file"):
        read_apart("support.ending:stumble", path, "HDF5 file")


def test_threads_read_at_the_same_time_and_forks_have_their_own() -> None:
    answers: list[int] = []
    ask = lambda: answers.append(read_apart("support.ending:chatter", PATH, "file", 5)[1][0])  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [5] * 4
    before = read_apart("support.ending:chatter", PATH, "file", 5)[1][1]
    child = os.fork()
    if child == 0:
        own = read_apart("support.ending:chatter", PATH, "file", 5)[1][1]
        os.kill(os.getpid(), signal.SIGTERM if own == before else signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert read_apart("support.ending:chatter", PATH, "file", 5)[1][1] == before


def test_signals_for_the_reading_program_do_not_end_it() -> None:
    process = read_apart("support.ending:chatter", PATH, "file", 5)[1][1]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process, number)
    assert read_apart("support.ending:chatter", PATH, "file", 5)[1] == [5, process]
    assert os.getpgid(process) != os.getpgid(0)


def test_one_that_died_while_nobody_asked_is_replaced() -> None:
    process = read_apart("support.ending:chatter", PATH, "file", 5)[1][1]
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert read_apart("support.ending:chatter", PATH, "file", 5)[1][1] != process


def test_without_a_python_to_start_it_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert read_apart("support.ending:chatter", PATH, "file", 5)[1] == [5, os.getpid()]

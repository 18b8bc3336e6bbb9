"""Files read in a process that may die: what crashes, hangs or fills memory in a C library is one sentence here.

Such a process is started at the first file that needs one and kept for the next; each thread that reads at the same
time has its own. It gets a function's name and a path, and answers with one array and plain values. It is a fuse and
no wall: it has the rights of the user.

    python -c "from knowsam.io.apart import serve; serve(9)"

is asked on stdin, answers on stdout, puts the array into the open file 9, and ends with stdin.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from knowsam.errors import InputError
from knowsam.io.checks import unreadable
from knowsam.io.limits import VARIABLE, max_pixels

SECONDS = 120
"""Processor time for one file; the largest that is allowed takes a sixth of it."""
SPARE_BYTES = 1 << 29
"""Memory for whatever a library needs beside the pixels."""
LENGTH = struct.Struct("<Q")
START = "import sys; sys.path[:] = {path!r}; from knowsam.io.apart import serve; serve({shelf})"

Answer = tuple[np.ndarray, Any]


def read_apart(function: str, path: Path, kind: str, *arguments: Any) -> Answer:
    """Call a function that reads a file in a process of its own.

    Args:
        function: `"module:name"`, of `name(path, *arguments)`; it returns an array and plain values.
        path: The file.
        kind: What it should be, for messages.
        arguments: Plain values.

    Returns:
        What the function returns; the array is this process's own.

    Raises:
        InputError: That of the function, or the file ended the process.
    """
    if not sys.executable:  # an embedded interpreter, which cannot be started again
        return _function(function)(path, *arguments)
    request = {
        "function": function,
        "path": os.fspath(path),
        "kind": kind,
        "arguments": arguments,
        "folder": None if path.is_absolute() else os.getcwd(),
        "limit": max_pixels(),
    }
    with _borrowed() as helper:
        answer = helper.ask(request)
        if isinstance(answer, str):
            raise InputError(
                f"{path}: reading it ended the library behind its format ({answer}); expected a {kind}; it is broken or"
                " made to do harm: export it again, or remove it."
            )
        said, array = answer
    if "error" in said:
        raise InputError(said["error"])
    assert array is not None
    return array, said["values"]


def allow_memory(needed: int) -> None:
    """Let this process, if it is one that may die, take so many bytes more than it has, and no more.

    Args:
        needed: Beside `SPARE_BYTES`.
    """
    if _serving:
        _limit("RLIMIT_AS", _bytes_used() + needed + SPARE_BYTES)


class _Helper:
    """The other process."""

    def __init__(self) -> None:
        # Through a pipe an array would take a change of process for every 64 kB.
        self.shelf = os.memfd_create("knowsam") if hasattr(os, "memfd_create") else _temporary_file()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START.format(path=sys.path, shelf=self.shelf)],
                pass_fds=[self.shelf],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff and others write there what they think of a file
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C is for the reading process, which decides what to finish
            )
        except OSError:  # of these are too many open already
            os.close(self.shelf)
            raise

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None] | str:
        """The answer and its array, or what ended the process."""
        into, out = self.process.stdin, self.process.stdout
        assert into is not None
        assert out is not None
        try:
            _write(into, json.dumps(request).encode())
            said = json.loads(_read(out))
            if "shape" not in said:
                return said, None
            array = np.empty(said["shape"], np.dtype(said["dtype"]))
            if array.nbytes and _fill(self.shelf, memoryview(array.reshape(-1).view(np.uint8).data)) < array.nbytes:
                raise EOFError
            os.ftruncate(self.shelf, 0)
            return said, array
        except (EOFError, BrokenPipeError):
            return self.end()

    def end(self) -> str:
        """Wait for its end and say what it was."""
        code = self.process.wait()
        if code >= 0:
            return f"exit code {code}"
        known = {signal.SIGXCPU: f"it took more than {SECONDS} s"} if hasattr(signal, "SIGXCPU") else {}
        return known.get(signal.Signals(-code), signal.Signals(-code).name)

    def close(self) -> None:
        """Let it end."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(OSError):
            os.close(self.shelf)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)


_lock = threading.Lock()
_idle: list[_Helper] = []
_owner = os.getpid()
_serving = False


@contextlib.contextmanager
def _borrowed() -> Iterator[_Helper]:
    """A helper of this process and thread alone, given back if it lives and nothing is left in its pipes."""
    global _owner
    with _lock:
        if _owner != os.getpid():  # a fork: those are the other process's
            _idle.clear()
            _owner = os.getpid()
        helper = _idle.pop() if _idle else None
    if helper is not None and helper.process.poll() is not None:
        helper.close()
        helper = None
    helper = helper or _Helper()
    try:
        yield helper
    except InputError:
        _give_back(helper)
        raise
    except BaseException:
        helper.process.kill()  # interrupted: the rest of its answer is still to come
        helper.close()
        raise
    _give_back(helper)


def _give_back(helper: _Helper) -> None:
    if helper.process.returncode is not None:
        helper.close()
        return
    with _lock:
        _idle.append(helper)


@atexit.register
def _close_all() -> None:
    if _owner == os.getpid():
        while _idle:
            _idle.pop().close()


def serve(shelf: int) -> None:
    """Answer until stdin ends.

    Args:
        shelf: The open file for arrays.
    """
    global _serving
    _serving = True
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    into = sys.stdin.buffer
    # What a library prints must not get into the answers.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        while True:
            try:
                request = json.loads(_read(into))
            except EOFError:
                return
            _answer(request, out, shelf)


def _answer(request: dict[str, Any], out: IO[bytes], shelf: int) -> None:
    path = Path(request["path"])
    if request["folder"] is not None:
        os.chdir(request["folder"])
    os.environ[VARIABLE] = str(request["limit"])
    _limit("RLIMIT_CPU", int(sum(os.times()[:2])) + SECONDS)
    allow_memory(0)
    try:
        array, values = _function(request["function"])(path, *request["arguments"])
        array = np.ascontiguousarray(array)
        said = {"values": values, "shape": array.shape, "dtype": array.dtype.str}
    except InputError as error:
        array, said = None, {"error": str(error)}
    except Exception as error:
        array, said = None, {"error": str(unreadable(path, request["kind"], error))}
    if array is not None and array.nbytes:
        left, done = memoryview(array.reshape(-1).view(np.uint8).data), 0
        while done < len(left):
            done += os.pwrite(shelf, left[done:], done)
    _write(out, json.dumps(said).encode())


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _write(stream: IO[bytes], content: bytes) -> None:
    stream.write(LENGTH.pack(len(content)) + content)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    content = stream.read(LENGTH.unpack(head)[0])
    if len(content) < LENGTH.unpack(head)[0]:
        raise EOFError
    return content


def _fill(shelf: int, room: memoryview) -> int:
    """Read into memory; the number of bytes there were."""
    done = 0
    while done < len(room):
        count = os.preadv(shelf, [room[done:]], done)
        if not count:
            break
        done += count
    return done


def _temporary_file() -> int:
    """An open file without a name."""
    descriptor, name = tempfile.mkstemp(prefix="knowsam-")
    os.unlink(name)
    return descriptor


def _limit(name: str, most: int) -> None:
    """Set a soft limit of this process, where its system has it and its hard limit allows it."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    kind = getattr(resource, name)
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _bytes_used() -> int:
    """Address space of this process; half a terabyte, which limits nothing, where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return 1 << 39
    return pages * os.sysconf("SC_PAGE_SIZE")

"""Let the n-th file operation of a process below one folder fail, kill it, or be the last before a power cut.

Operations are seen by an audit hook (PEP 578): every opening of a file, renaming, removal and new folder that Python
does or lets a library do through it, and `os.fsync`. Each is written to a trace before it happens.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR
RENAME, REMOVE, MAKE, OPEN, READ, SYNC = "rename", "remove", "make", "open", "read", "sync"
EVENTS = {"os.rename": RENAME, "os.remove": REMOVE, "os.rmdir": REMOVE, "os.mkdir": MAKE}
ERRORS = ("ENOSPC", "EIO", "EACCES")
"""Each makes one operation fail. Other kinds of faults: `kill`, SIGKILL before the operation; `cut`, killed after some
bytes of the file that is opened; `power`, as `kill`, and what was not yet safe is lost; `full`, no file grows beyond a
few bytes from here on."""
BEYOND_BYTES = 30


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        number: Index of the operation.
        kind: One of `ERRORS`, or `kill`, `cut`, `power`, `full`.
    """

    number: int
    kind: str


@dataclass(frozen=True)
class Operation:
    """One line of a trace: what was about to happen.

    Attributes:
        what: `"open"` for writing, `"read"`, `"rename"`, `"remove"`, `"make"` or `"sync"`.
        path: Of what, below the folder.
        to: The new name of what is renamed.
        size: Of what is made safe, in bytes.
    """

    what: str
    path: str
    to: str = ""
    size: int = 0


class Watch:
    """The audit hook: counts operations below a folder, and does what the fault says.

    Args:
        folder: Operations elsewhere do not count.
        trace: File for the operations.
        fault: None only writes the trace.
        reading: Count the openings of files for reading, and nothing else.
    """

    def __init__(self, folder: Path, trace: Path, fault: Fault | None = None, reading: bool = False) -> None:
        self.folder, self.fault, self.reading, self.count = str(folder), fault, reading, 0
        self.trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.process, self.real_fsync = os.getpid(), os.fsync
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def start(self) -> None:
        """From here on operations are seen; there is no end."""
        os.fsync = self.fsync  # type: ignore[assignment]
        # Here, because the operation may be one of a thread, in which Python changes no signal.
        cut = self.fault is not None and self.fault.kind == "cut"
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if cut else signal.SIG_IGN)
        sys.addaudithook(self)

    def fsync(self, descriptor: Any) -> None:
        """Stand in for `os.fsync`, which no audit event tells of; the process is killed, not the machine."""
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if path.startswith(self.folder):
            self.happens(Operation(SYNC, path, size=os.fstat(number).st_size))

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS or event == "open":
            path = self._path(arguments[0])
            if path is None or os.getpid() != self.process:
                return
            if event == "open":
                writes = bool((arguments[2] or 0) & WRITING)
                if os.path.isdir(path):
                    return
                self.happens(Operation(OPEN if writes else READ, path))
            else:
                to = os.path.abspath(os.fsdecode(arguments[1])) if event == "os.rename" else ""
                self.happens(Operation(EVENTS[event], path, to))

    def _path(self, given: Any) -> str | None:
        if not isinstance(given, str | bytes | os.PathLike):
            return None
        path = os.path.abspath(os.fsdecode(given))
        return path if path.startswith(self.folder) else None

    def happens(self, operation: Operation) -> None:
        """Count an operation, and let it go wrong where its turn has come."""
        if self.reading != (operation.what == READ):
            return
        here, self.count = self.count, self.count + 1
        fault = self.fault
        full = fault is not None and fault.kind == "full" and here >= fault.number  # the trace must not grow, either
        if not full and (fault is None or here != fault.number or fault.kind == "power"):
            os.write(self.trace, (json.dumps(vars(operation)) + "\n").encode())
        if fault is None or here != fault.number:
            return
        if fault.kind in ("kill", "power"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind in ("cut", "full"):
            there = os.path.getsize(operation.path) if os.path.isfile(operation.path) else 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (there + BEYOND_BYTES, resource.RLIM_INFINITY))
        else:
            code = getattr(errno, fault.kind)
            raise OSError(code, os.strerror(code), operation.path)


def read_trace(path: Path) -> list[Operation]:
    """The operations of a process, in order."""
    return [Operation(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def possible(operation: Operation, kind: str) -> bool:
    """Whether a kind of fault is one of its own at an operation."""
    return kind not in ("cut", "full") or operation.what == OPEN


def lose_power(folder: Path, trace: list[Operation]) -> None:
    """Take from a folder what a power cut may take: bytes after the last sync of a file, names after its folder's.

    It is the worst that a file system may do; ext4 keeps more.
    """
    safe: dict[str, int] = {}  # file -> bytes that are safe, of files opened for writing
    named: dict[str, str] = {}  # names that are not safe yet -> folder
    for operation in trace:
        if operation.what == OPEN:
            new = operation.path not in safe
            safe.setdefault(operation.path, 0)
            if new:
                named[operation.path] = os.path.dirname(operation.path)
        elif operation.what == SYNC and operation.path in safe:
            safe[operation.path] = operation.size
        elif operation.what == SYNC:
            named = {name: parent for name, parent in named.items() if parent != operation.path}
        elif operation.what == RENAME:
            safe[operation.to] = safe.pop(operation.path, sys.maxsize)
            named.pop(operation.path, None)
            named[operation.to] = os.path.dirname(operation.to)
        elif operation.what == REMOVE:
            safe.pop(operation.path, None)
            named.pop(operation.path, None)
    for name, size in safe.items():
        path = Path(name)
        if path.is_file() and path.stat().st_size > size:
            os.truncate(path, size)
        # A name that replaced another may stay; one that was new may be gone.
        if name in named and path.is_file() and path.stat().st_size == 0:
            path.unlink()

"""One writer per folder: a lock that says who holds it, and that dies with its holder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from knowsam.errors import InputError
from knowsam.storage import LOCK_FILE, is_alive, output_folder

ASK_AGAIN_S = 0.2
OLD_NAME_S = 20.0
"""How long a lock that is held may name a dead process: its new holder may not have written its own name yet."""
_held: set[IO[str]] = set()
"""Locks of this process. A fork of it has the same open files, and would hold them on when it is gone: it closes them,
which takes the lock from nobody."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems answer that know no locks."""


@contextlib.contextmanager
def folder_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder: at most one process at a time is within this block. Makes the folder, and clears it as it goes.

    The lock is the operating system's, so that it is gone with the process that held it, however that ended. `.lock`
    says who that is: process, host and time. On a file system without locks that text alone decides; a holder of this
    host that is dead is passed over then, one of another host has to be looked for.

    Args:
        folder: The folder; `output_folder` makes it and removes the leftovers of dead processes.
        wait: Wait for the other one to leave.

    Raises:
        InputError: Another process is at work there.
    """
    with output_folder(folder):
        file = _acquire(folder, wait)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            # Removed while it is held: whoever waits for it finds out that it lost its name, and takes a new one.
            with contextlib.suppress(OSError):
                (folder / LOCK_FILE).unlink()
            file.close()


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def clear_lock(folder: Path) -> None:
    """Remove from a finished folder the lock of a process that was killed before it let go, and what else it left."""
    if (folder / LOCK_FILE).exists():
        with folder_lock(folder, wait=True):
            pass


def _acquire(folder: Path, wait: bool) -> IO[str]:
    """The open lock file, held by this process."""
    path, started = folder / LOCK_FILE, time.monotonic()
    while True:
        file = path.open("a+", encoding="utf-8")
        if _try(file):
            # The one who held it may have removed it between opening and locking.
            if _same_file(file, path):
                file.truncate(0)
                file.write(json.dumps(_self()))
                file.flush()
                return file
            file.close()
            continue
        holder = _read(file)
        file.close()
        if not wait and (not _is_dead(holder) or time.monotonic() - started > OLD_NAME_S):
            raise InputError(
                f"{folder}: another process is at work there ({_said(holder)}), but expected to be the only one; wait"
                " for it, or choose another folder."
            )
        time.sleep(ASK_AGAIN_S)


def _try(file: IO[str]) -> bool:
    """Take the lock if nobody has it."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        holder = _read(file)
        return not holder or _is_dead(holder)
    return True


def _same_file(file: IO[str], path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), there)


def _self() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": platform.node(), "since": now}


def _read(file: IO[str]) -> dict[str, Any]:
    """Who holds the lock; empty where that was not written yet."""
    file.seek(0)
    try:
        values = json.loads(file.read())
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this host that is no more."""
    process = holder.get("process")
    return holder.get("host") == platform.node() and isinstance(process, int) and not is_alive(process)


def _said(holder: dict[str, Any]) -> str:
    if not holder:
        return "it has not said which"
    return f"process {holder.get('process')} on {holder.get('host')}, since {holder.get('since')}"

"""Functions that a process which reads files can be asked for, and that end it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from knowsam.io.apart import allow_memory


def die(path: Path) -> tuple[np.ndarray, None]:
    """As a C library that reads where it must not."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return np.zeros(1), None


def spin(path: Path) -> tuple[np.ndarray, None]:
    """As one that follows a circle."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
    while True:
        pass


def swell(path: Path) -> tuple[np.ndarray, None]:
    """As one that believes a size."""
    allow_memory(0)
    return np.ones(1 << 29), None


def chatter(path: Path, value: int) -> tuple[np.ndarray, list[int]]:
    """As one that prints."""
    os.write(1, b"noise")
    os.write(2, b"noise")
    return np.full((2, 3), value, np.uint16), [value, os.getpid()]


def stumble(path: Path) -> tuple[np.ndarray, None]:
    """As one with an error of its own."""
    raise LookupError("no such thing")

"""Keep freed memory for the next step instead of returning it to the system and requesting it again (glibc)."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

KEEP = 2**30
"""In bytes: blocks up to this size come from the heap, which is trimmed only when this much of its end is free."""

RETURN = 2**25
"""In bytes, where glibc's own adjustment of both thresholds ends: 32 MB, and twice that for trimming the heap."""

USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which the user has chosen an allocator or its settings, which then stay."""


@contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Within the block, keep large freed blocks in the process; at its end, return them to the system.

    By default glibc returns every block above 32 MB at once, and the next tensor of that size costs thousands of page
    faults: a fifth of a training step and more on a CPU (docs/performance.md). Values do not change, peak memory grows
    by about a tenth.

    Yields:
        Whether anything was changed: nothing is without glibc, or where the user has set the allocator.
    """
    libc = None if any(os.environ.get(name) for name in USERS_OWN) else glibc()
    if libc is None or not libc.mallopt(M_MMAP_THRESHOLD, KEEP):
        yield False
        return
    libc.mallopt(M_TRIM_THRESHOLD, KEEP)
    try:
        yield True
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, RETURN)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * RETURN)
        libc.malloc_trim(0)


def glibc() -> Any:
    """The C library if it has `mallopt`; musl, macOS and Windows have another allocator."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from knowsam.training import memory as allocator
from knowsam.training.memory import keep_freed_memory

BLOCK = 2**26  # bytes, above the 32 MB from which on glibc asks the system for every block

ALLOCATE_AND_FREE = """
import ctypes
from contextlib import nullcontext
from knowsam.training.memory import keep_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype = Mallinfo, ctypes.c_void_p
with {context} as changed:
    blocks = libc.mallinfo2().hblks
    block = libc.malloc(ctypes.c_size_t({size}))
    from_system = libc.mallinfo2().hblks - blocks
    libc.free(ctypes.c_void_p(block))
    kept = libc.mallinfo2().fordblks
    print(changed, from_system, kept, end=" ")
print(libc.mallinfo2().fordblks)
"""


@pytest.fixture(autouse=True)
def untouched_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in allocator.USERS_OWN:
        monkeypatch.delenv(name, raising=False)


def allocate(context: str) -> tuple[int, int, int]:
    """Blocks asked of the system, bytes kept after freeing, bytes kept after the context."""
    command = [sys.executable, "-c", ALLOCATE_AND_FREE.format(context=context, size=BLOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    changed, from_system, kept, after = done.stdout.split()
    assert changed == "True"
    return int(from_system), int(kept), int(after)


@pytest.mark.subprocess
@pytest.mark.skipif(
    allocator.glibc() is None or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer"
)
def test_a_large_block_is_kept_when_freed_and_given_back_at_the_end() -> None:
    from_system, kept, after = allocate("keep_freed_memory()")
    assert from_system == 0
    assert kept >= BLOCK
    assert after < BLOCK
    from_system, kept, _ = allocate("nullcontext(True)")
    assert from_system == 1
    assert kept < BLOCK


@pytest.mark.parametrize("name", allocator.USERS_OWN)
def test_the_users_own_settings_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "glibc", lambda: pytest.fail("the allocator was touched"))
    monkeypatch.setenv(name, "1")
    with keep_freed_memory() as changed:
        assert changed is False


class Recorder:
    """Takes the place of the C library."""

    def __init__(self, accepts: int) -> None:
        self.accepts = accepts
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls.append((parameter, value))
        return self.accepts

    def malloc_trim(self, pad: int) -> None:
        self.calls.append((pad,))


@pytest.fixture
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(request.param)
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    return recorder


@pytest.mark.parametrize("library", [1], indirect=True)
def test_memory_goes_back_at_the_end_even_after_an_error(library: Recorder) -> None:
    with pytest.raises(ZeroDivisionError), keep_freed_memory():
        _ = 1 // 0
    assert library.calls == [(-3, 2**30), (-1, 2**30), (-3, 2**25), (-1, 2**26), (0,)]


@pytest.mark.parametrize("library", [0], indirect=True)
def test_a_library_that_refuses_is_left_alone(library: Recorder) -> None:
    with keep_freed_memory() as changed:
        assert changed is False
    assert library.calls == [(-3, 2**30)]


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.glibc() is None

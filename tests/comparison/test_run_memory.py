"""Runs side by side: begun only where memory is there, on the emptiest GPU, with a share of the cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.comparison.engine import available_cores, environment_of_one
from knowsam.comparison.grid import Cell
from knowsam.comparison.memory import Free, Memory, Room, expected_memory, free_host_mb, free_memory
from knowsam.runs.waiting import SHORT_SPIN


def test_a_run_takes_what_runs_of_its_method_and_sam_took_at_most() -> None:
    took = {
        Cell("a", "none", "7", 0): Memory(100.0), Cell("a", "none", "7", 1): Memory(300.0, 50.0),
        Cell("a", "tiny", "7", 0): Memory(900.0),
    }  # fmt: skip
    assert expected_memory(Cell("a", "none", "3", 5), took) == Memory(300.0, 50.0)
    assert expected_memory(Cell("b", "none", "3", 5), took) is None


def test_what_runs_at_work_will_still_take_is_promised_to_them() -> None:
    now = [Free(1000.0)]
    room = Room(lambda: now[0])
    assert room.place(Memory(5000.0), []) is None  # nothing is beside it: it is tried
    others = [(Memory(300.0), None), (Memory(300.0), None)]
    assert room.place(Memory(299.0), others) is None  # 90 % of 1,000 less 600
    with pytest.raises(MemoryError, match=r"needs about 301 MB, of which 300 are left"):
        room.place(Memory(301.0), others)
    now[0] = Free(200.0)  # something else has taken it in the meantime
    with pytest.raises(MemoryError, match="of which 200 are left"):
        room.place(Memory(299.0), others)


def test_the_emptiest_gpu_is_taken_and_a_full_one_refused() -> None:
    room = Room(lambda: Free(None, (10_000.0, 12_000.0)))
    assert room.place(None, []) == 1
    large = Memory(1.0, 5000.0)  # 6,700 with cache and context
    assert room.place(large, [(large, 1)]) == 0
    with pytest.raises(MemoryError, match=r"needs about 6700 MB of a GPU, of which 4100 are left"):
        room.place(large, [(large, 0), (large, 1)])
    assert room.place(Memory(1.0, 2000.0), [(large, 0), (large, 1)]) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 4096 kB\nMemAvailable:    2048 kB\n"}, 2.0),
        (
            {
                "proc/meminfo": "MemAvailable:    20480 kB\n",
                "sys/fs/cgroup/memory.max": "8388608\n",
                "sys/fs/cgroup/memory.current": "3145728\n",
            },
            5.0,
        ),
        (
            {
                "proc/meminfo": "MemAvailable:    20480 kB\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": "3145728\n",
            },
            20.0,
        ),
        ({}, None),
    ],
)
def test_free_memory_knows_the_limit_of_a_container(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_host_mb(tmp_path) == expected


def test_this_machine_says_what_is_free() -> None:
    found = free_memory()
    assert found.host_mb is None or found.host_mb > 10


def test_runs_side_by_side_share_the_cores_unless_the_user_has_said_how_many() -> None:
    assert environment_of_one(1, None, {}) == {"GOMP_SPINCOUNT": SHORT_SPIN}
    shared = environment_of_one(2, None, {"GOMP_SPINCOUNT": "5"})
    assert shared == {"OMP_NUM_THREADS": str(max(1, available_cores() // 2))}
    assert environment_of_one(10_000, 0, {"OMP_WAIT_POLICY": "active"})["OMP_NUM_THREADS"] == "1"
    own = {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "5", "CUDA_VISIBLE_DEVICES": "4,6"}
    assert environment_of_one(2, 1, own) == {"CUDA_VISIBLE_DEVICES": "6"}

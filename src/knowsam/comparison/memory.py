"""How much memory the next run will take, and whether it is there beside those that are at work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knowsam.comparison.grid import Cell

SHARE = 0.9
"""Of the free memory that runs side by side may take."""
GROWTH = 2.0
"""What a run may still take, times what it took so far: a later phase may hold a second graph of the students."""
GPU_CACHE, GPU_CONTEXT_MB = 1.2, 700.0
"""Of a process on a GPU: what torch's allocator holds over what is allocated, and CUDA's own part."""
NO_LIMIT = 2.0**50
"""From here on in bytes a limit of a cgroup is none."""


@dataclass(frozen=True)
class Memory:
    """What a run takes at its peak.

    Attributes:
        host_mb: Resident memory of its process, MB of 2^20 bytes.
        gpu_mb: Allocated on the GPU; None without one.
    """

    host_mb: float
    gpu_mb: float | None = None

    @property
    def on_gpu_mb(self) -> float:
        """What the GPU must have for it, cache and context included; 0 without one."""
        return 0.0 if self.gpu_mb is None else GPU_CACHE * self.gpu_mb + GPU_CONTEXT_MB

    def grown(self) -> Memory:
        """What a run of an unknown kind may take that has taken this so far."""
        return Memory(GROWTH * self.host_mb, None if self.gpu_mb is None else GROWTH * self.gpu_mb)


@dataclass(frozen=True)
class Free:
    """What the machine has to give.

    Attributes:
        host_mb: None where that cannot be found out.
        gpus_mb: Of each GPU; empty without one.
    """

    host_mb: float | None
    gpus_mb: tuple[float, ...] = ()


def largest(measured: Sequence[Memory]) -> Memory | None:
    """The most of each; None of nothing."""
    if not measured:
        return None
    on_gpu = [one.gpu_mb for one in measured if one.gpu_mb is not None]
    return Memory(max(one.host_mb for one in measured), max(on_gpu, default=None))


def expected_memory(cell: Cell, took: Mapping[Cell, Memory]) -> Memory | None:
    """What a run will take: the most that runs of the same method and SAM took; None as long as there is none."""
    return largest([one for other, one in took.items() if (other.method, other.sam) == (cell.method, cell.sam)])


class Room:
    """Decides whether a run has room beside others, and on which GPU.

    Args:
        free: Says what is free now.
    """

    def __init__(self, free: Callable[[], Free] | None = None) -> None:
        self._free = free or free_memory
        self._first = Free(None)

    def place(self, need: Memory | None, beside: Sequence[tuple[Memory, int | None]]) -> int | None:
        """The GPU for a run: the one with the most memory left.

        Args:
            need: Of the run; None if nothing is beside it, where it is started whatever it needs.
            beside: What each run at work will take, and its GPU.

        Returns:
            Its index; None without a GPU.

        Raises:
            MemoryError: There is no room; says what is needed and what is left.
        """
        now = self._free()
        if not beside:
            self._first = now  # what the others will take is counted from here
            return max(range(len(now.gpus_mb)), key=now.gpus_mb.__getitem__, default=None)
        assert need is not None
        if now.host_mb is not None and self._first.host_mb is not None:
            promised = sum(other.host_mb for other, _ in beside)
            left = min(SHARE * self._first.host_mb - promised, now.host_mb)
            if need.host_mb > left:
                raise MemoryError(f"the next needs about {need.host_mb:.0f} MB, of which {max(0, left):.0f} are left")
        lefts = {
            index: min(SHARE * first - sum(other.on_gpu_mb for other, its in beside if its == index), free)
            for index, (first, free) in enumerate(zip(self._first.gpus_mb, now.gpus_mb, strict=True))
        }
        if not lefts:
            return None
        best = max(lefts, key=lambda index: lefts[index])
        if need.on_gpu_mb > lefts[best]:
            raise MemoryError(
                f"the next needs about {need.on_gpu_mb:.0f} MB of a GPU, of which {max(0, lefts[best]):.0f} are left"
            )
        return best


def free_memory() -> Free:
    """What this machine can give to new processes, those limits included that a scheduler or container sets."""
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return Free(free_host_mb(), tuple(torch.cuda.mem_get_info(index)[0] / 2**20 for index in gpus))


def free_host_mb(root: Path = Path("/")) -> float | None:
    """Memory that new processes can have, in MB; None where the system does not say.

    Args:
        root: Of the file system in which `proc` and `sys` are looked for.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    if "MemAvailable" not in lines:
        return None
    available = int(lines["MemAvailable"].split()[0]) / 1024
    # Version 2 of cgroups, then version 1; those of the machine itself have no limit.
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if (root / limit).exists() and (root / used).exists():
            most = (root / limit).read_text().strip()
            if most.isdigit() and int(most) < NO_LIMIT:
                available = min(available, (int(most) - int((root / used).read_text())) / 2**20)
    return max(0.0, available)

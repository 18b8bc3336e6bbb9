"""Steps read ahead by processes that end with the one they read for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from knowsam.runs.parent import end_with_parent

AHEAD = 4
"""Steps that each process has ready."""


def load_steps(
    source: Dataset[Any], steps: Sequence[int], workers: int, pack: Callable[[Any], Any] | None = None
) -> DataLoader[Any]:
    """The steps of a run in order, made by some processes ahead of time.

    Args:
        source: What makes a step of its index, whole.
        steps: Which.
        workers: Number of processes; 0: each step is made here when it is asked for.
        pack: What a process does to a step before it sends it.
    """
    ahead: dict[str, Any] = {"prefetch_factor": AHEAD, "worker_init_fn": end_with_parent} if workers else {}
    return DataLoader(source, batch_size=None, sampler=steps, num_workers=workers, collate_fn=pack, **ahead)

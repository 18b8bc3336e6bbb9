"""How OpenMP's threads wait for work: briefly, so that a machine may do something else too. Imports nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

SPIN_COUNT = "GOMP_SPINCOUNT"
SHORT_SPIN = "1000"
"""Turns of the loop in which a waiting thread keeps its core, about 10 us; libgomp's own 300,000 are 3 ms."""
USERS_OWN = (SPIN_COUNT, "OMP_WAIT_POLICY")
"""Variables by which the user has chosen how threads wait, which then stays."""


def wait_briefly(environment: MutableMapping[str, str] | None = None) -> bool:
    """Let the threads of libgomp, the OpenMP of PyTorch on Linux, spin briefly before they sleep.

    Where other processes want the cores, a thread that spins for milliseconds keeps them from the very threads that it
    waits for: beside two busy processes on two cores a training step took seven times as long (docs/performance.md).

    Args:
        environment: What to set it in, that of a process to be started; None: this process and those it starts. There
            it is set only as long as torch is not imported: libgomp reads it once, when it is loaded.

    Returns:
        Whether it was set: it is not where the user has said how threads wait, or torch is there already.
    """
    if environment is None:
        if "torch" in sys.modules:
            return False
        environment = os.environ
    if any(environment.get(name) for name in USERS_OWN):
        return False
    environment[SPIN_COUNT] = SHORT_SPIN
    return True

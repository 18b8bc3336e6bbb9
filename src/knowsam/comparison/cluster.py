"""Cells on a Dask cluster (extra `cluster`): each worker does one at a time for each of its threads."""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import knowsam
from knowsam.comparison.cell import INTERRUPTED, CellJob
from knowsam.comparison.engine import THREADS, RunningCell, available_cores
from knowsam.comparison.memory import Memory
from knowsam.comparison.outcome import MEMORY_FILE
from knowsam.errors import InputError
from knowsam.runs.waiting import wait_briefly

if TYPE_CHECKING:
    from distributed import Client, Future, Variable

CONNECT_S = 30
POLL_S = 1.0
SILENT_S = 120.0
"""A worker whose comparison has not been heard of for so long lets its cell save and stop."""


class ClusterEngine:
    """Hands all cells to a scheduler at once: it gives a lost worker's cell to another one.

    Args:
        address: Of the scheduler, `tcp://HOST:8786`, or a file that `dask scheduler --scheduler-file` wrote.

    Raises:
        InputError: If the extra is not installed, or nothing answers there.
    """

    slots = sys.maxsize
    checks_memory = False

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client, Variable
        except ImportError as error:
            raise InputError(
                f"--scheduler: {error.name or 'distributed'} is not installed, but expected the extra 'cluster';"
                " pip install 'knowsam[cluster]'."
            ) from error
        given: dict[str, Any] = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
        try:
            self.client: Client = Client(**given, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"--scheduler: no answer came from '{address}' ({type(error).__name__}), but expected a Dask scheduler,"
                " e.g. tcp://HOST:8786; start one with `dask scheduler`, or correct the address."
            ) from error
        self.name = f"knowsam-{uuid.uuid4().hex}"
        self._word: Variable = Variable(self.name, client=self.client)
        self._beat = 0
        self.stopping = False
        self.say()

    def start(self, job: CellJob, need: Memory | None, beside: Mapping[RunningCell, Memory]) -> ClusterCell:
        """See `Engine.start`; memory is what the cluster grants its workers."""
        there = replace(job, run=job.run.resolve(), cell=job.cell.resolve())
        future = self.client.submit(
            on_worker, there, self.name, knowsam.__version__, key=f"{job.cell.name}-{uuid.uuid4().hex}", pure=False
        )
        return ClusterCell(self, future, there)

    def wait(self, seconds: float) -> None:
        """See `Engine.wait`.

        Raises:
            InputError: The scheduler is gone.
        """
        time.sleep(seconds)
        self.say()

    def say(self) -> None:
        """Let the workers know that somebody waits for them, and whether to stop."""
        self._beat += 1
        try:
            self._word.set({"beat": self._beat, "stop": self.stopping})
        except (OSError, TimeoutError, RuntimeError) as error:
            raise InputError(
                f"--scheduler: the connection was lost ({type(error).__name__}), but expected one until the end;"
                " what was trained is kept: start one again and repeat the command."
            ) from error

    def close(self) -> None:
        """Leave the cluster as it was found; cells that still have to stop hear it from what stays there."""
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            if not self.stopping:
                self._word.delete()
        self.client.close()


class ClusterCell:
    """A task of the cluster.

    Args:
        engine: What handed it over.
        future: Its answer.
        job: What is done.
    """

    def __init__(self, engine: ClusterEngine, future: Future, job: CellJob) -> None:
        self.engine, self.future, self.job = engine, future, job

    def at_work(self) -> bool:
        """Whether its process has begun."""
        return (self.job.cell / MEMORY_FILE).exists()

    def ended(self) -> int | str | None:
        """See `RunningCell.ended`."""
        status = self.future.status
        if status == "finished":
            return self.future.result()
        if status == "error":
            error = self.future.exception()
            if type(error).__name__ == "KilledWorker":
                return (
                    "its worker was lost several times, probably because memory ran out; give the workers more, or take"
                    " a smaller --batch or --size, and repeat the command."
                )
            return str(error) if isinstance(error, InputError) else f"{type(error).__name__} on its worker: {error}"
        if status == "cancelled":  # "lost" is a moment: the scheduler gives the cell to another worker
            return INTERRUPTED
        return INTERRUPTED if self.engine.stopping and not self._has_worker() else None

    def _has_worker(self) -> bool:
        return any(self.future.key in keys for keys in self.engine.client.processing().values())

    def stop(self) -> None:
        """See `RunningCell.stop`."""
        self.engine.stopping = True

    def kill(self) -> None:
        """Its process ends when it has heard that it shall stop, or when nobody is heard any more."""
        self.engine.stopping = True
        self.engine.say()
        self.future.cancel()


def on_worker(job: CellJob, name: str, version: str) -> int:
    """Do a cell in a process of its own on a worker, which may be lost with it at any moment.

    Args:
        job: What to do, with full paths.
        name: Of the variable that says whether somebody waits for it.
        version: Of the package that asks.

    Returns:
        As `RunningCell.ended`.

    Raises:
        InputError: The worker has another version, or does not see the folder of the comparison.
    """
    host = platform.node()
    if version != knowsam.__version__:
        raise InputError(
            f"worker {host}: knowsam {knowsam.__version__} was found, but expected {version} as where it was asked for;"
            " install the same."
        )
    out = job.cell.parents[1]
    if not (out / "compare.json").exists():
        raise InputError(
            f"worker {host}: {out} was not found, but expected a folder that all workers share; choose such an --out."
        )
    environment = os.environ | {THREADS: str(threads_of_one()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    wait_briefly(environment)
    word = _Word(name)
    if not word.goes_on():
        return INTERRUPTED
    # Not multiprocessing: Dask's workers may be daemons, which must not have children of that kind.
    command = [sys.executable, "-m", "knowsam.comparison.worker"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    try:
        process.stdin.write(pickle.dumps(job))
        process.stdin.flush()  # and left open: its end tells the process that this worker is gone
        while process.poll() is None:
            time.sleep(POLL_S)
            if not word.goes_on():
                process.terminate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdin.close()
    return process.returncode


def threads_of_one() -> int:
    """Of the cores of a worker's host, the share of one cell beside those that its workers may do at a time."""
    from distributed import get_client, get_worker

    worker = get_worker()
    everyone = get_client().scheduler_info(n_workers=-1)["workers"].values()
    here = sum(one["nthreads"] for one in everyone if one["host"] == worker.ip)
    return max(1, available_cores() // max(1, here))


class _Word:
    """What a worker hears from the comparison that asked.

    Args:
        name: Of the variable.
    """

    def __init__(self, name: str) -> None:
        from distributed import Variable, get_client

        self._variable = Variable(name, client=get_client())
        self._beat, self._heard = 0, time.monotonic()

    def goes_on(self) -> bool:
        """False if it shall stop, or nobody has been heard of for a while."""
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            said = self._variable.get(timeout=5)
            if said["stop"]:
                return False
            if said["beat"] != self._beat:
                self._beat, self._heard = said["beat"], time.monotonic()
        return time.monotonic() - self._heard < SILENT_S

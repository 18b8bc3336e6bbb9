"""A training step on a machine that does something else too: alone, beside one, beside two busy loops.

    python benchmarks/busy.py --size 128 --batch 4+4 --seconds 15

Each way is a process of its own that trains for so many seconds, in turns: as the package does it (knowsam before
torch), and as OpenMP would do it by itself (torch before knowsam, where nothing can be set any more). Rates are steps
by the clock on the wall, which is what a busy machine takes away.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAYS = {"short spin": "import knowsam, torch", "OpenMP's own": "import torch, knowsam"}
RUN = "import sys; sys.path.insert(0, {folder!r}); import busy; busy.work({given!r})"


def main() -> None:
    from measure import keep, parser, spread

    options = parser(__doc__, rounds=5)
    options.add_argument("--method", default="knowsam")
    options.add_argument("--sam", default="tiny")
    options.add_argument("--size", default="128")
    options.add_argument("--batch", default="4+4")
    options.add_argument("--busy", type=int, nargs="*", default=[0, 1, 2], help="numbers of busy loops, 0 first")
    options.add_argument("--seconds", type=float, default=15.0, help="of training, each time")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="of the training process")
    options.add_argument("--spin", help="another GOMP_SPINCOUNT in place of the package's")
    arguments = options.parse_args()
    rates: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for busy in arguments.busy:
            for way in WAYS:
                with busy_loops(busy):
                    rates.setdefault(f"{way}, beside {busy}", []).append(rate(way, arguments))
    report: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(arguments).items() if k != "out"}}
    for name, found in rates.items():
        way = name.split(",")[0]
        alone = [one / other for one, other in zip(found, rates[f"{way}, beside 0"], strict=True)]
        report[name] = {"steps_per_s": spread(found), "of its rate alone": spread(alone)}
        print(f"{name:<28} {statistics.median(found):6.3f} steps/s, {statistics.median(alone):5.2f} of its rate alone")
    faster = {
        f"beside {busy}": [a / b for a, b in zip(*(rates[f"{way}, beside {busy}"] for way in WAYS), strict=True)]
        for busy in arguments.busy
    }
    report["short spin / OpenMP's own"] = {name: spread(found) for name, found in faster.items()}
    for name, found in faster.items():
        print(f"short spin / OpenMP's own, {name}: {statistics.median(found):.2f}")
    keep(arguments.out, report)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes, each with a core's worth to do, within the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def rate(way: str, arguments: argparse.Namespace) -> float:
    """Steps per second of a new process."""
    given = {name: getattr(arguments, name) for name in ("method", "sam", "size", "batch", "seconds")}
    code = f"{WAYS[way]}; " + RUN.format(folder=str(Path(__file__).parent), given=json.dumps(given))
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = kept | {"OMP_NUM_THREADS": str(arguments.threads)}
    if arguments.spin is not None and way == "short spin":
        environment["GOMP_SPINCOUNT"] = arguments.spin
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(ended.stdout.splitlines()[-1])


def work(given: str) -> None:
    """Train for so many seconds in this process and print the steps per second."""
    from knowsam.config import resolve_config
    from knowsam.runs.folder import RunFolder
    from knowsam.training.memory import keep_freed_memory
    from knowsam.training.trainer import Trainer
    from measure import write_pictures

    asked = json.loads(given)
    with keep_freed_memory(), tempfile.TemporaryDirectory() as folder:
        side = max(map(int, asked["size"].split("x")))
        data = write_pictures(Path(folder) / "data", images=24, masks=12, side=side)
        settings = {
            "method": asked["method"], "preset": "paper", "sam": {"name": asked["sam"]},
            "data": {"path": str(data), "size": asked["size"], "val_fraction": 0},
            "train": {"steps": 1000, "batch": asked["batch"], "report": False},
        }  # fmt: skip
        run = Trainer(resolve_config(settings), RunFolder(Path(folder) / "run"), quiet=True)
        run.position = 600  # after UGDA, where a step costs most
        run.step(run.batches[600])
        steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < asked["seconds"]:
            run.step(run.batches[run.position])
            steps += 1
        print(steps / (time.perf_counter() - started))


if __name__ == "__main__":
    main()

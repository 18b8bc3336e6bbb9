"""What the benchmarks share: contenders that take turns, medians with their spread, and where they were measured.

Seconds are process CPU time: on a machine that others use too, wall time measures the others. Wall time is kept beside
it, and is the only one that says what several threads or a GPU gain.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from knowsam.storage import write_json


@dataclass
class Times:
    """Seconds of one contender, one entry per round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def of(self, clock: str) -> list[float]:
        """`"cpu"` or `"wall"`."""
        return self.cpu if clock == "cpu" else self.wall


def take_turns(contenders: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, Times]:
    """Run every contender once per round, so that whatever else the machine does disturbs all alike."""
    times = {name: Times() for name in contenders}
    gc.collect()
    gc.freeze()  # what is there already stays: looking through all modules again before every turn takes a second
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            gc.collect()  # not in the middle of a measurement
            _wait_for_device()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            _wait_for_device()
            if number >= warm_up:
                times[name].cpu.append(time.process_time() - cpu)
                times[name].wall.append(time.perf_counter() - wall)
    gc.unfreeze()
    return times


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the 10th and 90th percentile."""
    low, median, high = np.percentile(values, (10, 50, 90))
    return {"median": round(float(median), 5), "p10": round(float(low), 5), "p90": round(float(high), 5)}


def ratio(of: Times, to: Times, clock: str = "cpu") -> dict[str, float]:
    """Spread of the ratio within each round: the two halves of it were measured one after the other."""
    return spread([a / b for a, b in zip(of.of(clock), to.of(clock), strict=True)])


def summary(times: Mapping[str, Times]) -> dict[str, Any]:
    """For JSON: CPU and wall seconds of each contender."""
    return {name: {"cpu_s": spread(one.cpu), "wall_s": spread(one.wall)} for name, one in times.items()}


def show(title: str, found: Mapping[str, float], unit: str = "") -> None:
    """One line: median (p10 to p90)."""
    print(f"{title:<46} {found['median']:8.3f}{unit}  ({found['p10']:.3f} to {found['p90']:.3f})")


def machine() -> dict[str, Any]:
    """Where, and beside what, it was measured."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    options = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    options.add_argument("--rounds", type=int, default=rounds, help="measurements of each contender")
    options.add_argument("--out", type=Path, help="JSON file for every number")
    return options


def keep(out: Path | None, report: dict[str, Any]) -> None:
    """Write the JSON, whole or not at all."""
    if out is not None:
        write_json(out, report | {"machine": machine()})
        print(f"written: {out}")


def write_pictures(root: Path, images: int, masks: int, side: int, seed: int = 0) -> Path:
    """A data folder of noise with a bright disc per image and its mask, as 8-bit PNG."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(images):
        centre = generator.uniform(0.3, 0.7, 2) * side
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (side / 5) ** 2
        image = generator.integers(0, 120, (side, side)) + 120 * disc
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"case_{number:06d}.png")
        if number < masks:
            Image.fromarray(disc.astype(np.uint8)).save(root / "masks" / f"case_{number:06d}.png")
    return root


def total(values: Sequence[Sequence[float]]) -> list[float]:
    """Sums per round."""
    return [statistics.fsum(one) for one in zip(*values, strict=True)]

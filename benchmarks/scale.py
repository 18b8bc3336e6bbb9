"""How cost grows: a step with classes, size and batch; the start of training with the number of image files.

    python benchmarks/scale.py --out scale.json
    python benchmarks/scale.py --files 100,1000,10000,100000 --only files

Exponents are slopes between neighbouring points in double logarithm, against pixels for the size: 1 is linear.
`indexed` is reading the folder and deciding the split, as before any training; no image is opened for it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import keep, parser, show, spread, take_turns, write_pictures

AXES = ("classes", "size", "batch", "files")
LINKS = 30_000  # a file system allows about 65,000 names for one file


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--classes", type=numbers, default=(2, 4, 8))
    options.add_argument("--size", type=numbers, default=(96, 160, 256, 512))
    options.add_argument("--batch", type=numbers, default=(1, 2, 4), help="labelled, and as many unlabelled")
    options.add_argument("--files", type=numbers, default=(100, 1000, 10_000, 100_000))
    options.add_argument("--only", choices=AXES, nargs="+", default=AXES)
    options.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.worker:
        print(json.dumps(index(arguments.worker)))
        return
    report: dict[str, Any] = {}
    fixed = {"classes": 2, "size": 96, "batch": 2}
    for axis in [axis for axis in AXES[:3] if axis in arguments.only]:
        values = getattr(arguments, axis)
        times = take_turns({str(value): one_step(**fixed | {axis: value}) for value in values}, arguments.rounds)
        found = {value: spread(times[str(value)].cpu) for value in values}
        report[axis] = tell(axis, found, [value**2 if axis == "size" else value for value in values])
    if "files" in arguments.only:
        found = {}
        for count in arguments.files:
            with tempfile.TemporaryDirectory() as folder:
                data = write_many(Path(folder) / "data", count)
                runs = [json.loads(worker(data)) for _ in range(arguments.rounds)]
            found[count] = spread([run["cpu"] for run in runs])
            found[count]["memory_mb"] = max(run["memory_mb"] for run in runs)
            print(f"{count} files: {found[count]['memory_mb']:.0f} MB for the index")
        report["files"] = tell("files indexed", found, list(arguments.files))
    keep(arguments.out, report)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def tell(axis: str, found: dict[int, dict[str, float]], amounts: Sequence[int]) -> dict[str, Any]:
    """Print and return what each point costs, and the exponents between them."""
    medians = [one["median"] for one in found.values()]
    exponents = [
        round(math.log(b / a) / math.log(n / m), 3)
        for (a, b), (m, n) in zip(pairwise(medians), pairwise(amounts), strict=True)
    ]
    for value, one in found.items():
        show(f"{axis} {value}: CPU time", one, " s")
    print(f"{axis}: exponents {', '.join(map(str, exponents))}")
    return {"cpu_s": {str(value): one for value, one in found.items()}, "exponents": exponents}


def one_step(classes: int, size: int, batch: int) -> Callable[[], None]:
    """Forward and backward of KnowSAM's step after UGDA has started, with the tiny SAM."""
    import torch

    from knowsam.config import resolve_config
    from knowsam.training.build import build_method
    from knowsam.types import Batch, Progress

    settings = {"method": "knowsam", "preset": "paper", "data": {"size": size}, "sam": "tiny"}
    method: Any = build_method(resolve_config(settings), 1, classes)
    method = method.to(memory_format=torch.channels_last)
    label = torch.randint(0, classes, (batch, size, size))
    given = Batch(torch.rand(batch, 1, size, size), label, torch.rand(batch, 1, size, size))

    def go() -> None:
        method(given, Progress(600, 1000)).loss.backward()
        method.zero_grad()

    return go


def write_many(root: Path, count: int) -> Path:
    """A folder of so many names; the files are links to a few, because no image is opened."""
    write_pictures(root, 2, 1, 32)
    for number in range(2, count):
        for folder in ("images", "masks") if number % 10 == 0 else ("images",):
            source = root / folder / f"case_{number // LINKS * LINKS:06d}.png"
            target = root / folder / f"case_{number:06d}.png"
            if target == source:
                shutil.copyfile(root / folder / "case_000000.png", target)
            else:
                os.link(source, target)
    return root


def worker(data: Path) -> str:
    return subprocess.run(
        [sys.executable, __file__, "--worker", str(data)], capture_output=True, text=True, check=True
    ).stdout


def index(data: Path) -> dict[str, float]:
    """Seconds and memory of scanning and splitting, imports left out."""
    from knowsam.comparison.cell import peak_memory_mb
    from knowsam.config import resolve_config
    from knowsam.training.data import plan_split

    config = resolve_config({"data": {"path": str(data)}})
    before, cpu = peak_memory_mb(), time.process_time()
    _, split = plan_split(config)
    assert split.labelled
    return {"cpu": time.process_time() - cpu, "memory_mb": peak_memory_mb() - before}


if __name__ == "__main__":
    main()

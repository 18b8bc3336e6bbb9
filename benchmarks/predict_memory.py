"""Whether the memory of `predict` stays the same however many images there are, and what one very large image takes.

    python benchmarks/predict_memory.py --images 10000
    python benchmarks/predict_memory.py --side 13500

Resident memory while a folder of small pictures is predicted, or the peak of a folder with one picture of this side;
beside it what the process has when it is ready.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import knowsam
from knowsam.comparison.cell import peak_memory_mb
from measure import keep, parser, write_pictures
from predict import write_student

SIDE = 32


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--images", type=int, default=10_000)
    options.add_argument("--side", type=int, default=0, help="of one picture in the place of many")
    options.add_argument("--uncertainty", action="store_true", help="estimate each case, too")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, size = (1, 256) if arguments.side else (arguments.images, SIDE)
        write_student(folder / "student.safetensors", size)
        if arguments.side:
            (folder / "data" / "images").mkdir(parents=True)
            Image.fromarray(np.zeros((arguments.side,) * 2, np.uint8)).save(folder / "data" / "images" / "large.png")
        else:
            write_pictures(folder / "data", images, 0, SIDE)
        report = predict(folder, images, arguments.uncertainty)
    for count, megabytes in report.items():
        print(f"{count:<10} {megabytes:9.1f} MiB")
    keep(arguments.out, {"side": arguments.side, "resident_mib": report})


def predict(folder: Path, images: int, uncertainty: bool) -> dict[str, float]:
    """Number of images predicted -> resident memory then, in MiB; `"ready"` before, `"peak"` of all."""
    found: dict[str, float] = {}
    shown = {1, *(10**power for power in range(8)), images}

    def start(_: int) -> Callable[[], None]:
        found["ready"] = resident_mib()
        return advance

    def advance() -> None:
        advance.done += 1  # type: ignore[attr-defined]
        if advance.done in shown:  # type: ignore[attr-defined]
            found[str(advance.done)] = resident_mib()  # type: ignore[attr-defined]

    advance.done = 0  # type: ignore[attr-defined]
    done = knowsam.predict(folder, folder / "data", folder / "out", uncertainty=uncertainty, progress=start)
    assert len(done.written) == images, done.failed[:3]
    return found | {"end": resident_mib(), "peak": peak_memory_mb()}


def resident_mib() -> float:
    """What this process has in memory now; Linux alone says it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()

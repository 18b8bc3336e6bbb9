"""What it costs to read HDF5 files in a process that may die, against reading them in this one.

python benchmarks/reader.py --rounds 30
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from knowsam.io.apart import read_apart
from knowsam.io.hdf5 import read_dataset
from measure import keep, parser, show, spread, take_turns

FUNCTION = "knowsam.io.hdf5:read_dataset"
SHAPES = {"256 x 256": (256, 256), "512 x 512": (512, 512), "volume of 256 x 256 x 64": (256, 256, 64)}


def main() -> None:
    arguments = parser(__doc__, rounds=30).parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as name:
        for title, shape in SHAPES.items():
            path = Path(name) / f"{title}.h5"
            with h5py.File(path, "w") as file:
                file["image"] = np.random.default_rng(0).random(shape, np.float32)
            if not report:
                began = time.perf_counter()
                read_apart(FUNCTION, path, "HDF5 file", "image")
                report["start_s"] = time.perf_counter() - began
                print(f"start, once in a process: {report['start_s']:.2f} s")
            ways = {
                "here": lambda path=path: read_dataset(path, "image"),
                "apart": lambda path=path: read_apart(FUNCTION, path, "HDF5 file", "image"),
            }
            times = take_turns(ways, arguments.rounds)
            report[title] = {way: spread(one.wall) for way, one in times.items()}
            for way, found in report[title].items():
                show(f"{title}, {way}", {key: value * 1000 for key, value in found.items()}, " ms")
    keep(arguments.out, report)


if __name__ == "__main__":
    main()

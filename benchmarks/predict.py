"""Folder to folder: `predict_files` against the loop one would write by hand.

    python benchmarks/predict.py --images 24 --side 512 --size 256

The plain loop opens one picture, resizes it, runs the eager network on it, takes the argmax at the picture's own size
and writes it. Each way runs in a process of its own in turns, importing and loading the network left out of its
seconds. `distilled` predicts with the one U-Net of `knowsam distil`, the others with both students and the fusion head.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from knowsam.runs import DISTILLED_FOLDER, STUDENT_FILE
from measure import Times, keep, parser, ratio, show, spread, summary, write_pictures

PLAIN, EXACT, BF16, SMALL = "plain loop", "predict_files", "predict_files, bf16", "predict_files, distilled"
WAYS = (PLAIN, EXACT, BF16, SMALL)


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--images", type=int, default=24)
    options.add_argument("--side", type=int, default=512, help="of the pictures, in px")
    options.add_argument("--size", type=int, default=256, help="of the network, in px")
    options.add_argument("--worker", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.worker, arguments.folder)))
        return
    times = {way: Times() for way in WAYS}
    memory: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "data", arguments.images, 1, arguments.side)
        write_student(folder / STUDENT_FILE, "cotrained", arguments.size)
        (folder / DISTILLED_FOLDER).mkdir()
        write_student(folder / DISTILLED_FOLDER / STUDENT_FILE, "unet", arguments.size)
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--worker", way, "--folder", name]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                times[way].cpu.append(found["cpu"])
                times[way].wall.append(found["wall"])
                memory[way].append(found["peak_mb"])
    report: dict[str, Any] = {
        "images": arguments.images, "seconds": summary(times),
        "speed": {
            way: {clock: ratio(times[PLAIN], times[way], clock) for clock in ("cpu", "wall")} for way in WAYS[1:]
        },
        "peak_mb": {way: spread(values) for way, values in memory.items()},
    }  # fmt: skip
    for way, speed in report["speed"].items():
        show(f"{PLAIN} / {way}, CPU time", speed["cpu"])
        show(f"{PLAIN} / {way}, wall time", speed["wall"])
    for way in WAYS:
        show(f"{way}: CPU time per image", spread([one / arguments.images for one in times[way].cpu]), " s")
        show(f"{way}: peak memory", report["peak_mb"][way], " MB")
    keep(arguments.out, report)


def write_student(path: Path, network: str, size: int) -> None:
    import torch

    from knowsam import __version__
    from knowsam.data.preprocess import Preprocessing
    from knowsam.networks.registry import build_network
    from knowsam.runs.student_file import StudentInfo, save_student

    torch.manual_seed(0)
    spec = {"name": network, "in_channels": 1, "classes": 2}
    info = StudentInfo(spec, Preprocessing((size, size), 1), ("background", "disc"), 0, {}, __version__)
    save_student(path, build_network(**spec), info)


def work(way: str, folder: Path) -> dict[str, float]:
    """Predict the folder once to warm up, once to measure."""
    from knowsam.comparison.cell import peak_memory_mb
    from knowsam.inference.files import predict_files
    from knowsam.inference.predictor import Predictor
    from knowsam.runs.student_file import DISTILLED, load_student

    out = folder / way
    if way == PLAIN:
        student, info = load_student(folder / STUDENT_FILE)

        def go() -> None:
            plain_loop(student, info.preprocessing.size, folder, out)
    else:
        predictor = Predictor(folder, amp="bf16" if way == BF16 else "no", network=DISTILLED if way == SMALL else None)

        def go() -> None:
            assert all(item.error is None for item in predict_files(predictor, folder / "data", out))

    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        go()
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return seconds | {"peak_mb": peak_memory_mb()}


def plain_loop(student: Any, size: tuple[int, int], folder: Path, out: Path) -> None:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image

    out.mkdir(exist_ok=True)
    for path in sorted((folder / "data" / "images").iterdir()):
        with Image.open(path) as picture:
            array = np.asarray(picture, dtype=np.float32) / 255
        image = F.interpolate(torch.from_numpy(array)[None, None], size=size, mode="bilinear")
        with torch.no_grad():
            probs = student(image).softmax(dim=1)
        label = F.interpolate(probs, size=array.shape, mode="bilinear")[0].argmax(dim=0)
        Image.fromarray(label.numpy().astype(np.uint8)).save(out / path.name)


if __name__ == "__main__":
    main()

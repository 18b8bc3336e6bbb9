"""How long before something happens: `knowsam --help`, and `knowsam predict` of one image from a cold start.

    python benchmarks/startup.py

CPU seconds of the whole process, and wall time; the file cache is warm.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Times, keep, parser, show, spread, summary, write_pictures
from predict import write_student


def main() -> None:
    options = parser(__doc__, rounds=5)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = write_pictures(folder / "data", 1, 1, 256) / "images" / "case_000000.png"
        write_student(folder / "student.safetensors", 256)
        commands = {
            "knowsam --help": ["--help"],
            "knowsam predict, one image": ["predict", name, str(image), "--out", str(folder / "out"), "--quiet"],
            "import torch alone": None,
        }
        times = {title: Times() for title in commands}
        for number in range(1 + arguments.rounds):
            for title, command in commands.items():
                python = ["-c", "import torch"] if command is None else ["-m", "knowsam", *command]
                cpu, wall = cost([sys.executable, *python])
                if number:
                    times[title].cpu.append(cpu)
                    times[title].wall.append(wall)
    for title, one in times.items():
        show(f"{title}, CPU time", spread(one.cpu), " s")
        show(f"{title}, wall time", spread(one.wall), " s")
    keep(arguments.out, {"seconds": summary(times)})


def cost(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a process."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    main()

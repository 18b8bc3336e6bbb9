"""What does each command cost? Every command once on a data folder: seconds by the clock, CPU seconds, peak memory.

    python benchmarks/commands.py DATA --out tour/acdc -- --labelled 7 --size 96 --steps 200 --batch 4+4 sam=none
    python benchmarks/commands.py --table tour/acdc/commands.json tour/busi/commands.json

What stands after `--` is given to `knowsam train`, its size, batch and labels to `check` and `compare` too. The file
commands.json also keeps what every command printed. The peak is that of the largest process a command starts, as the
kernel reports it when the process ends; this script imports nothing large, because a child inherits its parent's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUN, VALIDATION = "runs/a", "val.txt"
COMPARED_STEPS = "20"
WIDTH = "100"
"""Of the tables printed, in letters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", help="data folder")
    parser.add_argument("--out", type=Path, help="new folder for everything the commands write")
    parser.add_argument("--table", type=Path, nargs="+", help="run nothing, print one table of these commands.json")
    ours, training = split_arguments(sys.argv[1:])
    arguments = parser.parse_args(ours)
    if arguments.table:
        print(table([json.loads(path.read_text(encoding="utf-8")) for path in arguments.table]), end="")
        return
    if arguments.data is None or arguments.out is None:
        parser.error("DATA and --out are needed, or --table")
    arguments.out.mkdir(parents=True)
    data = arguments.out / arguments.data.name
    data.symlink_to(arguments.data.resolve())
    record: dict[str, Any] = {"data": data.name, "images": count_images(data), "machine": machine(), "commands": []}
    for name, command in commands(data, training):
        print(f"{name}: {' '.join(command)}", flush=True)
        record["commands"].append({"name": name, "command": " ".join(command), **measure(command, arguments.out)})
        (arguments.out / "commands.json").write_text(json.dumps(record, indent=2, ensure_ascii=False))
        if name == "train":
            write_validation_list(arguments.out)
    print(table([record]), end="")
    if any(one["exit_code"] for one in record["commands"]):
        sys.exit(1)


def split_arguments(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before `--` and after it."""
    position = words.index("--") if "--" in words else len(words)
    return words[:position], words[position + 1 :]


def commands(data: Path, training: list[str]) -> list[tuple[str, list[str]]]:
    """Name and words of every command, in the order a user would type them."""
    masks = next(name for name in ("masks", "labels") if (data / name).is_dir())
    labelled = options(training, "--labelled")
    grid = ["--methods", "supervised,mean_teacher", "--sam", "none", "--steps", COMPARED_STEPS]
    shared = labelled + options(training, "--size", "--batch")
    only = ["--only", VALIDATION]
    return [
        ("check", ["knowsam", "check", data.name, *labelled]),
        ("check --html", ["knowsam", "check", data.name, *labelled, "--html", "check.html"]),
        ("train", ["knowsam", "train", data.name, "--out", RUN, *training]),
        ("calibrate", ["knowsam", "calibrate", RUN]),
        ("report", ["knowsam", "report", RUN]),
        ("predict", ["knowsam", "predict", RUN, data.name, "--out", "preds", *only]),
        ("predict --overlay", ["knowsam", "predict", RUN, data.name, "--out", "overlays", *only, "--overlay"]),
        ("predict --uncertainty", ["knowsam", "predict", RUN, data.name, "--out", "unsure", *only, "--uncertainty"]),
        ("evaluate", ["knowsam", "evaluate", "preds", f"{data.name}/{masks}", "--out", "scores"]),
        ("suggest", ["knowsam", "suggest", RUN, data.name, "-n", "4", "--out", "next"]),
        ("export (.onnx)", ["knowsam", "export", RUN, "--to", "exported/model.onnx", "--images", data.name]),
        ("export (.pt2)", ["knowsam", "export", RUN, "--to", "program/model.pt2"]),
        ("predict model.onnx", ["knowsam", "predict", "exported/model.onnx", data.name, "--out", "preds_onnx", *only]),
        ("compare", ["knowsam", "compare", data.name, *grid, *shared, "--out", "runs/compare"]),
        ("compare --table-only", ["knowsam", "compare", "runs/compare", "--table-only"]),
    ]  # fmt: skip


def options(words: list[str], *names: str) -> list[str]:
    """`--name value` of these names, where they were given."""
    return [word for name in names if name in words for word in (name, words[words.index(name) + 1])]


def measure(command: list[str], folder: Path) -> dict[str, Any]:
    """Run one command in a process of its own, in `folder`."""
    before, started = os.getloadavg()[0], time.perf_counter()
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    with out.open("w") as stdout, err.open("w") as stderr:
        words = [sys.executable, "-m", "knowsam", *command[1:]]
        child = subprocess.Popen(words, cwd=folder, stdout=stdout, stderr=stderr, env={**os.environ, "COLUMNS": WIDTH})
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    result = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024), 1),
        "load": round(before, 1),
        "stdout": out.read_text(encoding="utf-8"),
        "stderr": err.read_text(encoding="utf-8"),
    }
    out.unlink()
    err.unlink()
    return result


def write_validation_list(folder: Path) -> None:
    """The validation stems of the run, for `--only`."""
    split = json.loads((folder / RUN / "split.json").read_text(encoding="utf-8"))
    (folder / VALIDATION).write_text("".join(f"{stem}\n" for stem in split["val"]), encoding="utf-8")


def count_images(data: Path) -> int:
    return sum(len(list((data / name).iterdir())) for name in ("images", "unlabelled") if (data / name).is_dir())


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row per command; per folder CPU seconds, seconds by the clock, peak memory."""
    names = list(dict.fromkeys(one["name"] for record in records for one in record["commands"]))
    head = [f"{record['data']}, {record['images']} images" for record in records]
    lines = ["| command | " + " | ".join(head) + " |", "|---" * (len(records) + 1) + "|"]
    for name in names:
        cells = []
        for record in records:
            found = [one for one in record["commands"] if one["name"] == name]
            cells.append(cell(found[0]) if found else "")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(one: dict[str, Any]) -> str:
    if one["exit_code"]:
        return f"exit code {one['exit_code']}"
    return f"{one['cpu_s']:.0f} s CPU, {one['wall_s']:.0f} s, {one['peak_mb']:.0f} MB"


if __name__ == "__main__":
    main()

"""Do two versions of the code give the same numbers, names and files? Both are asked through their command line alone.

    python benchmarks/same_numbers.py record OUT [--source SRC]     # runs of 4 steps, with the knowsam in SRC
    python benchmarks/same_numbers.py compare OLD NEW               # what differs between two records
    python benchmarks/same_numbers.py take-over OLD [--source SRC]  # a newer version works on an older one's files

`record` trains every method with and without SAM, calibrates, and leaves a comparison unfinished. `compare` wants the
same tensors under the same names and the same values in `metrics.jsonl`, `calibration.json` and `scores.csv` (measured
times aside). `take-over` predicts with an old student, continues an old checkpoint, and finishes an old comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

METHODS = ("supervised", "mean_teacher", "ua_mt", "cps", "urpc", "bcp", "unimatch", "knowsam")
TEACHERS = ("none", "tiny")
SETTINGS = ("--size", "32", "--batch", "2+2", "train.validate_every=2", "train.log_every=1", "data.val_fraction=0.56")
TIMES = ("seconds", "steps_per_s")
STEPS = 4


def knowsam(*arguments: str, source: Path | None) -> list[str]:
    """The command as a list, run by this Python with the package in `source`."""
    path = "" if source is None else f"sys.path.insert(0, {str(source.resolve())!r}); "
    return [sys.executable, "-c", f"import sys; {path}from knowsam.cli import main; main()", *arguments]


def environment(source: Path | None) -> dict[str, str]:
    own = {} if source is None else {"PYTHONPATH": str(source.resolve())}
    return {**os.environ, "OMP_NUM_THREADS": "1", **own}


def call(*arguments: str, source: Path | None) -> None:
    subprocess.run(knowsam(*arguments, source=source), env=environment(source), check=True)


def make_data(folder: Path) -> Path:
    """Twelve noisy pictures of three classes, nine of them with a mask, each a group of its own."""
    generator = np.random.default_rng(0)
    for index in range(12):
        label = np.zeros((40, 48), np.uint8)
        top, left = generator.integers(2, 16, 2)
        label[top : top + 16, left : left + 20], label[top + 4 : top + 10, left + 4 : left + 12] = 1, 2
        image = np.clip(60 * label + generator.normal(60, 20, label.shape), 0, 255).astype(np.uint8)
        for name, array in {"images": image, "masks": label if index < 9 else None}.items():
            if array is not None:
                (folder / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / name / f"case{index}x.png")
    rows = [f"case{index}x,group{index}" for index in range(12)]
    (folder / "groups.csv").write_text("stem,group\n" + "\n".join(rows) + "\n")
    return folder


def record(out: Path, source: Path | None) -> None:
    data = str(make_data(out / "data"))
    for method in METHODS:
        for sam in TEACHERS:
            run = str(out / "runs" / f"{method}-{sam}")
            report = "true" if method == "supervised" else "false"
            call(
                "train", data, f"sam={sam}", f"train.report={report}", *SETTINGS, "--method", method,
                "--steps", str(STEPS), "--out", run, "-q", source=source,
            )  # fmt: skip
    comparison = (
        "compare", data, *SETTINGS, "--steps", str(STEPS), "--methods", "supervised,knowsam", "--sam", "none",
        "--seeds", "0,1", "-q", "--out",
    )  # fmt: skip
    call(*comparison, str(out / "finished"), source=source)
    unfinished = out / "unfinished"
    with subprocess.Popen(knowsam(*comparison, str(unfinished), source=source), env=environment(source)) as process:
        while process.poll() is None and not list(unfinished.glob("cells/*/outcome.json")):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    print(f"{len(list(unfinished.glob('cells/*/outcome.json')))} of 4 runs done in {unfinished}")


def shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def contents(run: Path) -> dict[str, Any]:
    """What must be the same, by what it is."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "tensors of the checkpoint": shapes(state["method"]),
        "tensors of the student": shapes(load_file(run / "student.safetensors")),
        "metrics.jsonl": [{k: v for k, v in one.items() if k not in TIMES} for one in records],
        "calibration.json": (run / "calibration.json").read_text() if (run / "calibration.json").exists() else None,
        "split.json": (run / "split.json").read_text(),
        "student.safetensors": (run / "student.safetensors").read_bytes(),
    }


def compare(old: Path, new: Path) -> list[str]:
    different = []
    for run in sorted((old / "runs").iterdir()):
        before, after = contents(run), contents(new / "runs" / run.name)
        different += [f"{run.name}: {what}" for what in before if before[what] != after[what]]
    for scores in sorted((old / "finished").glob("cells/*/scores.*")):
        if scores.read_bytes() != (new / scores.relative_to(old)).read_bytes():
            different.append(str(scores.relative_to(old)))
    return different


def take_over(old: Path, source: Path | None) -> None:
    work = old.with_name(old.name + "-taken-over")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(old, work, symlinks=True)
    for sam in TEACHERS:
        run = work / "runs" / f"knowsam-{sam}"
        call("predict", str(run), str(old / "data"), "--out", str(work / f"preds-{sam}"), "-q", source=source)
        call("train", "--resume", str(run), "--steps", str(2 * STEPS), "-q", source=source)
        assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 2 * STEPS
    folder = work / "unfinished"
    call(
        "compare", str(old / "data"), *SETTINGS, "--steps", str(STEPS), "--methods", "supervised,knowsam",
        "--sam", "none", "--seeds", "0,1", "-q", "--out", str(folder), source=source,
    )  # fmt: skip
    assert len(list(folder.glob("cells/*/outcome.json"))) == 4
    for scores in sorted(folder.glob("cells/*/scores.csv")):
        same = scores.read_bytes() == (old / "finished" / scores.relative_to(folder)).read_bytes()
        assert same, f"{scores} differs from that of an uninterrupted comparison"
    print("students, checkpoints and an unfinished comparison were taken over")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare", "take-over"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--source", type=Path)
    given = parser.parse_args()
    if given.what == "record":
        record(given.folders[0].resolve(), given.source)
    elif given.what == "take-over":
        take_over(given.folders[0].resolve(), given.source)
    else:
        different = compare(*given.folders)
        print("\n".join(different) or "the same")
        sys.exit(bool(different))


if __name__ == "__main__":
    main()

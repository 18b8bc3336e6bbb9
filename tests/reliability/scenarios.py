"""The commands that are killed and starved, each with how it begins, how it goes on, and what it must leave."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from support.folders import make_folder

SMALL = ("--size", "32", "--batch", "2+2", "train.validate_every=2", "train.log_every=1", "-q")
MAY_LACK = ("cost.json",)
"""Of a run that was killed after its last step nobody knows what it cost."""
WITHOUT_ONNXRUNTIME = ("knowsam.cli", "knowsam.inference.export", "onnxscript")
TIMES = ("seconds", "steps_per_s", "ms_per_step")
Differences = list[str]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code and what it wrote to stderr."""

    code: int
    err: str


def knowsam(*arguments: str) -> Ended:
    """The command line in this process."""
    from knowsam.cli import main

    said = io.StringIO()
    before, sys.argv = sys.argv, ["knowsam", *arguments]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
    return Ended(code, said.getvalue())


@dataclass(frozen=True)
class Scenario:
    """A command.

    Attributes:
        prepare: Makes what it needs in a folder, once.
        start: Runs it: `(inputs, out)`.
        go_on: What a person does after it was stopped, until it ends with 0.
        differences: What is not as in an undisturbed output: `(out, whole)`.
        reads: The folder below the inputs whose reading may fail, too.
        begins_with: The folder below the inputs that the output is a copy of at first; empty: there is none.
        imports: What is imported before processes are forked, where running it once would leave a thread.
    """

    prepare: Callable[[Path], None]
    start: Callable[[Path, Path], Ended]
    go_on: Callable[[Path, Path], Ended]
    differences: Callable[[Path, Path], Differences]
    reads: str = "data"
    begins_with: str = ""
    imports: tuple[str, ...] = ()


def train(*settings: str, steps: int = 4) -> Callable[[Path, Path], Ended]:
    """A run on the data of the inputs."""

    def start(inputs: Path, out: Path) -> Ended:
        return knowsam("train", str(inputs / "data"), "--out", str(out), *SMALL, "--steps", str(steps), *settings)

    return start


def resumed(start: Callable[[Path, Path], Ended], *more: str) -> Callable[[Path, Path], Ended]:
    """`--resume`; where there is nothing to resume yet, the same command again."""

    def go_on(inputs: Path, out: Path) -> Ended:
        ended = knowsam("train", "--resume", str(out), "-q", *more)
        if ended.code == 2 and "no run was found" in ended.err:
            return start(inputs, out)
        if ended.code == 2 and "steps are done" in ended.err:  # it was whole already
            return Ended(0, "")
        return ended

    return go_on


def run_differences(out: Path, whole: Path) -> Differences:
    """Files, weights and measurements of a run beside those of an undisturbed one."""
    import torch

    from knowsam.runs.checkpoint import load_checkpoint

    wrong = file_differences(out, whole, same=("*.safetensors", "calibration.json", "split.json", "data.json"))
    if wrong:
        return wrong
    if not _same(load_checkpoint(out / "checkpoint.pt"), _kept_checkpoint(whole / "checkpoint.pt"), torch.equal):
        wrong.append("checkpoint.pt differs")
    return wrong + ([] if measured(out) == measured(whole) else ["metrics.jsonl differs"])


@cache
def _kept_checkpoint(path: Path) -> dict[str, Any]:
    from knowsam.runs.checkpoint import load_checkpoint

    return load_checkpoint(path)


def measured(run: Path) -> list[dict[str, Any]]:
    """All records without the times."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def _same(a: Any, b: Any, equal: Callable[[Any, Any], bool]) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key], equal) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y, equal) for x, y in zip(a, b, strict=True))
    return equal(a, b) if hasattr(a, "dtype") else bool(a == b)


def file_differences(out: Path, whole: Path, same: tuple[str, ...] = ("*",)) -> Differences:
    """Names that one folder has more than the other, and files whose bytes differ."""
    here, there = (
        {one.relative_to(root) for one in root.rglob("*") if one.name not in MAY_LACK} for root in (out, whole)
    )
    wrong = [f"{name} is missing" for name in sorted(there - here)]
    wrong += [f"{name} is left over" for name in sorted(here - there)]
    if wrong:
        return wrong
    files = {name for pattern in same for name in there if name.match(pattern) and (whole / name).is_file()}
    return [f"{name} differs" for name in sorted(files) if (out / name).read_bytes() != (whole / name).read_bytes()]


def _data(inputs: Path) -> None:
    make_folder(inputs / "data", n_images=6, n_masks=4)


def _data_and_run(inputs: Path) -> None:
    _data(inputs)
    ended = train("--method", "supervised", "sam=none", "train.report=false")(inputs, inputs / "run")
    assert ended.code == 0, ended.err


def _data_and_sam(inputs: Path) -> None:
    from support.small_sam import small_sam

    _data(inputs)
    small_sam().save_pretrained(inputs / "sam")


def _train_with_sam(inputs: Path, out: Path) -> Ended:
    settings = ("--method", "knowsam", "--sam", str(inputs / "sam"), "train.report=false", "train.ema=0.9")
    return train(*settings, steps=2)(inputs, out)


def again(start: Callable[[Path, Path], Ended]) -> Scenario:
    """A command that is simply repeated, on a run, with an output that has no times in it."""
    return Scenario(_data_and_run, start, start, file_differences)


def _extend(inputs: Path, out: Path) -> Ended:
    ended = knowsam("train", "--resume", str(out), "--steps", "8", "-q")
    return Ended(0, "") if "8 of 8 steps are done" in ended.err else ended


def _predict(inputs: Path, out: Path) -> Ended:
    images = str(inputs / "data" / "images")
    return knowsam("predict", str(inputs / "run"), images, "--out", str(out), "--overlay", "--uncertainty", "-q")


def _data_run_and_program(inputs: Path) -> None:
    _data_and_run(inputs)
    ended = knowsam("export", str(inputs / "run"), "--to", str(inputs / "traced" / "student.onnx"), "-q")
    assert ended.code == 0, ended.err


def _export(inputs: Path, out: Path) -> Ended:
    import onnx_ir
    import torch

    # Eight seconds without a file: what they come to is the same each time.
    model = onnx_ir.load(inputs / "traced" / "student.onnx")
    torch.onnx.export = lambda *given, **options: torch.onnx.ONNXProgram(model, None)
    return knowsam("export", str(inputs / "run"), "--to", str(out / "student.onnx"), "-q")


def _compare(inputs: Path, out: Path) -> Ended:
    from knowsam.comparison import loop
    from support.comparisons import AtOnce

    # In this process, whose operations are watched.
    loop.compare.__defaults__ = (*loop.compare.__defaults__[:-1], AtOnce(_cell))  # type: ignore[misc, index]
    return knowsam(
        "compare", str(inputs / "data"), "--out", str(out), *SMALL, "--steps", "2", "--methods", "supervised",
        "--sam", "none", "--seeds", "0,1",
    )  # fmt: skip


def _cell(job: Any) -> int:
    """As `comparison.cell.work`, without the seconds that a new process takes to import."""
    from knowsam.comparison.cell import INTERRUPTED, do_cell, failure
    from knowsam.comparison.outcome import Outcome
    from knowsam.runs.lock import folder_lock

    job.cell.mkdir(parents=True, exist_ok=True)
    try:
        with folder_lock(job.cell, wait=True):
            return 0 if do_cell(job, quiet=True) else INTERRUPTED
    except Exception as error:
        Outcome("failed", failure(error, job.cell)).write(job.cell)
        return 1


def _compare_differences(out: Path, whole: Path) -> Differences:
    same = ("*.safetensors", "scores.*", "compare.json", "calibration.json")
    names = [one.name for one in (whole / "runs").iterdir()]
    wrong = file_differences(out, whole, same)
    for name in () if wrong else names:
        wrong += [f"{name}: {one}" for one in run_differences(out / "runs" / name, whole / "runs" / name)]
    return wrong


def _pretrain(inputs: Path, out: Path) -> Ended:
    from knowsam.sam.pretrain import loop
    from knowsam.sam.pretrain.steps import PretrainConfig

    _check_every_step(PretrainConfig)
    loop.held_out_scores = lambda *given: {"iou_given_mask": 0.5, "iou_mask": 0.5}  # half a minute of nothing else
    return knowsam(
        "sam", "pretrain", "--out", str(out), "--steps", "2", "--images", "1", "--prompts", "1", "--sizes", "96", "-q"
    )


def _check_every_step(settings: type) -> None:
    """Change the default of a dataclass, which its command has no option for."""
    names = list(settings.__dataclass_fields__)  # type: ignore[attr-defined]
    defaults = list(settings.__init__.__defaults__)  # type: ignore[misc]
    # Those without a default come first.
    defaults[names.index("check_every") - len(names)] = 1
    settings.__init__.__defaults__ = tuple(defaults)  # type: ignore[misc]


def _data_and_teacher(inputs: Path) -> None:
    from support.tiny_vit_sams import save_tiny_vit

    _data(inputs)
    save_tiny_vit(inputs / "teacher.pth")


def _distil(inputs: Path, out: Path) -> Ended:
    from knowsam.sam.distil.settings import DistilConfig

    _check_every_step(DistilConfig)
    return knowsam(
        "sam", "distil", "--images", str(inputs / "data"), "--out", str(out), "--teacher", str(inputs / "teacher.pth"),
        "--size", "32", "--steps", "2", "--batch", "2", "-q",
    )  # fmt: skip


def _made_sam_differences(out: Path, whole: Path) -> Differences:
    wrong = file_differences(out, whole, same=("*.safetensors", "config.json", "pretrain.json", "distil.json"))
    return wrong or ([] if measured(out) == measured(whole) else ["metrics.jsonl differs"])


SUPERVISED = train("--method", "supervised", "sam=none")
UNVALIDATED = train("--method", "supervised", "sam=none", "data.val_fraction=0", "train.report=false")
SCENARIOS = {
    "train": Scenario(_data, SUPERVISED, resumed(SUPERVISED), run_differences),
    "train without validation": Scenario(_data, UNVALIDATED, resumed(UNVALIDATED), run_differences),
    "train with SAM": Scenario(_data_and_sam, _train_with_sam, resumed(_train_with_sam), run_differences),
    "train longer": Scenario(_data_and_run, _extend, _extend, run_differences, begins_with="run"),
    "predict": again(_predict),
    "export": Scenario(_data_run_and_program, _export, _export, file_differences, imports=WITHOUT_ONNXRUNTIME),
    "compare": Scenario(_data, _compare, _compare, _compare_differences),
    "sam pretrain": Scenario(_data, _pretrain, _pretrain, _made_sam_differences),
    "sam distil": Scenario(_data_and_teacher, _distil, _distil, _made_sam_differences),
}


def environment() -> dict[str, str]:
    """Of a process that runs them: sums are equal only with equal threads."""
    source = Path(__file__).resolve().parents[2] / "src"
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(source), str(here), str(here.parent)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}

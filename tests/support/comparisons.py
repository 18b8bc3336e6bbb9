"""Comparisons without a training: cells with prepared scores, and engines that do cells at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsam.comparison.cell import INTERRUPTED, CellJob, do_cell, failure
from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.grid import Cell, plan_grid
from knowsam.comparison.memory import Memory
from knowsam.comparison.outcome import Outcome
from knowsam.errors import InputError
from knowsam.evaluation.metrics import ClassScore, summarise
from knowsam.evaluation.result import CaseScores, EvaluationResult, write_scores

NAN = math.nan
Values = Mapping[str, Sequence[tuple[float, float]]]
"""Case -> (Dice, HD95) of each foreground class."""


def write_cell(path: Path, values: Values, names: Sequence[str], **measured: Any) -> None:
    """The outcome and scores of one cell, as its process would leave them."""
    cases = tuple(
        CaseScores(case, "px", tuple(ClassScore(i, "missed" if math.isnan(hd95) else "ok",
                                                {"dice": dice, "jaccard": dice, "hd95": hd95, "asd": hd95})
                                     for i, (dice, hd95) in enumerate(scores, 1)))
        for case, scores in values.items()
    )  # fmt: skip
    summary = summarise(score for case in cases for score in case.scores)
    write_scores(EvaluationResult(cases, ("background", *names), "px", summary, (), (), ()), path)
    known: dict[str, Any] = {
        "part": "test", "class_names": ("background", *names), "unit": "px", "groups": {case: case for case in values},
        "dice": summary.mean["dice"], "validation_dice": 0.8,
        "seconds": 120.0, "peak_mb": 1536.0, "network": "unet", "parameters": 1_900_000,
        "device": "cpu",
    }  # fmt: skip
    Outcome("done", **known | measured).write(path)


def prepared_comparison(root: Path, cells: Mapping[Cell, Values], names: Sequence[str], **more: Any) -> CompareFolder:
    """A comparison of these cells; with `more` the further arguments of `plan_grid`."""
    folder = CompareFolder(root)
    grid = plan_grid(
        root / "data",
        list(dict.fromkeys(cell.method for cell in cells)),
        list(dict.fromkeys(cell.sam for cell in cells)),
        list(dict.fromkeys(cell.labelled for cell in cells)),
        list(dict.fromkeys(cell.seed for cell in cells)),
        {"train": {"steps": 600, "batch": "4+4"}, "data": {"size": 96}},
        **more,
    )
    folder.write(grid)
    for cell, values in cells.items():
        if values:
            own = {"sam_best": 0.75, "sam_last": 0.7} if cell.sam != "none" else {}
            write_cell(folder.cell(cell), values, names, **own)
    return folder


class Ended:
    """A cell that was done when it was started."""

    def __init__(self, code: int) -> None:
        self.code = code

    def at_work(self) -> bool:
        return True

    def ended(self) -> int:
        return self.code

    def stop(self) -> None:
        pass

    kill = stop


class AtOnce:
    """An engine that calls a function for each cell, in this process.

    Attributes:
        do: Does a cell and returns its exit code.
    """

    slots = 1
    checks_memory = False

    def __init__(self, do: Callable[[CellJob], int]) -> None:
        self.do = do

    def start(self, job: CellJob, need: Memory | None, beside: object) -> Ended:
        return Ended(self.do(job))

    def wait(self, seconds: float) -> None:
        raise AssertionError("all cells have ended")

    def close(self) -> None:
        pass


class FakeRunner(AtOnce):
    """Pretends to do cells: each scores .5, unless told otherwise.

    Attributes:
        asked: Names of the cells it was given, in order.
        codes: Name of a cell -> what to do instead: an exit code without outcome, a sentence to fail with, or a
            function of the order.
    """

    def __init__(self, **codes: int | str | Callable[[CellJob], int]) -> None:
        super().__init__(self.pretend)
        self.asked: list[str] = []
        self.codes = codes

    def pretend(self, order: CellJob) -> int:
        self.asked.append(order.cell.name)
        special = self.codes.get(order.config["method"])
        if callable(special):
            return special(order)
        if isinstance(special, int):
            return special
        order.cell.mkdir(parents=True, exist_ok=True)
        if isinstance(special, str):
            Outcome("failed", special).write(order.cell)
            return 1
        write_cell(order.cell, {"a": [(0.5, 2.0)], "b": [(0.7, 1.0)]}, ["heart"])
        return 0


def _do_here(order: CellJob) -> int:
    order.cell.mkdir(parents=True, exist_ok=True)
    try:
        return 0 if do_cell(order, quiet=True) else INTERRUPTED
    except InputError as error:
        Outcome("failed", failure(error, order.cell)).write(order.cell)
        return 1


in_this_process = AtOnce(_do_here)
"""Really does cells, without the seconds that a new process takes to import."""

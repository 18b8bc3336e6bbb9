"""What training returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from knowsam.runs.folder import RunFolder

if TYPE_CHECKING:
    from knowsam.runs.record import RunRecord


@dataclass
class Run:
    """What training leaves: a folder, and how far it came.

    Attributes:
        folder: The run's files.
        steps: Steps done in all.
        finished: False if the run was interrupted and saved.
        best: Best validation Dice of the prediction that is used, in [0, 1]; None without validation.
    """

    folder: RunFolder
    steps: int
    finished: bool
    best: float | None

    def record(self) -> RunRecord:
        """Everything the run measured, read from its files."""
        from knowsam.runs.record import read_run

        return read_run(self.folder.path)


@dataclass(frozen=True)
class Distilled:
    """What a distillation leaves.

    Attributes:
        folder: `distilled/` in the run's folder, from which `predict` and `export` take it by choice.
        steps: Steps done in all.
        finished: False if it was interrupted and saved.
        best: Best validation Dice of the small network, in [0, 1]; None without validation.
        teacher: Validation Dice of the run's network; None without validation.
        with_sam: Whether SAM taught, too: it does where it is ahead on validation.
    """

    folder: RunFolder
    steps: int
    finished: bool
    best: float | None
    teacher: float | None
    with_sam: bool

"""What a run measures while it trains: `metrics.jsonl`, TensorBoard by choice, and the progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from knowsam.errors import InputError
from knowsam.evaluation.scoring import ValidationScores
from knowsam.runs.folder import RunFolder
from knowsam.training.display import TrainingDisplay
from knowsam.training.tensorboard import TensorBoardLog
from knowsam.types import StepOutput


class RunLog:
    """Records and shows measurements; of several processes the first one writes.

    Args:
        folder: The run's files.
        display: What a person sees.
        writes: True in the process that writes the run's files.
    """

    def __init__(self, folder: RunFolder, display: TrainingDisplay, writes: bool) -> None:
        self.folder, self.display, self.writes = folder, display, writes
        self.tensorboard: TensorBoardLog | None = None
        self._since = (time.perf_counter(), 0)

    def start(self, position: int, tensorboard: bool) -> None:
        """Measure the rate from here on.

        Args:
            position: Steps already done.
            tensorboard: Also write `tensorboard/`.
        """
        if tensorboard and self.writes:
            self.tensorboard = TensorBoardLog(self.folder.tensorboard, position)
        self._since = (time.perf_counter(), position)

    def step(self, position: int, output: StepOutput, lr: Mapping[str, float]) -> None:
        """Record the terms of a step, the learning rates and the rate since the last record.

        Args:
            position: Steps done.
            output: Of the last one.
            lr: Learning rate by parameter group.

        Raises:
            InputError: A term is not finite.
        """
        now = (time.perf_counter(), position)
        # One transfer for all terms, and only every `log_every` steps: reading a value waits for the device.
        names = ["loss", *output.terms]
        values = torch.stack(
            [output.loss.detach().float(), *[value.float() for value in output.terms.values()]]
        ).tolist()
        terms = dict(zip(names, values, strict=True))
        if not all(map(math.isfinite, values)):
            bad = ", ".join(name for name, value in terms.items() if not math.isfinite(value))
            raise InputError(
                f"{self.folder.path}: at step {position} the terms {bad} were not finite, but expected numbers; lower"
                " train.lr or set train.clip=1. The last checkpoint is untouched."
            )
        rate = (now[1] - self._since[1]) / (now[0] - self._since[0])
        self._record({"step": position, "terms": terms, "lr": dict(lr), "steps_per_s": round(rate, 4)})
        self.display.step(position, terms)
        self._since = now

    def alive(self, position: int, output: StepOutput) -> None:
        """Where there is no terminal, say at least once a minute how far training is.

        Args:
            position: Steps done.
            output: Of the last one.
        """
        if self.display.line_due():
            self.display.line(position, float(output.loss.detach()))

    def validation(self, position: int, scores: ValidationScores, seconds: float) -> None:
        """Record a validation and how long it took, in seconds."""
        self._record({"step": position, "validation": scores.to_json(), "seconds": seconds})
        if self.writes:
            self.folder.append_cases({"step": position, "cases": scores.case_means()})
            self.display.validated(position, scores)

    def close(self) -> None:
        """Finish the files."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def _record(self, record: dict[str, Any]) -> None:
        if not self.writes:
            return
        self.folder.append(record)
        if self.tensorboard is not None:
            self.tensorboard.add(record)

"""What a run's own files say, as plain records: no image is opened here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knowsam.config import Config
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.runs.data_record import read_masks_judged
from knowsam.runs.folder import RunFolder, seconds_spent
from knowsam.storage import read_json


@dataclass(frozen=True)
class Validation:
    """One validation while training.

    Attributes:
        step: After so many steps.
        dice: Prediction -> mean Dice over volumes and foreground classes; the first is the one that is used.
        per_class: Prediction -> mean Dice over volumes of classes 1..K-1; NaN of those that no truth holds.
        cases: Prediction -> mean Dice over classes of each volume, in the order of their names; empty in older runs.
    """

    step: int
    dice: dict[str, float]
    per_class: dict[str, list[float]]
    cases: dict[str, list[float]] = field(default_factory=dict)

    @property
    def used(self) -> str:
        """The prediction that chose the network and is used at test time."""
        return next(iter(self.dice))

    @property
    def score(self) -> float:
        """Its mean Dice."""
        return self.dice[self.used]


@dataclass(frozen=True)
class RunRecord:
    """A run as its files describe it.

    Attributes:
        folder: The files.
        config: Its configuration.
        environment: Versions and hardware.
        split: Who was labelled, unlabelled, validation, test.
        terms: Loss term -> `(step, value)` in order.
        validations: In order.
        seconds: Time spent training and validating, resumed parts included; approximate.
        masks_judged: Number of masks of unlabelled images that were read for a judge; no mask else.
    """

    folder: RunFolder
    config: Config
    environment: dict[str, Any]
    split: Split
    terms: dict[str, list[tuple[int, float]]]
    validations: list[Validation]
    seconds: float
    masks_judged: int = 0

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.path.resolve().name

    @property
    def steps(self) -> int:
        """Steps measured so far."""
        logged = [points[-1][0] for points in self.terms.values()]
        return max([*logged, *(validation.step for validation in self.validations)])

    @property
    def best(self) -> Validation | None:
        """The validation whose network was kept; None without validation."""
        return max(self.validations, key=lambda validation: validation.score, default=None)

    @property
    def uses_unlabelled(self) -> bool:
        """Whether its method looks at unlabelled images; assumed of a method that only a file of the user's knows."""
        from knowsam.methods import known_method  # late: it imports torch

        method = known_method(self.config.method)
        return method is None or method.uses_unlabelled

    @property
    def pretrain_end(self) -> int:
        """The step at which the unlabelled images joined; 0 where they never do, or did from the start."""
        if not self.split.unlabelled or self.config.train.batch[1] == 0 or not self.uses_unlabelled:
            return 0
        return round(self.config.train.pretrain * self.config.train.steps)

    @property
    def joined_within(self) -> bool:
        """Whether the unlabelled images joined during what was measured."""
        return 0 < self.pretrain_end < self.steps


def read_run(path: str | Path) -> RunRecord:
    """Read the files of a run.

    Raises:
        InputError: If there is no run, a file is broken, or nothing was measured yet.
    """
    folder = RunFolder(Path(path))
    config = folder.read_config()
    records = folder.read_metrics() if folder.metrics.exists() else []
    cases = folder.read_cases()
    terms: dict[str, list[tuple[int, float]]] = {}
    validations = []
    for record in records:
        for name, value in record.get("terms", {}).items():
            terms.setdefault(name, []).append((record["step"], value))
        if "validation" in record:
            scores = record["validation"]
            validations.append(
                Validation(
                    record["step"],
                    {name: score["dice"] for name, score in scores.items()},
                    {
                        name: [math.nan if value is None else value for value in score.get("per_class", [])]
                        for name, score in scores.items()
                    },
                    cases.get(record["step"], {}),
                )
            )
    if not terms and not validations:
        raise InputError(
            f"{folder.path}: no measurement was found in {folder.metrics.name}, but expected at least one; wait for the"
            " run's first log, or choose a run that trained."
        )
    environment = read_json(folder.environment, "restore it")
    split = Split.read(folder.split)
    seconds, judged = seconds_spent(records), read_masks_judged(folder)
    return RunRecord(folder, config, environment, split, terms, validations, seconds, judged)

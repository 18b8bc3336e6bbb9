"""How a run of a comparison ended, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from knowsam.comparison.memory import Memory
from knowsam.errors import InputError
from knowsam.storage import read_json, reason_of, write_json

OUTCOME_FILE, COST_FILE, LOG_FILE = "outcome.json", "cost.json", "log.txt"
MEMORY_FILE = "memory.json"
"""What a cell at work has taken so far."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        status: `"done"`: trained and scored. `"failed"`: see `reason`.
        reason: One sentence, empty if done.
        part: On which images it was scored: `"test"` or `"validation"`.
        class_names: Background first.
        unit: Of distances, `"mm"` or `"px"`.
        groups: Case -> group.
        notes: About the scores.
        dice: Mean Dice over cases and foreground classes.
        validation_dice: Best validation Dice, which chose the network; None without validation.
        best_step: The step at which it was reached.
        sam_best: Largest mean validation Dice of SAM itself over the run, None without SAM.
        sam_last: The same at the last validation.
        seconds: Training and validation, resumed parts added up, start and reading left out.
        peak_mb: Peak resident memory of the training process, MB of 2^20 bytes.
        gpu_peak_mb: Peak memory allocated on the GPU, None without one.
        network: Name of the network that was scored.
        parameters: Its number of parameters.
        device: Where it was trained.
        masks_judged: Number of masks of unlabelled images that were read for a judge.
    """

    status: Literal["done", "failed"]
    reason: str = ""
    part: str = ""
    class_names: tuple[str, ...] = ()
    unit: str = ""
    groups: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dice: float | None = None
    validation_dice: float | None = None
    best_step: int | None = None
    sam_best: float | None = None
    sam_last: float | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    gpu_peak_mb: float | None = None
    network: str = ""
    parameters: int | None = None
    device: str = ""
    masks_judged: int = 0

    def write(self, folder: Path) -> None:
        """Write `outcome.json`."""
        write_json(folder / OUTCOME_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Read what `write` wrote; None where there is nothing yet.

        Raises:
            InputError: If the file is broken.
        """
        path = folder / OUTCOME_FILE
        if not path.exists():
            return None
        values = read_json(path, "delete it and repeat the command")
        try:
            known = {entry.name for entry in fields(cls)}
            tuples = {key: tuple(values[key]) for key in ("class_names", "notes")}
            return cls(**{key: value for key, value in values.items() if key in known} | tuples)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: no outcome could be read ({reason_of(error)}), but expected what `knowsam compare` wrote;"
                " delete it and repeat the command."
            ) from error


def read_memory(folder: Path) -> Memory | None:
    """What the process of a cell at work has taken so far; None where it has not said yet."""
    path = folder / MEMORY_FILE
    if not path.exists():
        return None
    values = read_json(path, "delete it and repeat the command")
    return Memory(values["peak_mb"], values.get("gpu_peak_mb"))

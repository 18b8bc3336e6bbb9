"""The supervised run that stands beside another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knowsam.config import Config, load_yaml
from knowsam.errors import InputError
from knowsam.methods import known_method
from knowsam.presentation.text import size_text
from knowsam.runs.record import RunRecord, Validation, read_run


@dataclass(frozen=True)
class Baseline:
    """The supervised run that stands beside another.

    Attributes:
        run: The run.
        score: Its best validation.
        differences: What else differs but the method: settings by name, as `(this run, baseline)`.
        comparable: Whether both were scored on the same validation images.
    """

    run: RunRecord
    score: Validation
    differences: dict[str, tuple[str, str]]
    comparable: bool


def given_baseline(run: RunRecord, path: str | Path) -> Baseline:
    """The baseline a user named.

    Raises:
        InputError: If there is no run, or it has no validation.
    """
    other = read_run(path)
    if other.best is None:
        raise InputError(
            f"{other.folder.path}: a run without validation was found, but expected a Dice to compare with; choose"
            " another --baseline, or leave it out."
        )
    return _compare(run, other, other.best)


def find_baseline(run: RunRecord) -> Baseline | None:
    """The supervised baseline among the runs in the same folder.

    It must have trained with a method that learns from labels alone, and without SAM, on the same data folder, the same
    labelled and the same validation images. Of several, the one that shares most of size, steps, batch and seed is
    taken, and of equals the one with the best Dice: the strictest comparison.
    """
    if is_plain_baseline(run.config):
        return None
    here = run.folder.path.resolve()
    found = []
    for config in sorted(here.parent.glob("*/config.yaml")):
        if config.parent == here:
            continue
        try:
            if not _may_be_baseline(config, run.config):
                continue
            other = read_run(config.parent)
        except (InputError, OSError):  # has not measured anything yet, is of another version, broken, closed
            continue
        if other.best is None or not is_plain_baseline(other.config):
            continue
        same_labels = set(other.split.labelled) == set(run.split.labelled)
        baseline = _compare(run, other, other.best)
        if same_labels and baseline.comparable:
            found.append(baseline)
    return min(found, key=lambda one: (len(one.differences), -one.score.score), default=None)


def is_plain_baseline(config: Config) -> bool:
    """Whether a run learns from labelled images alone, without SAM."""
    return _learns_from_labels_alone(config.method) and config.sam.name == "none"


def _learns_from_labels_alone(method: str) -> bool:
    """False too for a method that only a file of the user's knows, which is not run."""
    known = known_method(method)
    return known is not None and not known.uses_unlabelled


def _may_be_baseline(path: Path, config: Config) -> bool:
    """A quick look at a neighbour's raw configuration, before its measurements are read."""
    if not path.is_file():
        return False
    values = load_yaml(path)
    if not isinstance(values.get("data"), dict):
        return False
    return _learns_from_labels_alone(str(values.get("method"))) and values["data"].get("path") == config.data.path


def _compare(run: RunRecord, other: RunRecord, best: Validation) -> Baseline:
    def settings(one: RunRecord) -> dict[str, str]:
        config = one.config
        return {
            "labelled images": f"{len(one.split.labelled):,}",
            "size": size_text(config.data.size),
            "steps": str(config.train.steps),
            "batch": "+".join(map(str, config.train.batch)),
            "seed": str(config.train.seed),
            "optimiser": config.train.optimiser,
            "learning rate": f"{config.train.lr:g}",
        }

    mine, theirs = settings(run), settings(other)
    differences = {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}
    if set(run.split.labelled) != set(other.split.labelled):
        differences.setdefault("labelled images", ("its own", "others"))
    return Baseline(other, best, differences, comparable=set(run.split.val) == set(other.split.val))

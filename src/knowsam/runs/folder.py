"""What a run leaves behind, and where."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from knowsam.config import Config, load_yaml, read_resolved
from knowsam.errors import InputError
from knowsam.runs import CALIBRATION_FILE, CHECKPOINT_FILE, DISTILLED_FOLDER, STUDENT_FILE
from knowsam.runs.environment import describe_environment
from knowsam.storage import append_line, is_unused, reason_of, sync_file, write_json, write_text


class RunFolder:
    """The files of one run.

    `config.yaml` the resolved configuration, `environment.json` versions, hardware and what was loaded as SAM,
    `split.json` who was labelled, unlabelled and validation, `data.json` what their files held, `metrics.jsonl`
    everything measured, `checkpoint.pt` the state to continue from, `student.safetensors` the network to use (the best
    on validation; without validation the last), `student_last.safetensors` the last network, `calibration.json` from
    the student's confidence to an estimated Dice, `report.html` all of it for a person.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.split = path / "split.json"
        self.data = path / "data.json"
        self.metrics = path / "metrics.jsonl"
        self.validation = path / "validation.jsonl"
        self.checkpoint = path / CHECKPOINT_FILE
        self.student = path / STUDENT_FILE
        self.student_last = path / "student_last.safetensors"
        self.report = path / "report.html"
        self.tensorboard = path / "tensorboard"
        self.calibration = path / CALIBRATION_FILE

    @property
    def distilled(self) -> RunFolder:
        """Of the run's network as a small one, by choice: `distil.json`, and such files as above."""
        return RunFolder(self.path / DISTILLED_FOLDER)

    def check_free(self) -> None:
        """Make sure that a new run can start here.

        Raises:
            InputError: If the folder already holds something.
        """
        if self.config.exists():
            raise InputError(
                f"{self.path}: another run was found, but expected a new or empty folder; choose another --out,"
                f" or continue that run with `knowsam train --resume {shlex.quote(str(self.path))}`."
            )
        if not is_unused(self.path):
            raise InputError(
                f"{self.path}: other files were found, but expected a new or empty folder; choose another --out."
            )

    def create(self, config: Config, sam: dict[str, Any] | None = None, again: bool = False) -> None:
        """Start a new run here.

        Args:
            config: The resolved configuration.
            sam: What was loaded as SAM, as plain values (`LoadReport.to_json`); None without it.
            again: Start the run that is here once more, because it ended before its first checkpoint; what it measured
                is dropped.

        Raises:
            InputError: If the folder already holds something, or with `again` a run that has had a checkpoint.
        """
        if again:
            self.check_never_saved(config)
            for path in (self.metrics, self.validation, self.student, self.calibration, self.report):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.tensorboard, ignore_errors=True)
        else:
            self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, config.to_yaml())
        write_json(self.environment, {**describe_environment(), "sam": sam})

    def check_never_saved(self, config: Config) -> None:
        """Make sure that a run without a checkpoint never had one: what it learned would be lost by a new start.

        Args:
            config: Its configuration.

        Raises:
            InputError: It has gone further than to its first checkpoint.
        """
        first = config.train.checkpoint_every or config.train.validation_steps
        measured = max((record["step"] for record in self._measured()), default=0)
        # Training goes on while a checkpoint is made safe, and learns at the next one that this failed.
        if self.student_last.exists() or measured > 2 * first:
            raise InputError(
                f"{self.checkpoint}: no checkpoint was found, but expected one of this run, which has trained for at"
                f" least {max(first, measured)} steps; restore it, or start the run anew into an empty folder."
            )

    def _measured(self) -> list[dict[str, Any]]:
        return self.read_metrics() if self.metrics.exists() else []

    def discard_beginning(self, keep_config: bool) -> None:
        """Take back the files of `create` after one of them could not be written.

        Args:
            keep_config: The run was here before and keeps its configuration.
        """
        for path in (self.data, self.split, self.environment, *(() if keep_config else (self.config,))):
            with contextlib.suppress(OSError):
                path.unlink()

    def rewrite_config(self, config: Config) -> None:
        """Record a run that trains longer than planned, or whose data were moved."""
        write_text(self.config, config.to_yaml())

    def read_config(self) -> Config:
        """The configuration of the run that is here.

        Raises:
            InputError: If there is no run, or its file is empty, cut or broken: what is missing from it would else be
                taken for the defaults.
        """
        if not self.config.exists():
            raise InputError(
                f"{self.path}: no run was found (no config.yaml), but expected one to continue; check the path."
            )
        values = load_yaml(self.config)
        if missing := [name for name in Config.model_fields if name not in values]:
            raise InputError(
                f"{self.config}: an empty or cut file without {', '.join(missing)} was found, but expected the whole"
                " configuration of the run; restore it."
            )
        try:
            return read_resolved(values)
        except InputError as error:
            raise InputError(f"{self.config}: {error}") from error

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        append_line(self.metrics, record)

    def append_cases(self, record: dict[str, Any]) -> None:
        """Add one line to `validation.jsonl`: `{"step": ..., "cases": {prediction: [mean Dice of each volume]}}`."""
        append_line(self.validation, record)

    def sync_measurements(self) -> None:
        """Make safe what was measured so far, before a checkpoint says that it was."""
        for path in (self.metrics, self.validation):
            if path.exists():
                sync_file(path)

    def forget_after(self, step: int) -> None:
        """Drop the lines a killed run wrote after its last checkpoint, so that no step stands twice."""
        for path in (self.metrics, self.validation):
            if path.exists():
                kept = [line for line, record in _read_lines(path) if record["step"] <= step]
                write_text(path, "".join(line + "\n" for line in kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records of `metrics.jsonl`, in order; without the line a killed run was writing."""
        return [record for _, record in _read_lines(self.metrics)]

    def validation_at(self, step: int) -> dict[str, Any]:
        """The scores of the validation after so many steps, as measured; empty where there was none."""
        found = [one["validation"] for one in self._measured() if one["step"] == step and "validation" in one]
        return found[-1] if found else {}

    def read_cases(self) -> dict[int, dict[str, list[float]]]:
        """Step -> the cases of `append_cases`; empty in runs that have no such file."""
        if not self.validation.exists():
            return {}
        return {record["step"]: record["cases"] for _, record in _read_lines(self.validation) if "cases" in record}


def _read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a file of measurements and what they hold, without the line a killed run was writing, the last one.

    Raises:
        InputError: It cannot be read, or another line is no record with a step.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{path}: could not be read ({reason_of(error)}), but expected what the run measured; restore it."
        ) from error
    if not lines[-1]:
        lines.pop()
    read = []
    for number, content in enumerate(lines, start=1):
        try:
            line = content.decode()
            read.append((line, _record(json.loads(line))))
        except (ValueError, RecursionError, TypeError) as error:
            if number == len(lines):
                break
            raise InputError(
                f"{path}: line {number} is no measurement ({reason_of(error)}), but expected one record a line; restore"
                " the file, or delete the line."
            ) from error
    return read


def _record(values: Any) -> dict[str, Any]:
    """A line's values, as far as everything that reads them relies on.

    Raises:
        ValueError: They are none of `RunLog`'s.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{type(values).__name__} instead of an object")
    step = values.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"step {str(step)[:40]}")
    numbers = [values.get(name, 0) for name in ("seconds", "steps_per_s")]
    tables = [values.get(name, {}) for name in ("terms", "lr", "validation")]
    if not all(isinstance(table, dict) for table in tables):
        raise ValueError("values without names")
    numbers += [*tables[0].values(), *tables[1].values()]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("text in place of a number")
    for score in tables[2].values():
        if not isinstance(score, dict) or not isinstance(score.get("dice"), int | float):
            raise ValueError("a validation without Dice")
        if not isinstance(score.get("per_class", []), list):
            raise ValueError("a validation without classes")
    return values


def seconds_spent(records: list[dict[str, Any]]) -> float:
    """Time of a run from its `metrics.jsonl`, pauses between interruption and resume left out.

    The rate between two logs includes the validations between them; only validations after the last log count with
    their own seconds.
    """
    seconds, logged, after = 0.0, 0, 0.0
    for record in records:
        if "steps_per_s" in record:
            if record["steps_per_s"] > 0:
                seconds += (record["step"] - logged) / record["steps_per_s"]
            logged, after = record["step"], 0.0
        else:
            after += record.get("seconds", 0.0)
    return seconds + after

"""What a run leaves behind, and where."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from knowsam.config import Config, load_yaml, read_resolved
from knowsam.errors import InputError
from knowsam.runs import CALIBRATION_FILE, STUDENT_FILE
from knowsam.runs.environment import describe_environment
from knowsam.storage import write_json, write_text


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
        self.checkpoint = path / "checkpoint.pt"
        self.student = path / STUDENT_FILE
        self.student_last = path / "student_last.safetensors"
        self.report = path / "report.html"
        self.tensorboard = path / "tensorboard"
        self.calibration = path / CALIBRATION_FILE

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
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(
                f"{self.path}: other files were found, but expected a new or empty folder; choose another --out."
            )

    def create(self, config: Config, sam: dict[str, Any] | None = None) -> None:
        """Start a new run here.

        Args:
            config: The resolved configuration.
            sam: What was loaded as SAM, as plain values (`LoadReport.to_json`); None without it.

        Raises:
            InputError: If the folder already holds something.
        """
        self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, config.to_yaml())
        write_json(self.environment, {**describe_environment(), "sam": sam})

    def rewrite_config(self, config: Config) -> None:
        """Record a run that trains longer than planned, or whose data were moved."""
        write_text(self.config, config.to_yaml())

    def read_config(self) -> Config:
        """The configuration of the run that is here.

        Raises:
            InputError: If there is no run.
        """
        if not self.config.exists():
            raise InputError(
                f"{self.path}: no run was found (no config.yaml), but expected one to continue; check the path."
            )
        return read_resolved(load_yaml(self.config))

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        _append(self.metrics, record)

    def append_cases(self, record: dict[str, Any]) -> None:
        """Add one line to `validation.jsonl`: `{"step": ..., "cases": {prediction: [mean Dice of each volume]}}`."""
        _append(self.validation, record)

    def forget_after(self, step: int) -> None:
        """Drop the lines a killed run wrote after its last checkpoint, so that no step stands twice."""
        for path in (self.metrics, self.validation):
            if path.exists():
                kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
                write_text(path, "".join(line + "\n" for line in kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records of `metrics.jsonl`, in order; without the line a killed run was writing."""
        return _read_lines(self.metrics)

    def read_cases(self) -> dict[int, dict[str, list[float]]]:
        """Step -> the cases of `append_cases`; empty in runs that have no such file."""
        if not self.validation.exists():
            return {}
        return {record["step"]: record["cases"] for record in _read_lines(self.validation)}


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the line the killed run was writing
        return float("inf")


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

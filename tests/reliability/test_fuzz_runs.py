"""Mutated run files, lists, command lines and weights: one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability.fuzz import run
from reliability.fuzz_targets import run_targets, sam_targets

pytestmark = [pytest.mark.subprocess, pytest.mark.slow]


def test_mutated_run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    targets = run_targets(tmp_path / "finished")
    report = run(targets, tmp_path, seed=0, stop=lambda done: done >= 150)
    assert not report.findings, str(report)
    assert all(report.refused[target.name] for target in targets), str(report)


def test_mutated_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    targets = sam_targets(tmp_path)
    report = run(targets, tmp_path, seed=0, stop=lambda done: done >= 40)
    assert not report.findings, str(report)
    assert all(report.refused[target.name] for target in targets), str(report)

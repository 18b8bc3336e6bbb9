"""Mutated run files, lists, command lines and weights: one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability.fuzz import run
from reliability.fuzz_targets import onnx_targets, run_targets, sam_targets
from support.cli import make_trained_run

pytestmark = [pytest.mark.subprocess, pytest.mark.slow]


def test_mutated_run_files(here: Path) -> None:
    targets = run_targets(here / "finished")
    report = run(targets, here, seed=0, stop=lambda done: done >= 150)
    assert not report.findings, str(report)
    assert all(report.refused[target.name] for target in targets), str(report)


def test_mutated_teachers(here: Path) -> None:
    targets = sam_targets(here)
    report = run(targets, here, seed=0, stop=lambda done: done >= 40)
    assert not report.findings, str(report)
    assert all(report.refused[target.name] for target in targets), str(report)


def test_mutated_onnx_files(here: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    targets = onnx_targets(make_trained_run(here / "finished"))
    report = run(targets, here, seed=0, stop=lambda done: done >= 40)
    assert not report.findings, str(report)
    assert all(report.refused[target.name] for target in targets), str(report)

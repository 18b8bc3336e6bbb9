"""Every command's table on 80 columns: no column is lost, no number broken, names folded at the borders of words."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from knowsam.evaluation.metrics import ClassScore, summarise
from knowsam.evaluation.result import EvaluationResult, print_table
from knowsam.inspection.findings import CheckReport, ClassCount, print_report
from knowsam.presentation.console import make_table
from knowsam.presentation.folding import fold
from knowsam.reliability.calibration import Estimate
from knowsam.reliability.cases import CaseQuality, print_worst
from knowsam.reliability.suggest_output import print_suggestions

# 25 letters each: one word, several, parts joined.
NAMES = ("rightatrialappendagecavit", "left ventricle and septum", "left_ventricular_myocard_")


@pytest.mark.parametrize(
    ("text", "width", "is_name", "lines"),
    [
        ("left_ventricular_muscle", 25, True, ["left_ventricular_muscle"]),
        ("left_ventricular_muscle", 18, True, ["left_ventricular_", "muscle"]),
        ("gland lumen", 5, True, ["gland", "lumen"]),
        ("nodule/solid-part", 7, True, ["nodule/", "solid-", "part"]),
        ("NecroticCore", 10, True, ["Necrotic", "Core"]),
        ("hippocampus", 6, True, ["hippoc", "ampus"]),
        ("0.912 ±0.113", 8, False, ["0.912", "±0.113"]),
        ("0.912 ± 0.113", 7, False, ["0.912", "± 0.113"]),
        ("0.912", 3, False, ["0.912"]),
        ("肝臓と腎臓", 6, True, ["肝臓と", "腎臓"]),
    ],
)
def test_text_is_folded_at_the_borders_of_words(text: str, width: int, is_name: bool, lines: list[str]) -> None:
    assert fold(text, width, is_name).split("\n") == lines


def on_80_columns(print_to: Callable[[Console], Any]) -> str:
    stream = io.StringIO()
    print_to(Console(file=stream, width=80))
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    return shown


def print_evaluation(console: Console) -> None:
    scores = [
        ClassScore(index, "ok", {"dice": dice, "jaccard": dice / 2, "hd95": 100 * dice, "asd": 10 * dice})
        for index in (1, 2, 3)
        for dice in (0.25, 0.75)
    ]
    result = EvaluationResult((), ("background", *NAMES), "mm", summarise(scores), (), (), ())
    print_table(result, console)


def print_check(console: Console) -> None:
    print_report(
        CheckReport(classes=[ClassCount(name, 255, 0.1234, 1234, 1234, 123, "255") for name in NAMES]), console
    )


def print_uncertainty(console: Console) -> None:
    estimates = tuple(Estimate(dice, 0.11, 0.62, "estimated") for dice in (0.9, 0.31, 0.8))
    cases = [CaseQuality(name, 1, estimates, None) for name in NAMES]  # type: ignore[arg-type]
    basis: Any = SimpleNamespace(sentence=lambda: "The basis.")
    print_worst(cases, ("background", *NAMES), basis, console)


def print_suggested(console: Console) -> None:
    suggestions: list[Any] = [
        SimpleNamespace(candidate=SimpleNamespace(group=name, cases=["a"] * 12), reason="the students disagree " * 5)
        for name in NAMES
    ]
    print_suggestions(suggestions, console)


@pytest.mark.parametrize(
    ("print_to", "numbers"),
    [
        (print_evaluation, ["0.500", "±0.250", "0.250", "±0.125", "50.00", "±25.00", "±2.50"]),
        (print_check, ["12.3 %", "1234", "123"]),
        (print_uncertainty, ["0.31", "0.67", "0.11 to", "0.62"]),
        (print_suggested, ["12"]),
    ],
)
def test_names_of_25_letters_stay_whole(print_to: Callable[[Console], None], numbers: list[str]) -> None:
    shown = on_80_columns(print_to)
    for name in NAMES:
        assert name in shown
    for number in numbers:
        assert number in shown


def test_columns_that_do_not_fit_stand_below_with_the_names() -> None:
    headings = ("method", *(f"{name}{number}" for number in range(4) for name in NAMES))
    row = ("knowsam", *(f"0.{number} ±0.0{number}" for number in range(101, 113)))
    shown = on_80_columns(lambda console: console.print(make_table(headings, [row], "Dice")))
    assert shown.count("knowsam") == shown.count("method") > 1
    assert shown.count("Dice") == 1
    assert all(shown.count(part) == 1 for cell in row[1:] for part in cell.split())
    # Of "left_ventricular_myocard_" each part in a line of its own.
    assert shown.count("ventricular_") == 4

"""What a check of a data folder says, and how it is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class CheckReport:
    """What `check_folder` found.

    Attributes:
        errors: What training would stop at, one sentence each.
        warnings: What is probably not meant.
        notes: How the data was understood.
        counts: Numbers by name: JSON-able, in the order they are printed.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True where training can start."""
        return not self.errors


def print_report(report: CheckReport, console: Any = None) -> None:
    """Prints a report for a person.

    Args:
        report: The report.
        console: A `rich.console.Console`, by default one on standard output.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in report.counts.items():
        table.add_row(escape(name), escape(_as_text(value)))
    console.print(table)
    for title, style, sentences in (
        ("Note", "cyan", report.notes),
        ("Warning", "yellow", report.warnings),
        ("Error", "red", report.errors),
    ):
        for sentence in sentences:
            console.print(f"[{style}]{title}:[/] {escape(sentence)}", soft_wrap=True, highlight=False)
    verdict = "[green]Ready to train.[/]"
    if not report.ok:
        plural = "s" if len(report.errors) > 1 else ""
        verdict = f"[red]{len(report.errors)} error{plural} to correct before training.[/]"
    console.print(verdict)


def size_text(shape: tuple[int, ...]) -> str:
    """`"256x216"` for `(256, 216)`."""
    return "x".join(str(length) for length in shape)


def size_summary(sizes: list[tuple[int, ...]]) -> str:
    """Range and most frequent of several sizes, in px."""
    counted = Counter(sizes).most_common()
    if len(counted) == 1:
        return f"all {size_text(counted[0][0])}"
    ordered = sorted(counted, key=lambda item: int(np.prod(item[0])))
    smallest, largest = ordered[0][0], ordered[-1][0]
    return (
        f"{len(counted)} different, {size_text(smallest)} to {size_text(largest)}, most often "
        f"{size_text(counted[0][0])} ({counted[0][1]} times)"
    )


def spacing_summary(spacings: list[tuple[float, ...]]) -> str:
    """Smallest and largest spacing over all axes and images, in mm."""
    values = np.array([(min(spacing), max(spacing)) for spacing in spacings])
    return f"{values[:, 0].min():.4g} to {values[:, 1].max():.4g} mm"


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return str(value)

"""The result of a check: findings and counts, as a record, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from knowsam.data.labels import LabelCoding
from knowsam.data.split import Split
from knowsam.inspection.examine import CaseFacts
from knowsam.presentation.console import make_console, make_table, printed
from knowsam.presentation.text import count_text, first_few, share_text

if TYPE_CHECKING:
    from rich.console import Console

Severity = Literal["error", "warning", "note"]

SHOWN_DETAILS = 5
"""Number of files of a finding that the text names; JSON has all."""


FLATTERING = ("groups", "exact-leak", "near-leak", "exact-copies", "near-copies")
"""Kinds of warnings that say why a score may be better than it should be."""


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data.

    Attributes:
        severity: `"error"`: training would not start; `"warning"`: probably a mistake; `"note"`: how the data was
            understood.
        kind: What it is about, for programs, such as `"near-copies"`.
        sentence: What was found.
        suggestion: What to do about it.
        files: Stems of the images concerned.
        details: One sentence per file, where each has its own.
        pairs: Pairs of stems that show the same picture.
    """

    severity: Severity
    kind: str
    sentence: str
    suggestion: str = ""
    files: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def named(self) -> list[str]:
        """The first few files, or what is said of them, and how many more there are."""
        if self.details:
            rest = len(self.details) - SHOWN_DETAILS
            return [*self.details[:SHOWN_DETAILS], *([f"... and {rest} more"] if rest > 0 else [])]
        if self.pairs:
            sign = "~" if self.kind.startswith("near") else "="
            return [first_few((f"{one} {sign} {other}" for one, other in self.pairs), SHOWN_DETAILS)]
        return [first_few(self.files, SHOWN_DETAILS)] if self.files else []

    def __str__(self) -> str:
        return " ".join([self.sentence, *self.named])


@dataclass(frozen=True)
class ClassCount:
    """How much there is of one class.

    Attributes:
        name: Its name.
        value: Its value in mask files.
        pixel_share: Share of the labelled training pixels, ignored ones left out.
        images: Labelled training images that show it.
        groups: Labelled training groups that show it.
        val_images: Validation images that show it.
        values: All its values in mask files, where several mean it: `"128 to 255"`.
    """

    name: str
    value: int
    pixel_share: float
    images: int
    groups: int
    val_images: int
    values: str


@dataclass(frozen=True)
class ValueCount:
    """A value of mask files, or a range where there are many, and what it means.

    Attributes:
        first: The smallest value.
        last: The largest value.
        meaning: Name of the class, `"ignored"`, `"no class"`, or `"?"` where nobody knows.
        pixels: So many in all masks.
        files: So many masks have one of them.
    """

    first: int
    last: int
    meaning: str
    pixels: int
    files: int


@dataclass
class CheckReport:
    """What `check_folder` found.

    Attributes:
        data: The folder, as it was given.
        findings: In the order they were made.
        counts: Numbers by name: JSON-able, in the order they are printed.
        classes: The background first; empty where the masks give no classes.
        values: What each value of all masks means, hidden and test masks included.
        examined: The cases, for pictures of them.
        split: Which images would be used for what; None where there can be no split.
        coding: What mask values mean; None where that is not known.
    """

    data: str = ""
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    classes: list[ClassCount] = field(default_factory=list)
    values: list[ValueCount] = field(default_factory=list)
    examined: list[CaseFacts] = field(default_factory=list, repr=False)
    split: Split | None = field(default=None, repr=False)
    coding: LabelCoding | None = None

    def add(
        self,
        severity: Severity,
        kind: str,
        sentence: str,
        suggestion: str = "",
        files: Iterable[str] = (),
        details: Iterable[str] = (),
        pairs: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Append a finding."""
        self.findings.append(Finding(severity, kind, sentence, suggestion, tuple(files), tuple(details), tuple(pairs)))

    def add_sentence(self, severity: Severity, kind: str, sentence: str, otherwise: str = "") -> None:
        """Append a finding from a sentence that ends with what to do, as those of `InputError` do.

        Args:
            severity: As in `Finding`.
            kind: As in `Finding`.
            sentence: "file: found; expected; advice."
            otherwise: The suggestion where the sentence has no advice.
        """
        said, _, advice = sentence.rpartition("; ")
        if said:
            self.add(severity, kind, said + ".", advice[:1].upper() + advice[1:])
        else:
            self.add(severity, kind, sentence, otherwise)

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def errors(self) -> list[str]:
        """What training would stop at."""
        return [str(finding) for finding in self.of("error")]

    @property
    def warnings(self) -> list[str]:
        """What is probably a mistake."""
        return [str(finding) for finding in self.of("warning")]

    @property
    def notes(self) -> list[str]:
        """How the data was understood."""
        return [str(finding) for finding in self.of("note")]

    @property
    def ok(self) -> bool:
        """True where training can start."""
        return not self.of("error")

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if not self.ok:
            return f"{count_text(len(self.of('error')), 'error')} to correct before training."
        flattering = sum(one.kind in FLATTERING for one in self.of("warning"))
        if not flattering:
            return "Ready to train."
        which = "the warning" if flattering == 1 else f"the {flattering} warnings"
        return f"Ready to train, but see {which} above about groups and copies: scores may be too good."

    def __str__(self) -> str:
        return printed(lambda console: print_report(self, console))

    def to_json(self) -> dict[str, Any]:
        """The whole result as plain values, every file named."""
        return {
            "data": self.data,
            "ok": self.ok,
            "counts": self.counts,
            "classes": [asdict(one) for one in self.classes],
            "mask_values": [asdict(one) for one in self.values],
            "findings": [
                {
                    "severity": one.severity,
                    "kind": one.kind,
                    "sentence": one.sentence,
                    "suggestion": one.suggestion,
                    "n_files": len(one.files),
                    "files": list(one.files),
                    "details": list(one.details),
                    "twins": [list(pair) for pair in one.pairs],
                }
                for one in self.findings
            ],
        }


def print_report(report: CheckReport, console: Console | None = None) -> None:
    """Print a report for a person, the worst last, where it is read first.

    Args:
        report: The report.
        console: Where to print; None for the terminal.
    """
    from rich.markup import escape

    console = console or make_console()
    console.print(make_table((), [(name, counts_line(value)) for name, value in report.counts.items()]))
    if report.values:
        value_rows = [
            (str(one.first) if one.first == one.last else f"{one.first} to {one.last}", one.meaning, *numbers)
            for one in report.values
            for numbers in [(f"{one.pixels:,}", f"{one.files:,}")]
        ]
        console.print(make_table(("mask value", "class", "pixels", "masks"), value_rows))
    if report.classes:
        rows = []
        for one in report.classes:
            numbers = (share_text(one.pixel_share), one.images, one.groups, one.val_images)
            rows.append((one.name, *map(str, numbers)))
        console.print(make_table(("class", "labelled pixels", "images", "groups", "val images"), rows))
    if not report.values and not report.classes:
        console.print()
    severities: tuple[tuple[Severity, str], ...] = (("note", "cyan"), ("warning", "yellow"), ("error", "red"))
    for severity, style in severities:
        for finding in report.of(severity):
            lines = [f"[{style}]{severity.capitalize()}:[/] {escape(finding.sentence)}", *map(escape, finding.named)]
            if finding.suggestion:
                lines.append(f"-> {escape(finding.suggestion)}")
            console.print("\n    ".join(lines), soft_wrap=True)
    console.print(f"[{'green' if report.ok else 'red'}]{report.verdict}[/]")


def spacing_summary(spacings: Sequence[tuple[float, ...]]) -> str:
    """Smallest and largest spacing over all axes and images, in mm."""
    values = np.array([(min(spacing), max(spacing)) for spacing in spacings])
    smallest, largest = values[:, 0].min(), values[:, 1].max()
    return f"{smallest:.4g} mm" if smallest == largest else f"{smallest:.4g} to {largest:.4g} mm"


def counts_line(value: Any) -> str:
    """A value of `CheckReport.counts` on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return str(value)

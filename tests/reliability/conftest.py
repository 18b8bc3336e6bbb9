"""What the torture tried: one line for each kind at the end of a run of the tests."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add up what tests noted with `record_property("torture", (what, kind, tried, findings))`."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, noted in getattr(report, "user_properties", []):
                if name == "torture" and getattr(report, "when", "") == "call":
                    what, kind, tried, findings = noted
                    before = sums.get((what, kind), (0, 0))
                    sums[what, kind] = before[0] + tried, before[1] + findings
    for (what, kind), (tried, findings) in sorted(sums.items()):
        terminalreporter.write_line(f"{what}, {kind}: {tried} tried, {findings} did not hold")

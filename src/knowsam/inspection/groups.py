"""The `groups.csv` that a check believes in: shared prefixes are patients, and copies belong together."""

from __future__ import annotations

from pathlib import Path

from knowsam.data.lists import natural_sorted
from knowsam.data.prefixes import shared_prefixes, write_groups
from knowsam.inspection.findings import CheckReport
from knowsam.presentation.text import count_text


def write_believed_groups(report: CheckReport) -> None:
    """Write `groups.csv` into the data folder, and note it in the report.

    Args:
        report: What `check_folder` returned.

    Raises:
        InputError: There is such a file already.
    """
    groups = believed_groups(report)
    if not groups:
        return
    path = Path(report.data) / "groups.csv"
    write_groups(path, [(one.case.stem, groups[one.case.stem], one.case.volume) for one in report.examined])
    report.add(
        "note",
        "groups-written",
        f"{path}: written, {count_text(len(groups), 'image')} in {count_text(len({*groups.values()}), 'group')}.",
        "Look through it: from now on it says what belongs together.",
    )


def believed_groups(report: CheckReport) -> dict[str, str]:
    """Stem -> group: that of its case, or its prefix, joined with all groups that show a copy of one of its images.

    A joined group has the first of the names, in natural order.

    Args:
        report: What `check_folder` returned.
    """
    groups = {one.case.stem: one.case.group for one in report.examined}
    for prefix, stems in shared_prefixes(groups).items():
        groups |= dict.fromkeys(stems, prefix)
    joined = {name: name for name in groups.values()}

    def root(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    for finding in report.findings:
        if finding.kind.endswith(("-copies", "-leak")):
            for pair in finding.pairs:
                first, second = natural_sorted(root(groups[stem]) for stem in pair)
                joined[second] = first
    return {stem: root(group) for stem, group in groups.items()}

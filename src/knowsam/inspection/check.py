"""The check of a data folder: every file is opened, and every problem is reported, not only the first.

Unlike training, the check opens hidden masks and test masks too, so that they can be relied on later; a problem with
them is a warning. An error is what training would stop at, nothing else.
"""

from __future__ import annotations

from pathlib import Path

from knowsam.data.folder import DataFolder, scan_folder
from knowsam.data.labels import NOTHING_SAID, LabelSpec
from knowsam.data.leaks import leak_warnings
from knowsam.data.prefixes import GroupBy
from knowsam.data.split import Split, make_split
from knowsam.errors import InputError
from knowsam.inspection.axes import judge_axes, judge_mirrored
from knowsam.inspection.examine import examine_all
from knowsam.inspection.findings import CheckReport
from knowsam.inspection.images import judge_contrast, judge_copies, judge_images
from knowsam.inspection.masks import judge_labels
from knowsam.presentation.console import ProgressStart

IF_MEANT = "Nothing to do if that is meant."


def check_folder(
    root: str | Path,
    labelled: int | float | str | Path | None = None,
    spec: LabelSpec = NOTHING_SAID,
    val_fraction: float = 0.2,
    seed: int = 0,
    progress: ProgressStart | None = None,
    group_by: GroupBy = "name",
) -> CheckReport:
    """Open every image and mask of a data folder and collect all problems.

    Args:
        root: The data folder.
        labelled: As in `make_split`.
        spec: What is known of the values of the masks.
        val_fraction: As in `make_split`.
        seed: As in `make_split`.
        progress: Called with the number of cases; returns what to call after each.
        group_by: As in `scan_folder`.

    Returns:
        The report. A problem with the data never raises.
    """
    report = CheckReport(str(root))
    try:
        folder = scan_folder(root, strict=False, group_by=group_by)
    except InputError as error:
        report.add_sentence("error", "folder", str(error))
        return report
    for sentence in folder.notes:
        report.add("note", "folder", sentence)
    for sentence in folder.warnings:
        report.add_sentence("warning", "folder", sentence, IF_MEANT)
    for sentence in folder.errors:
        report.add_sentence("error", "folder", sentence)
    try:
        report.split = make_split(folder, labelled, val_fraction, seed)
    except InputError as error:
        report.add_sentence("error", "split", str(error))
    for sentence in leak_warnings(folder, report.split):
        report.add_sentence("warning", "groups", sentence)
    report.examined = examine_all(list(folder.cases.values()), progress)
    _count_cases(report, folder, report.split)
    judge_images(report)
    judge_contrast(report)
    judge_axes(report)
    judge_copies(report)
    judge_labels(report, spec)
    judge_mirrored(report)
    return report


def _count_cases(report: CheckReport, folder: DataFolder, split: Split | None) -> None:
    cases = folder.cases
    report.counts["images"] = len(cases)
    report.counts["with a mask"] = len(folder.labelled_cases())
    report.counts["groups"] = len({case.group for case in cases.values()})
    report.counts["volumes or pictures"] = len({case.volume for case in cases.values()})
    if split is None:
        return
    for name in ("labelled", "unlabelled", "val", "test"):
        stems = getattr(split, name)
        report.counts[f"split: {name}"] = {
            "images": len(stems),
            "groups": len({cases[stem].group for stem in stems}),
        }
    report.counts["masks hidden from training"] = sum(cases[stem].label is not None for stem in split.unlabelled)
    taking_part = {*split.labelled, *split.unlabelled, *split.val, *split.test}
    report.counts["images taking no part"] = len(cases) - len(taking_part)
    if not split.unlabelled:
        report.add(
            "note",
            "no-unlabelled",
            "No unlabelled image: training will be supervised only.",
            "Add images without masks to unlabelled/, as many as you have.",
        )
    if not split.val:
        report.add(
            "warning",
            "no-validation",
            "No validation image: the best checkpoint cannot be chosen.",
            "Annotate a second group, or list images with masks in val.txt.",
        )

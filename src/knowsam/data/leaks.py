"""What may let a score look better than it is, as far as names and lists tell: no image is opened."""

from __future__ import annotations

from knowsam.data.folder import DataFolder
from knowsam.data.prefixes import shared_prefixes
from knowsam.data.split import Split
from knowsam.presentation.text import count_text, first_few


def leak_warnings(folder: DataFolder, split: Split | None) -> list[str]:
    """Sentences that ask about images of one patient which a split may part.

    Args:
        folder: What `scan_folder` found.
        split: How it is divided; None where that is not known.
    """
    warnings = list(folder.leaks)
    if folder.groups_stated:
        return warnings
    found = shared_prefixes({stem: case.group for stem, case in folder.cases.items()})
    if not found:
        return warnings
    parted = 0
    if split is not None:
        side = dict.fromkeys(split.labelled + split.unlabelled, "train")
        side |= dict.fromkeys(split.val, "val") | dict.fromkeys(split.test, "test")
        parted = sum(len({side.get(stem) for stem in stems} - {None}) > 1 for stems in found.values())
    across = f", of which {parted} {'is' if parted == 1 else 'are'} on both sides of the split" if parted else ""
    warnings.append(
        f"{folder.root}: {count_text(sum(map(len, found.values())), 'image')} share "
        f"{len(found)} prefixes ({first_few(found)}){across}: if these are patients, scores are too good and "
        "--labelled counts images, not patients; give --group-by prefix, or write groups.csv (knowsam check "
        "--write-groups does)."
    )
    return warnings

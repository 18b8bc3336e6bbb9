"""What the files of a run's data held when it began, `data.json`: a changed mask is noticed when the run goes on."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from knowsam.data.folder import DataFolder
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.runs.cases import cases_of
from knowsam.runs.folder import RunFolder
from knowsam.storage import checksum, read_json, reason_of, write_json

FORMAT = 1
DIGEST_BYTES = 16


def file_hashes(folder: DataFolder, split: Split, unlabelled: bool, hidden_masks: bool = False) -> dict[str, str]:
    """The content of every file a run reads, as a hash; masks of unlabelled and hidden cases stay closed.

    Args:
        folder: The data folder.
        split: Who is what in it.
        unlabelled: Whether the run looks at unlabelled images.
        hidden_masks: Whether it reads their masks, too, for a judge that asks for them.

    Returns:
        `"image STEM"` and `"mask STEM"` -> 32 hexadecimal digits.

    Raises:
        InputError: A case of the split is not in the folder.
    """
    hashes: dict[str, str] = {}
    for case in cases_of(folder, [*split.labelled, *split.val]):
        hashes[f"image {case.stem}"] = _hash(case.image)
        if case.label is not None:
            hashes[f"mask {case.stem}"] = _hash(case.label)
    for case in cases_of(folder, split.unlabelled) if unlabelled else []:
        hashes[f"image {case.stem}"] = _hash(case.image)
        if hidden_masks and case.label is not None:
            hashes[f"mask {case.stem}"] = _hash(case.label)
    return hashes


def _hash(path: Path) -> str:
    return checksum(path, lambda: blake2b(digest_size=DIGEST_BYTES))


def write_data_record(run: RunFolder, hashes: dict[str, str], masks_judged: int = 0) -> None:
    """Write `data.json`.

    Args:
        run: The run.
        hashes: As of `file_hashes`.
        masks_judged: Number of masks of unlabelled images that were read for a judge.
    """
    write_json(run.data, {"format": FORMAT, "masks_judged": masks_judged, "files": hashes})


def read_masks_judged(run: RunFolder) -> int:
    """Number of masks of unlabelled images that a run read for a judge; 0 where `data.json` is from before, or gone.

    Raises:
        InputError: `data.json` is broken.
    """
    if not run.data.exists():
        return 0
    found = read_json(run.data, "restore it, or delete it to go on without the check").get("masks_judged", 0)
    if not isinstance(found, int) or found < 0:
        raise InputError(
            f"{run.data}: masks_judged {found!r} was found, but expected a whole number from 0; restore the file."
        )
    return found


def changed_files(run: RunFolder, hashes: dict[str, str]) -> list[str]:
    """What is not as it was when the run began.

    Args:
        run: The run.
        hashes: What its files hold now.

    Returns:
        Names as in `file_hashes`; none for a run from before there was `data.json`.

    Raises:
        InputError: `data.json` is broken.
    """
    if not run.data.exists():
        return []
    advice = "restore it, or delete it to go on without the check"
    values = read_json(run.data, advice)
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}")
        before = dict(values["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run.data}: cannot be read ({reason_of(error)}), but expected what `knowsam train` wrote; {advice}."
        ) from error
    return [name for name, value in hashes.items() if before.get(name) != value]

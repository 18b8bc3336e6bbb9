"""What `knowsam check` says of real images: its alarms on sets as they are, and what it finds of faults put in by hand.

    python benchmarks/doctor.py DATA [DATA ...] [--planted 20] [--seed 0] [--out doctor.json]

Of every set, as many images as `--planted` are drawn, and each is changed by itself:

- `inverted`: the negative takes the image's place, all of them at once;
- `alone`: the same, one at a time, so that the set has a single negative;
- all others: the changed image comes in beside its original, as a group of its own, and the pair must be named.

Two tables in Markdown: images accused on the set as it is, and `found of planted`. What is accused besides is counted
in the last column.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from knowsam.data.folder import Case, scan_folder
from knowsam.inspection.examine import CaseFacts, examine, examine_all
from knowsam.inspection.findings import CheckReport
from knowsam.inspection.images import judge_contrast, judge_copies
from knowsam.io import file_suffix, read_image
from measure import keep

KINDS = ("inverted", "two-kinds", "exact-copies", "near-copies")


def negative(array: np.ndarray) -> np.ndarray:
    """255 - value; of other types, their own range read backwards."""
    if array.dtype == np.uint8:
        return 255 - array
    return (array.max() + array.min() - array).astype(array.dtype)


def compressed(array: np.ndarray) -> np.ndarray:
    """Saved as JPEG of quality 60 and read again."""
    buffer = io.BytesIO()
    _picture(array).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer)).reshape(array.shape)


def smaller(array: np.ndarray) -> np.ndarray:
    """Two thirds of its size."""
    if array.ndim == 4:
        return array[::2, ::2, ::2]
    height, width = array.shape[:2]
    resized = _picture(array).resize((width * 2 // 3, height * 2 // 3), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height * 2 // 3, width * 2 // 3, -1)


def brighter(array: np.ndarray) -> np.ndarray:
    """10 % brighter, clipped where the type ends."""
    largest = 255 if array.dtype == np.uint8 else array.max() * 1.1
    return np.clip(array * 1.1, 0, largest).astype(array.dtype)


def cropped(array: np.ndarray) -> np.ndarray:
    """2 % of each side, taken off at every border."""
    margins = [max(1, round(0.02 * length)) for length in array.shape[:-1]]
    return array[tuple(slice(margin, -margin) for margin in margins)]


def cropped_at_one_corner(array: np.ndarray) -> np.ndarray:
    """2 % of each side, taken off at the first border."""
    return array[tuple(slice(max(1, round(0.02 * length)), None) for length in array.shape[:-1])]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda array: array,
    "jpeg": compressed,
    "smaller": smaller,
    "brighter": brighter,
    "cropped": cropped,
    "corner": cropped_at_one_corner,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="+", type=Path)
    options.add_argument("--planted", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    arguments = options.parse_args()
    measured = {
        data.name: measure_set(data, arguments.planted, np.random.default_rng(arguments.seed))
        for data in arguments.data
    }
    columns = ("images", *KINDS)
    table("accused", columns, {name: [one["alarms"][column] for column in columns] for name, one in measured.items()})
    columns = ("inverted", "alone", *COPIES, "besides")
    table("found", columns, {name: [one["planted"][column] for column in columns] for name, one in measured.items()})
    keep(arguments.out, measured)


def measure_set(data: Path, planted: int, random: np.random.Generator) -> dict[str, dict[str, object]]:
    """Both rows of one set."""
    facts = examine_all(list(scan_folder(data).cases.values()))
    accused = accusations(facts)
    alarms: dict[str, object] = {kind: len(accused[kind]) for kind in KINDS}
    usable = [index for index, one in enumerate(facts) if one.thumbnail is not None]
    chosen = random.choice(usable, min(planted, len(usable)), replace=False).tolist()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        negatives = {index: changed(facts[index], negative, "inverted", Path(folder)) for index in chosen}
        replaced = [negatives.get(index, one) for index, one in enumerate(facts)]
        stems = {facts[index].case.stem for index in chosen}
        now = accusations(replaced)
        said = now["inverted"] | now["two-kinds"]
        found["inverted"] = f"{len(said & stems)} of {len(stems)}" if 2 * len(chosen) < len(facts) else "-"
        besides = len(said - stems - accused["inverted"] - accused["two-kinds"]) if 2 * len(chosen) < len(facts) else 0
        alone = 0
        for index, one in negatives.items():
            now = accusations([*facts[:index], one, *facts[index + 1 :]], copies=False)
            alone += one.case.stem in now["inverted"] | now["two-kinds"]
        found["alone"] = f"{alone} of {len(chosen)}"
        for name, change in COPIES.items():
            is_volume = facts[0].size is not None and len(facts[0].size) == 3
            if name == "jpeg" and is_volume:
                found[name] = "-"
                continue
            extra = [changed(facts[index], change, name, Path(folder), beside=True) for index in chosen]
            pairs = {tuple(sorted(pair)) for pair in named_pairs([*facts, *extra])}
            beside = zip((facts[index].case.stem for index in chosen), (one.case.stem for one in extra), strict=True)
            wanted = {tuple(sorted(pair)) for pair in beside}
            found[name] = f"{len(pairs & wanted)} of {len(wanted)}"
    return {"alarms": {"images": len(facts)} | alarms, "planted": found | {"besides": besides}}


def accusations(facts: list[CaseFacts], copies: bool = True) -> dict[str, set[str]]:
    """Kind of finding -> stems it names."""
    report = CheckReport(examined=facts)
    judge_contrast(report)
    if copies:
        judge_copies(report)
    return {kind: {stem for one in report.findings if one.kind == kind for stem in one.files} for kind in KINDS}


def named_pairs(facts: list[CaseFacts]) -> list[tuple[str, str]]:
    """All pairs of copies that are named; one of several equal images stands for them."""
    report = CheckReport(examined=facts)
    judge_copies(report)
    return [pair for one in report.findings for pair in one.pairs]


def changed(
    one: CaseFacts, change: Callable[[np.ndarray], np.ndarray], name: str, folder: Path, beside: bool = False
) -> CaseFacts:
    """The facts of a changed image, written to a file and read again."""
    case = one.case
    stem = f"{case.stem}_{name}" if beside else case.stem
    path = write_picture(change(read_image(case.image).array), folder / f"{name}_{case.stem}", file_suffix(case.image))
    return examine(Case(stem, path, None, stem, stem) if beside else dataclasses.replace(case, image=path, label=None))


def write_picture(array: np.ndarray, path: Path, suffix: str | None) -> Path:
    """HDF5 as HDF5, a picture as PNG, anything else as NIfTI."""
    if suffix in (".h5", ".hdf5"):
        import h5py

        path = path.with_name(path.name + suffix)
        with h5py.File(path, "w") as file:
            file["image"] = array[..., 0]
        return path
    if array.ndim == 3 and array.dtype == np.uint8:
        path = path.with_name(path.name + ".png")
        _picture(array).save(path)
        return path
    import nibabel as nib

    path = path.with_name(path.name + ".nii.gz")
    nib.save(nib.Nifti1Image(array[..., 0], np.eye(4)), path)
    return path


def _picture(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def table(title: str, columns: tuple[str, ...], rows: dict[str, list[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {title} | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(map(str, values))} |", flush=True)


if __name__ == "__main__":
    main()

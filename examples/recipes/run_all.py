"""All five recipes as one table: supervised training, KnowSAM without SAM, KnowSAM with SAM, over seeds.

    python examples/recipes/run_all.py --data ROOT --out runs/recipes --scale short --seeds 0,1

ROOT holds a folder for each public set (kvasir, clinicdb, ddti, ph2, acdc, glas), each with images/ and masks/. Stop it
whenever you like and repeat the command: what is done is not done again. The table is written after each recipe.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import hashlib
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from knowsam.comparison.loop import compare
from knowsam.comparison.outcome import Outcome
from knowsam.comparison.output import write_tables
from knowsam.comparison.results import Results, Row
from knowsam.comparison.scores import SCORES_FILE, case_value, read_scores
from knowsam.comparison.statistics import Interval, bootstrap_interval, paired_differences
from knowsam.comparison.tables import difference_text, spread_text
from knowsam.config import load_recipe, merge_layers, parse_overrides
from knowsam.errors import InputError

SETS = {
    "colonoscopy": ("kvasir", "clinicdb"),
    "thyroid": ("ddti",),
    "skin": ("ph2",),
    "cardiac": ("acdc",),
    "histology": ("glas",),
}
"""Recipe -> folders below ROOT that are put together for it."""
SCORED_SHARE = 0.2
"""Share of the groups of a set without lists of its own that is scored."""
CLINICDB_STARTS = (1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384, 409, 429,
                   448, 467, 479, 504, 529, 547, 572, 592)  # fmt: skip
"""First frame of each of ClinicDB's 29 videos: frames of one video must not be on both sides of a split."""
ROWS = (("supervised", "none"), ("knowsam", "none"), ("knowsam", None))
"""Method and SAM of the table's rows; None: the one of `--sam`."""


class Line(NamedTuple):
    """One row of the table: Dice over seeds, and how far above supervised training it is."""

    recipe: str
    method: str
    sam: str
    cases: int
    done: str
    dice: str
    gain: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or that of an earlier call")
    parser.add_argument("--scale", choices=("short", "paper"), default="short", help="two cores, or the paper's scale")
    parser.add_argument("--seeds", default="0,1", help="one run for each (%(default)s)")
    parser.add_argument("--recipes", default=",".join(SETS), help="which of them (%(default)s)")
    parser.add_argument("--sam", default="tiny", help="the SAM of the last row: tiny, vit_b, ... (%(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs, e.g. train.amp=bf16")
    given = parser.parse_args()
    try:
        seeds = [int(seed) for seed in given.seeds.split(",")]
        recipes = given.recipes.split(",")
        complete = run_all(given.data, given.out, recipes, given.scale, seeds, given.sam, given.overrides)
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if complete else 1)


def run_all(
    data: Path, out: Path, recipes: list[str], scale: str, seeds: list[int], sam: str, overrides: list[str]
) -> bool:
    """Run every recipe and write `recipes.md`; returns whether nothing is left to do."""
    console = Console(highlight=False, soft_wrap=True)
    for recipe in recipes:  # a missing folder is said before anything is trained
        if recipe not in SETS:
            raise InputError(f"--recipes: '{recipe}' was found, but expected some of {', '.join(SETS)}; correct it.")
        prepare(recipe, data, out / "data" / recipe)
    lines: list[Line] = []
    for number, recipe in enumerate(recipes, start=1):
        console.print(f"\n[bold]Recipe {number} of {len(recipes)}: {recipe}[/bold]")
        results = compare_recipe(recipe, out, scale, seeds, sam, overrides)
        write_tables(results)
        lines += table_lines(recipe, results, sam)
        write_table(out / "recipes.md", lines, scale, overrides)
        for cell, reason in results.failed.items():
            console.print(f"{cell}: {reason}")
        if results.interrupted:
            break
    console.print(f"\n{(out / 'recipes.md').read_text()}\nWritten: {out / 'recipes.md'}")
    asked = len(recipes) * len(ROWS)
    return len(lines) == asked and all(line.done == f"{len(seeds)} of {len(seeds)}" for line in lines)


def compare_recipe(recipe: str, out: Path, scale: str, seeds: list[int], sam: str, overrides: list[str]) -> Results:
    """Train and score the three rows of one recipe in one comparison folder."""
    layer = load_recipe(recipe if scale == "paper" else f"{recipe}-{scale}")
    labelled = layer["data"].pop("labelled")
    settings = merge_layers(layer, parse_overrides(overrides))
    folder, into = out / "data" / recipe, out / scale / recipe
    results = compare(folder, into, ["supervised"], ["none"], [labelled], seeds, settings)
    if not results.interrupted:
        results = compare(folder, into, ["knowsam"], ["none", sam], [labelled], seeds, settings)
    return results


def prepare(recipe: str, root: Path, folder: Path) -> None:
    """Put the sets of a recipe into one data folder with a split that no seed changes.

    A set with lists of its own (`train.txt`, `val.txt`) keeps them. Otherwise the groups are put in an order that
    depends on their names alone; the first fifth is scored, the rest trains, and the labelled ones are its first.
    """
    if (folder / "val.txt").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    stems: dict[str, str] = {}
    lists: dict[str, list[str]] = {"train.txt": [], "val.txt": []}
    for name in SETS[recipe]:
        source, prefix = root / name, f"{name}_" if len(SETS[recipe]) > 1 else ""
        if not (source / "images").is_dir() or not (source / "masks").is_dir():
            raise InputError(f"{source}: no images/ and masks/ were found, but recipe {recipe} needs them; add them.")
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for file in sorted((source / part).iterdir()):
                shutil.copyfile(file, folder / part / f"{prefix}{file.name}")
        groups = read_groups(source)
        for file in sorted((source / "images").iterdir()):
            group = clinicdb_video(file.stem) if name == "clinicdb" else groups.get(file.stem, file.stem)
            stems[f"{prefix}{file.stem}"] = f"{prefix}{group}"
        for list_name, members in lists.items():
            if (source / list_name).is_file():
                members += [f"{prefix}{line}" for line in (source / list_name).read_text().split()]
    if not lists["val.txt"]:
        lists = draw_lists(stems)
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("stem", "group"), *stems.items()])
    for list_name, members in lists.items():  # val.txt last: it says that the folder is whole
        (folder / list_name).write_text("\n".join(members) + "\n")


def read_groups(source: Path) -> dict[str, str]:
    """Read stem -> group of a set, from its `groups.csv`; empty where it has none."""
    path = source / "groups.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["stem"]: row["group"] for row in csv.DictReader(file)}


def clinicdb_video(stem: str) -> str:
    """Return the video that a frame of ClinicDB, `"612"`, is taken from."""
    return f"video{bisect.bisect(CLINICDB_STARTS, int(stem)):02d}"


def draw_lists(stems: dict[str, str]) -> dict[str, list[str]]:
    """Divide stems (stem -> group) into training and scored ones by their groups' names alone."""
    order = sorted(set(stems.values()), key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    scored = set(order[: max(1, round(SCORED_SHARE * len(order)))])
    members = {group: [stem for stem in stems if stems[stem] == group] for group in order}
    return {
        "train.txt": [stem for group in order if group not in scored for stem in members[group]],
        "val.txt": [stem for group in order if group in scored for stem in members[group]],
    }


def table_lines(recipe: str, results: Results, sam: str) -> list[Line]:
    """Turn one comparison into the table's lines."""
    rows = {(row.method, row.sam): row for row in results.rows}
    lines = []
    for method, name in ROWS:
        row = rows.get((method, name or sam))
        if row is None:
            continue
        gain = None if method == "supervised" else gain_over_supervised(results, row)
        lines.append(Line(
            recipe, method, row.sam, results.cases, f"{len(row.done)} of {len(row.seeds)}",
            spread_text(row.scores["dice"].get("mean"), "dice"), difference_text(gain, "dice"),
        ))  # fmt: skip
    return lines


def gain_over_supervised(results: Results, row: Row) -> Interval | None:
    """Dice of a row minus that of supervised training, paired by seed and case; the interval is over groups."""
    by_row: list[dict[int, dict[str, float]]] = []
    group_of: dict[str, str] = {}
    for method, sam in ((row.method, row.sam), ("supervised", "none")):
        values: dict[int, dict[str, float]] = {}
        for cell in results.grid.cells:
            outcome = Outcome.read(results.folder.cell(cell))
            if (cell.method, cell.sam) == (method, sam) and outcome is not None and outcome.status == "done":
                scores = read_scores(results.folder.cell(cell) / SCORES_FILE)
                values[cell.seed] = {case: case_value(of_case, "dice") for case, of_case in scores.items()}
                group_of |= outcome.groups
        by_row.append(values)
    found = paired_differences(*by_row)
    if not found.by_case:
        return None
    return bootstrap_interval(list(found.by_case.values()), [group_of.get(case, case) for case in found.by_case])


def write_table(path: Path, lines: list[Line], scale: str, overrides: list[str]) -> None:
    """Write the table as Markdown."""
    rows = "\n".join(
        f"| {line.recipe} | {line.method} | {line.sam.replace('none', '')} | {line.done} | {line.cases} | {line.dice} |"
        f" {line.gain} |"
        for line in lines
    )
    extra = f" with {' '.join(overrides)}" if overrides else ""
    path.write_text(
        f"Scale `{scale}`{extra}. Dice of the scored part, mean and standard deviation over seeds; the best checkpoint"
        " is chosen on the same images, for every row alike. Gain: Dice above supervised training, paired by seed and"
        " case, with a 95 % interval over groups (patients, videos, images).\n\n"
        "| recipe | method | SAM | seeds done | images or volumes scored | Dice | gain |\n"
        "|---|---|---|--:|--:|--:|--:|\n"
        f"{rows}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()

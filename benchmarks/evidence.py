"""What methods and teachers are worth, set by set: one table of Dice, paired with supervised training.

    python benchmarks/evidence.py cardiac-3 --data ROOT --out DIR  # one task: a night of two cores
    python benchmarks/evidence.py cardiac-3,skin --data ROOT --out DIR --scale gpu --jobs 4
    python benchmarks/evidence.py recipes --data ROOT --out DIR --scale paper --seeds 0,1,2 --rows knowsam,knowsam+vit_b

ROOT holds a folder for each public set, named as in `TASKS`, each with images/ and masks/ (and unlabelled/). Stop it
whenever you like and repeat the command: what is done is not done again, rows and seeds may be added. A fifth of the
groups (videos, cases, patients, images) is scored, once, and nothing is chosen on it; a tenth of the others is the
validation on which the best network is chosen.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from knowsam.comparison.grid import short_name
from knowsam.comparison.loop import compare
from knowsam.comparison.outcome import Outcome
from knowsam.comparison.output import write_tables
from knowsam.comparison.results import Results
from knowsam.comparison.scores import SCORES_FILE, case_value, read_scores
from knowsam.comparison.statistics import Interval, bootstrap_interval, over_seeds, paired_differences
from knowsam.comparison.tables import difference_text, spread_text
from knowsam.config import load_recipe, merge_layers, parse_overrides, recipe_names
from knowsam.errors import InputError
from knowsam.plugins import absolute
from knowsam.sam.loading.build import settled_name


class Task(NamedTuple):
    """Folders below ROOT that are put together, and how many of the training groups are labelled: a number or share."""

    sets: tuple[str, ...]
    labelled: int | str


TASKS = {
    "colonoscopy": Task(("kvasir", "clinicdb"), "10%"),
    "thyroid": Task(("ddti",), "10%"),
    "skin": Task(("ph2",), "10%"),
    "cardiac": Task(("acdc",), "10%"),
    "histology": Task(("glas",), "10%"),
    "cardiac-3": Task(("acdc",), 3),
    "blood": Task(("wbc",), "5%"),
    "nuclei": Task(("dsb2018",), "5%"),
    "breast": Task(("busi",), "100%"),
    "brain": Task(("hippocampus",), 10),
}
"""The first five are the paper's, with a recipe each; of `breast` all masks are used, beside images without any."""
ROWS = (
    "supervised,knowsam,knowsam+tiny,knowsam+lite_medsam,cps,cps+lite_medsam,mean_teacher,mean_teacher+lite_medsam,"
    "unimatch,unimatch+lite_medsam"
)
SCALES: dict[str, dict[str, Any]] = {
    "night": {"data": {"size": 128}, "train": {"steps": 600, "batch": "4+4", "validate_every": 100}},
    "gpu": {"data": {"size": 128}, "train": {"steps": 5000, "batch": "12+12", "validate_every": 250}},
    "paper": {"data": {"size": 256}, "train": {"steps": 50000, "batch": "12+12"}},
}
SCORED_SHARE, VALIDATION_SHARE = 0.2, 0.1
"""Shares of the groups: of all for the score, of the rest for the validation."""
ALL = "all"
MASKS = ("masks", "labels")
"""What the folder of masks may be called."""
CLINICDB_STARTS = (1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384, 409, 429,
                   448, 467, 479, 504, 529, 547, 572, 592)  # fmt: skip
"""First frame of each of ClinicDB's 29 videos: frames of one video must not be on both sides of a split."""


class Line(NamedTuple):
    """One row of the table: Dice over seeds, and how far above supervised training it is."""

    task: str
    scored: str
    method: str
    sam: str
    cases: int
    done: str
    dice: str
    gain: str
    validation: str
    sam_validation: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", help=f"with commas, of {', '.join(TASKS)}; recipes: those with a recipe; all")
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or that of an earlier call")
    parser.add_argument("--scale", choices=tuple(SCALES), default="night", help="steps and batch (%(default)s)")
    parser.add_argument("--seeds", default="0", help="one run for each (%(default)s)")
    parser.add_argument("--rows", default=ROWS, help="METHOD or METHOD+SAM, with commas (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (%(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs, e.g. train.amp=bf16")
    given = parser.parse_intermixed_args()
    try:
        complete = run_all(
            given.data, given.out, task_names(given.tasks), given.scale, [int(seed) for seed in given.seeds.split(",")],
            parse_rows(given.rows), given.overrides, given.jobs,
        )  # fmt: skip
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if complete else 1)


def task_names(text: str) -> list[str]:
    """Read `"skin,nuclei"`, `"recipes"` or `"all"`."""
    groups = {"all": list(TASKS), "recipes": [task for task in TASKS if task in recipe_names()]}
    names = groups.get(text, text.split(","))
    for name in names:
        if name not in TASKS:
            raise InputError(f"tasks: '{name}' was found, but expected some of {', '.join(TASKS)}; correct it.")
    return names


def parse_rows(text: str) -> list[tuple[str, str]]:
    """`"supervised,knowsam+tiny"` -> method and SAM of every row, supervised training first."""
    parts = [row.partition("+") for row in text.split(",")]
    rows = [(absolute(method), settled_name(sam or "none")) for method, _, sam in parts]
    return [("supervised", "none"), *(row for row in dict.fromkeys(rows) if row != ("supervised", "none"))]


def run_all(
    data: Path,
    out: Path,
    tasks: Sequence[str],
    scale: str,
    seeds: Sequence[int],
    rows: Sequence[tuple[str, str]],
    overrides: Sequence[str] = (),
    jobs: int = 1,
) -> bool:
    """Run every task and write `evidence.md`; returns whether nothing is left to do."""
    console = Console(highlight=False, soft_wrap=True)
    for task in tasks:  # a missing folder is said before anything is trained
        prepare(task, data, out / "data" / TASKS[task].sets[0])
    lines: list[Line] = []
    for number, task in enumerate(tasks, start=1):
        console.print(f"\n[bold]Task {number} of {len(tasks)}: {task}[/bold]")
        results = compare_rows(task, out, scale, seeds, rows, overrides, jobs)
        write_tables(results)
        lines += table_lines(task, results, rows)
        write_table(out / "evidence.md", lines, scale, overrides)
        for cell, reason in results.failed.items():
            console.print(f"{cell}: {reason}")
        if results.interrupted:
            break
    console.print(f"\n{(out / 'evidence.md').read_text()}\nWritten: {out / 'evidence.md'}")
    done = [line for line in lines if line.scored == ALL and line.done == f"{len(seeds)} of {len(seeds)}"]
    return len(done) == len(tasks) * len(rows)


def compare_rows(
    task: str,
    out: Path,
    scale: str,
    seeds: Sequence[int],
    rows: Sequence[tuple[str, str]],
    overrides: Sequence[str],
    jobs: int,
) -> Results:
    """Train and score all rows of one task in one comparison folder."""
    layer = load_recipe(task) if task in recipe_names() else {}
    settings = merge_layers(layer, SCALES[scale], parse_overrides(list(overrides)))
    settings.get("data", {}).pop("labelled", None)
    folder, into = out / "data" / TASKS[task].sets[0], out / scale / task
    for sam in dict.fromkeys(sam for _, sam in rows):
        methods = [method for method, of_row in rows if of_row == sam]
        results = compare(folder, into, methods, [sam], [TASKS[task].labelled], seeds, settings, jobs=jobs)
        if results.interrupted:
            break
    return results


def prepare(task: str, root: Path, folder: Path) -> None:
    """Put the sets of a task into one data folder with a split that no seed changes.

    A set's own lists are kept: its `val.txt` is scored, its `train.txt` trains. Otherwise the groups are put in an
    order that depends on their names alone and the first ones are scored; the next ones are the validation.
    """
    if (folder / "test.txt").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    sets = TASKS[task].sets
    stems: dict[str, str] = {}
    scored: set[str] = set()
    listed: list[str] = []
    for name in sets:
        source, prefix = root / name, f"{name}_" if len(sets) > 1 else ""
        if not (source / "images").is_dir() or not any((source / part).is_dir() for part in MASKS):
            raise InputError(f"{source}: no images/ and masks/ were found, but task {task} needs them; add them.")
        for part in ("images", *MASKS, "unlabelled"):
            if (source / part).is_dir():
                (folder / part).mkdir(parents=True, exist_ok=True)
                for file in sorted((source / part).iterdir()):
                    shutil.copyfile(file, folder / part / f"{prefix}{file.name}")
        groups = read_groups(source)
        for file in sorted((source / "images").iterdir()):
            group = clinicdb_video(file.stem) if name == "clinicdb" else groups.get(file.stem, file.stem)
            stems[f"{prefix}{file.stem}"] = f"{prefix}{group}"
        listed += [f"{prefix}{stem}" for stem in read_lines(source / "train.txt")]
        scored |= {stems[f"{prefix}{stem}"] for stem in read_lines(source / "val.txt")}
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("stem", "group"), *stems.items()])
    in_order = {stem: stems[stem] for stem in dict.fromkeys([*listed, *stems])}
    for list_name, members in draw_lists(in_order, scored).items():  # test.txt last: it says that the folder is whole
        (folder / list_name).write_text("\n".join(members) + "\n")


def read_lines(path: Path) -> list[str]:
    """The stems of a list; none where there is no list."""
    return path.read_text().split() if path.is_file() else []


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


def draw_lists(stems: dict[str, str], scored: set[str]) -> dict[str, list[str]]:
    """Divide stems (stem -> group) into training, validation and scored ones.

    Where the scored groups are given, the training keeps its order and its last groups validate; else the groups' names
    alone decide.
    """
    order = list(dict.fromkeys(stems.values()))
    if scored:
        rest = [group for group in order if group not in scored][::-1]
    else:
        order.sort(key=lambda group: hashlib.sha256(group.encode()).hexdigest())
        count = max(1, round(SCORED_SHARE * len(order)))
        scored, rest = set(order[:count]), order[count:]
    validation = set(rest[: max(1, round(VALIDATION_SHARE * len(rest)))])
    parts = {"train.txt": set(rest) - validation, "val.txt": validation, "test.txt": scored}
    return {
        name: [stem for group in order if group in part for stem in stems if stems[stem] == group]
        for name, part in parts.items()
    }


def table_lines(task: str, results: Results, rows: Sequence[tuple[str, str]]) -> list[Line]:
    """Turn one comparison into the table's lines: all scored images, and where several sets were joined, each set."""
    found = {(row.method, row.sam): row for row in results.rows}
    sets = TASKS[task].sets
    lines = []
    for method, sam in rows:
        row = found.get((method, sam))
        if row is None:
            continue
        for part in ("", *(sets if len(sets) > 1 else ())):
            prefix = f"{part}_" if part else ""
            by_seed, _ = case_dice(results, method, sam, prefix)
            means = [sum(cases.values()) / max(1, len(cases)) for cases in by_seed.values()]
            baseline = (method, sam) == ("supervised", "none")
            gain = None if baseline else gain_over_supervised(results, method, sam, prefix)
            lines.append(Line(
                task, part or ALL, short_name(method), short_name(sam),
                cases=max(map(len, by_seed.values()), default=0),
                done=f"{len(row.done)} of {len(row.seeds)}",
                dice=spread_text(over_seeds(means), "dice"),
                gain=difference_text(gain, "dice"),
                validation="" if part else spread_text(row.validation_dice, "dice"),
                sam_validation="" if sam == "none" or part else spread_text(row.sam_last, "dice"),
            ))  # fmt: skip
    return lines


def case_dice(
    results: Results, method: str, sam: str, prefix: str
) -> tuple[dict[int, dict[str, float]], dict[str, str]]:
    """Seed -> case -> Dice of a row's finished runs, and case -> group; of the cases that begin with `prefix`."""
    by_seed: dict[int, dict[str, float]] = {}
    group_of: dict[str, str] = {}
    for cell in results.grid.cells:
        outcome = Outcome.read(results.folder.cell(cell))
        if (cell.method, cell.sam) == (method, sam) and outcome is not None and outcome.status == "done":
            scores = read_scores(results.folder.cell(cell) / SCORES_FILE)
            by_seed[cell.seed] = {
                case: case_value(of_case, "dice") for case, of_case in scores.items() if case.startswith(prefix)
            }
            group_of |= outcome.groups
    return by_seed, group_of


def gain_over_supervised(results: Results, method: str, sam: str, prefix: str) -> Interval | None:
    """Dice of a row minus that of supervised training, paired by seed and case; the interval is over groups."""
    own, group_of = case_dice(results, method, sam, prefix)
    found = paired_differences(own, case_dice(results, "supervised", "none", prefix)[0])
    if not found.by_case:
        return None
    return bootstrap_interval(list(found.by_case.values()), [group_of.get(case, case) for case in found.by_case])


def write_table(path: Path, lines: list[Line], scale: str, overrides: Sequence[str]) -> None:
    """Write the table as Markdown."""
    rows = "\n".join(f"| {' | '.join('' if value == 'none' else str(value) for value in line)} |" for line in lines)
    extra = f" with {' '.join(overrides)}" if overrides else ""
    path.write_text(
        f"Scale `{scale}`{extra}. Dice of the scored images, mean and standard deviation over seeds; the network was"
        " chosen on other images. Gain: Dice above supervised training, paired by seed and case, with a 95 % interval"
        " over groups (patients, videos, images). Validation: Dice of the network kept on the images that chose it, and"
        " SAM's own there at the end.\n\n"
        "| task | scored | method | SAM | images or volumes | seeds done | Dice | gain | validation | SAM's own |\n"
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|\n"
        f"{rows}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()

"""Does `knowsam suggest` beat chance? A simulation on a data folder whose masks are all there.

Start with some labelled groups (patients), drawn at random. In each round every rule names the groups to label next, a
new network is trained from scratch on all labelled so far, and its validation Dice is kept. Rules share the first
network of a seed. Stopped at any moment, the same command continues where it was.

    python benchmarks/suggest.py DATA --out simulation
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from knowsam.config import parse_overrides, resolve_config
from knowsam.data.folder import DataFolder, scan_folder
from knowsam.data.split import make_split
from knowsam.inference.predictor import Predictor
from knowsam.reliability.of_run import calibrate_run
from knowsam.reliability.suggest import suggest
from knowsam.runs.checkpoint import load_checkpoint
from knowsam.runs.folder import RunFolder
from knowsam.runs.result import Run
from knowsam.storage import write_json, write_text
from knowsam.training.run import resume, train

RULES = {"suggest": "both", "uncertainty": "uncertainty", "diversity": "diversity", "random": None}
RESULT = "simulated.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="data folder with a mask for every training image")
    parser.add_argument("overrides", nargs="*", help="settings as key=value, e.g. sam=none train.lr=0.001")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=["suggest", "random"])
    parser.add_argument("--start", type=int, default=2, help="labelled groups at the start (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--add", type=int, default=1, help="groups added per round (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--method", default="supervised")
    parser.add_argument("--size", default="96")
    parser.add_argument("--steps", type=int, default=600, help="of each training (%(default)s)")
    parser.add_argument("--batch", default="4+4")
    arguments = parser.parse_args()
    simulate(arguments)


def simulate(arguments: argparse.Namespace) -> dict[str, list[list[float]]]:
    """All seeds, rules and rounds; returns `{rule: [[Dice of each round] of each seed]}`."""
    console = Console(highlight=False)
    folder = scan_folder(arguments.data)
    groups = training_groups(folder)
    scores: dict[str, list[list[float]]] = {rule: [] for rule in arguments.rules}
    for seed in range(arguments.seeds):
        start = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))[: arguments.start]]
        first = run_round(arguments, seed, "start", start)
        for rule in arguments.rules:
            labelled, runs = list(start), [first]
            for number in range(1, arguments.rounds + 1):
                labelled += next_groups(arguments, rule, seed, runs[-1], labelled, groups)
                runs.append(run_round(arguments, seed, f"{rule}_{number}", labelled))
            scores[rule].append([run["dice"] for run in runs])
            dice = ", ".join(f"{value:.3f}" for value in scores[rule][-1])
            console.print(f"seed {seed}, {rule}: Dice {dice}; labelled {', '.join(labelled)}")
            write_json(arguments.out / "results.json", {"settings": settings(arguments), "dice": scores})
    console.print(table(scores, arguments))
    return scores


def training_groups(folder: DataFolder) -> list[str]:
    """The groups a simulation may label, in the order of the training list."""
    split = make_split(folder)
    return list(dict.fromkeys(folder.cases[stem].group for stem in split.labelled))


def next_groups(
    arguments: argparse.Namespace, rule: str, seed: int, last: dict, labelled: list[str], groups: list[str]
) -> list[str]:
    """The groups that a rule adds to the labelled ones."""
    if RULES[rule] is None:
        order = np.random.default_rng([seed, 1]).permutation(len(groups))
        return [groups[i] for i in order if groups[i] not in labelled][: arguments.add]
    key = f"next_by_{rule}"
    if key not in last:  # asked once: an answer takes a pass over all unlabelled images
        chosen = suggest(Predictor(last["run"]), arguments.data, arguments.add, RULES[rule])
        last[key] = [item.candidate.cases[0].group for item in chosen]
        last["reasons"] = [item.reason for item in chosen]
        write_json(Path(last["run"]) / RESULT, last)
    return last[key]


def run_round(arguments: argparse.Namespace, seed: int, name: str, labelled: list[str]) -> dict:
    """Train on these groups, or take the result of an earlier call; continue a training that was cut off."""
    out = arguments.out / f"seed_{seed}" / name
    if (out / RESULT).exists():
        return json.loads((out / RESULT).read_text(encoding="utf-8"))
    names = arguments.out / f"seed_{seed}" / f"{name}.txt"
    write_text(names, "".join(f"{group}\n" for group in labelled))
    if (out / "checkpoint.pt").exists():
        if load_checkpoint(out / "checkpoint.pt")["step"] < arguments.steps:
            stop_unless_finished(resume(out, quiet=True))
    else:
        shutil.rmtree(out, ignore_errors=True)  # a training that was cut off before its first checkpoint
        values = {
            "method": arguments.method, "sam": "none",
            "data": {"path": str(arguments.data), "size": arguments.size, "labelled": str(names.resolve())},
            "train": {"steps": arguments.steps, "batch": arguments.batch, "seed": seed},
        }  # fmt: skip
        stop_unless_finished(train(resolve_config(values, parse_overrides(arguments.overrides)), out, quiet=True))
    if not RunFolder(out).calibration.exists():  # cut off between the last step and the end
        calibrate_run(out)
    record = {"run": str(out), "labelled": labelled, "dice": best_dice(out)}
    write_json(out / RESULT, record)
    return record


def stop_unless_finished(result: Run) -> None:
    """After Ctrl-C the run is saved; the same command continues it."""
    if not result.finished:
        raise SystemExit(130)


def best_dice(out: Path) -> float:
    """Validation Dice of the student that was kept, mean over classes and volumes."""
    validations = [line["validation"] for line in RunFolder(out).read_metrics() if "validation" in line]
    return max(next(iter(scores.values()))["dice"] for scores in validations)


def settings(arguments: argparse.Namespace) -> dict:
    """What was asked for, as plain values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}


def table(scores: dict[str, list[list[float]]], arguments: argparse.Namespace) -> Table:
    """Mean and standard deviation over the seeds, one row per rule, one column per round."""
    result = Table(title=f"Validation Dice, mean ± sd over {arguments.seeds} seeds")
    result.add_column("rule")
    for number in range(arguments.rounds + 1):
        result.add_column(f"{arguments.start + number * arguments.add} groups", justify="right")
    for rule, by_seed in scores.items():
        mean, spread = np.mean(by_seed, axis=0), np.std(by_seed, axis=0)
        result.add_row(rule, *(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)))
    return result


if __name__ == "__main__":
    main()

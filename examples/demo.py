"""Annotate one scan, get the others: KnowSAM against supervised training on real brain MRI.

The data lie beside this file (`data/hippocampus`, 43 small volumes), so nothing is downloaded. Of 23 volumes one has a
mask, which one depends on the seed; 20 others, which neither method sees while it trains, are predicted and scored once
at the end. Both methods get the same masks, steps and batch, and their default settings.

    python examples/demo.py demo-run
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import knowsam  # before torch: its threads are then told not to spin while they wait, see knowsam.runs.waiting

# isort: split
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.ndimage import zoom

from knowsam.data.preprocess import to_unit_range
from knowsam.evaluation.result import EvaluationResult
from knowsam.inference.files import predict_files
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image, read_label
from knowsam.presentation.orientation import view_of
from knowsam.presentation.pictures import contact_sheet, overlay, write_png
from knowsam.presentation.text import count_text
from knowsam.types import MedicalImage

DATA = Path(__file__).resolve().parent / "data" / "hippocampus"
STEPS = 800
"""Training steps of each method."""
SIZE = "48"
"""Height and width the networks work at, in pixels; a slice has about 35 x 50."""
BATCH = "4+4"
"""Labelled + unlabelled slices per step; the supervised baseline gets as many in all, all of them labelled."""
LABELLED = 1
CLASSES = ["background", "anterior", "posterior"]
METHODS = {"supervised": ("none", "supervised"), "knowsam": ("tiny", "KnowSAM")}
"""Method -> its SAM, its name in the table."""
STAGES = ("Copying the data", "Training supervised", "Training knowsam", "Predicting and scoring", "Drawing")
ENLARGED = 5
"""Pixels of the picture per voxel."""
MARKER = ".knowsam-demo"
DATA_SOURCE = (
    "Medical Segmentation Decathlon, Task04 Hippocampus (Antonelli et al. 2022, Simpson et al. 2019; Vanderbilt"
    " University Medical Center), CC BY-SA 4.0; a part, files unchanged."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the demo; what an earlier demo left there is replaced")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each method (%(default)s)")
    parser.add_argument("--size", default=SIZE, help="network size in pixels, HxW (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random, the labelled volumes among it")
    arguments = parser.parse_args()
    run_demo(arguments.out, arguments.steps, arguments.size, arguments.seed)


def run_demo(out: Path, steps: int = STEPS, size: str = SIZE, seed: int = 0) -> dict[str, EvaluationResult]:
    """Do everything; returns method -> its scores on the volumes that no training saw."""
    started = time.perf_counter()
    console = Console(highlight=False, soft_wrap=True)
    start_over(out)
    console.print(
        f"\n[bold]Annotate {count_text(LABELLED, 'scan')}, get the others[/bold]: the hippocampus in brain MRI"
    )
    announce(console, 0)
    labelled, unlabelled, scored = write_data(out, seed)
    console.print(
        f"{labelled + unlabelled} volumes to train on, {labelled} with a mask; {scored} others to be scored."
        f" Each method trains {steps} steps of {BATCH} slices."
    )

    minutes: dict[str, float] = {}
    for stage, (method, (sam, _)) in enumerate(METHODS.items(), start=1):
        announce(console, stage)
        begun = time.perf_counter()
        # Both get the same data, size, steps and seed; everything else is the default. All masks train: no validation
        # set, the last weights are kept.
        run = knowsam.train(
            out / "data", out / "runs" / method, method=method, sam=sam, size=size, steps=steps, batch=BATCH, seed=seed,
            settings={"data.classes": CLASSES, "data.val_fraction": 0, "train.checkpoint_every": steps},
        )  # fmt: skip
        if not run.finished:
            sys.exit(130)
        minutes[method] = (time.perf_counter() - begun) / 60

    announce(console, 3)
    scores = {}
    for method in METHODS:
        files = predict_files(Predictor(out / "runs" / method), out / "new", out / "predictions" / method)
        for item in track(files, method, total=scored, console=console):
            assert item.error is None, item.error
        scores[method] = knowsam.evaluate(
            out / "predictions" / method, out / "truth", out / "scores" / method, classes=CLASSES
        )
    announce(console, 4)
    picture = draw(out, scores)

    console.print(table(scores, minutes))
    better = sum(
        knowsam > supervised
        for supervised, knowsam in zip(*(case_dice(scores[method]) for method in METHODS), strict=True)
    )
    gain = 100 * (mean_dice(scores["knowsam"]) - mean_dice(scores["supervised"]))
    verdict = f"KnowSAM minus supervised: {gain:+.1f} Dice points; better on {better} of {scored} volumes."
    minutes["all"] = (time.perf_counter() - started) / 60
    write_report(out, scores, verdict, {"steps": steps, "size": size, "seed": seed}, minutes)
    console.print(
        f"[bold]{verdict}[/bold]\n\nDone in {minutes['all']:.1f} minutes. Where to look:\n"
        f"  {picture}   image, truth, supervised, KnowSAM side by side\n"
        f"  {out / 'report.md'}      this table, and what was done\n"
        f"  {out / 'runs' / 'knowsam' / 'report.html'}   the training of KnowSAM as a page for the browser\n"
        f"  {out / 'predictions' / 'knowsam'}   {scored} segmented volumes, for any NIfTI viewer\n"
        "Next, your own images (DATA/images, DATA/masks):\n"
        "  knowsam check DATA\n"
        "  knowsam train DATA --out runs/a"
    )
    return scores


def announce(console: Console, stage: int) -> None:
    """Say which stage begins and what comes after it."""
    rest = ", ".join(name.lower() for name in STAGES[stage + 1 :])
    after = f" [dim](then: {rest})[/dim]" if rest else ""
    console.print(f"\n[bold]{stage + 1} of {len(STAGES)}: {STAGES[stage]}[/bold]{after}")


def start_over(out: Path) -> None:
    """Empty the folder, but only if an earlier demo made it."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        sys.exit(f"{out}: files of something else were found, but expected a folder for the demo alone; name another.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).write_text("Made by examples/demo.py, which replaces this folder when it runs again.\n")


def write_data(out: Path, seed: int) -> tuple[int, int, int]:
    """Copy the volumes to where training and prediction look for them, the truth of the scored ones apart.

    Returns:
        Number of labelled, unlabelled and scored volumes.
    """
    with (DATA / "parts.csv").open(newline="") as file:
        parts = {row["file"]: row["part"] for row in csv.DictReader(file)}
    training, scored = ([name for name in parts if parts[name] == part] for part in ("train", "score"))
    labelled = [training[index] for index in np.random.default_rng(seed).permutation(len(training))[:LABELLED]]
    for source, names, target in (
        ("images", training, "data/images"), ("labels", labelled, "data/masks"),
        ("images", scored, "new"), ("labels", scored, "truth"),
    ):  # fmt: skip
        (out / target).mkdir(parents=True)
        for name in names:
            shutil.copyfile(DATA / source / name, out / target / name)
    return len(labelled), len(training) - len(labelled), len(scored)


def case_dice(result: EvaluationResult) -> list[float]:
    """Mean over the classes, of every case."""
    return [float(np.mean([score["dice"] for score in case.scores])) for case in result.cases]


def mean_dice(result: EvaluationResult) -> float:
    """Mean over classes and cases."""
    return float(np.mean(case_dice(result)))


def class_values(result: EvaluationResult) -> list[float]:
    """Dice of each class, mean over cases, and over classes."""
    return [*(entry["dice"].mean for entry in result.summary.classes), mean_dice(result)]


def table(scores: dict[str, EvaluationResult], minutes: dict[str, float]) -> Table:
    """The scores as a table for the screen."""
    cases = len(scores["knowsam"].cases)
    result = Table(title=f"\nDice on {cases} volumes that no training saw", title_justify="left")
    result.add_column("method")
    for heading in (*CLASSES[1:], "mean", "training"):
        result.add_column(heading, justify="right")
    best = max(scores, key=lambda method: mean_dice(scores[method]))
    for method, scored in scores.items():
        values = [f"{value:.3f}" for value in class_values(scored)]
        result.add_row(
            METHODS[method][1], *values, f"{minutes[method]:.1f} min", style="bold" if method == best else ""
        )
    return result


def draw(out: Path, scores: dict[str, EvaluationResult]) -> Path:
    """Draw four volumes, evenly spread over the baseline's Dice: the slice with most hippocampus of each."""
    supervised = np.array(case_dice(scores["supervised"]))
    order = np.argsort(supervised)
    rows = []
    for place in (0.125, 0.375, 0.625, 0.875):
        name = f"{scores['supervised'].cases[order[int(place * len(order))]].case}.nii.gz"
        image = read_image(out / "new" / name)
        folders = ("truth", *(f"predictions/{method}" for method in METHODS))
        rows.append(drawn_row(image, [read_label(out / folder / name).array for folder in folders]))
    captions = ["image", "truth"] + [
        f"{METHODS[method][1]}: Dice {mean_dice(scores[method]):.3f}" for method in METHODS
    ]
    return write_png(out / "overlays.png", contact_sheet(rows, captions))


def drawn_row(image: MedicalImage, volumes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Draw the axial slice with most of the first label map: the image alone, then each label map over it."""
    z = int((volumes[0] > 0).sum(axis=(0, 1)).argmax())
    view = view_of(image, 2)
    grey = view.turn(to_unit_range(image)[:, :, z, 0])
    large = zoom(grey, ENLARGED, order=3, mode="nearest").clip(0, 1)[..., None]
    maps = [np.kron(view.turn(volume[:, :, z]), np.ones((ENLARGED, ENLARGED), int)) for volume in volumes]
    return [overlay(large, label) for label in (np.zeros(large.shape[:2], int), *maps)]


def write_report(
    out: Path,
    scores: dict[str, EvaluationResult],
    verdict: str,
    settings: dict[str, object],
    minutes: dict[str, float],
) -> None:
    """`report.md` for a person, `summary.json` for a program."""
    dice = {method: class_values(result) for method, result in scores.items()}
    rounded = {name: round(value, 2) for name, value in minutes.items()}
    summary = {"dice": dice, "columns": [*CLASSES[1:], "mean"], **settings, "batch": BATCH, "labelled": LABELLED,
               "minutes": rounded, "threads": torch.get_num_threads()}  # fmt: skip
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    rows = "\n".join(
        f"| {METHODS[method][1]} | {' | '.join(f'{value:.3f}' for value in values)} | {minutes[method]:.1f} min |"
        for method, values in dice.items()
    )
    (out / "report.md").write_text(
        f"""# Annotate {count_text(LABELLED, "scan")}, get the others

![image, truth, supervised, KnowSAM](overlays.png)

Dice on {len(scores["knowsam"].cases)} volumes that neither training saw, mean over volumes:

| method | {" | ".join((*CLASSES[1:], "mean"))} | training |
|---|---|---|---|---|
{rows}

{verdict}

- Each method: {settings["steps"]} steps at {settings["size"]} px, batch {BATCH}, seed {settings["seed"]}, default
  settings, no validation set: the last weights are scored, once. The supervised baseline sees eight annotated slices in
  every step; KnowSAM only while it pre-trains, then four annotated and four others.
- SAM is the bundled `tiny` one, pretrained on drawn images and trained along; after training nothing needs it.
- `overlays.png` shows four volumes, evenly spread over the baseline's Dice; orange anterior, blue posterior.
- `runs/` holds both runs, `predictions/` the predicted volumes, `truth/` what they were compared with, `scores/` every
  volume's scores.

Data: {DATA_SOURCE}
"""
    )


if __name__ == "__main__":
    main()

"""Annotate six slices, get the volume: KnowSAM against supervised training on a real brain MRI.

The data come inside nilearn's wheel, so nothing is downloaded: the ICBM152 T1 template and its maps of grey and white
matter. 140 axial slices become PNG files, six of them get a mask, the truth of the others is kept apart for scoring.
Both methods train on the same six masks for the same number of steps; neither ever sees a score before the end.

    python examples/mri_demo.py demo-run
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from rich.console import Console
from rich.table import Table

import knowsam
from knowsam.data.preprocess import to_unit_range
from knowsam.evaluation.metrics import confusion_counts, dice_from_counts
from knowsam.functional.probabilities import probabilities_at
from knowsam.inference.forward import predict_all
from knowsam.io import read_image, read_label
from knowsam.presentation.pictures import contact_sheet, overlay, write_png
from knowsam.training.state import load_trained_method

STEPS = 200
"""Training steps of each method."""
SIZE = "96x80"
"""Height and width the networks work at: half the slices' own size, so a pixel is 2 mm."""
BATCH = "4+4"
"""Labelled + unlabelled slices per step; the supervised baseline gets as many in all, all of them labelled."""
LABELLED = 6
SLICES = 140
CLASSES = ["other", "grey matter", "white matter"]
# Voxels of 1 mm around the head: 160 x 192 in the plane, and the slices that show brain.
BOX = (slice(18, 178), slice(21, 213), slice(8, 148))
NAMES = {"student": "supervised (U-Net)", "unet": "KnowSAM: U-Net", "vnet": "KnowSAM: V-Net",
         "fused": "KnowSAM: fused", "sam": "KnowSAM: SAM teacher"}  # fmt: skip
KEPT = {"supervised": "student", "knowsam": "fused"}
"""Method -> the prediction that `knowsam predict` makes from its run."""
MARKER = ".knowsam-demo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the demo; what an earlier demo left there is replaced")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each method (%(default)s)")
    parser.add_argument("--size", default=SIZE, help="network size in pixels, HxW (%(default)s)")
    parser.add_argument("--slices", type=int, default=SLICES, help="slices cut from the volume (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run_demo(arguments.out, arguments.steps, arguments.size, arguments.slices, arguments.seed)


def run_demo(out: Path, steps: int = STEPS, size: str = SIZE, slices: int = SLICES, seed: int = 0) -> dict[str, dict]:
    """The whole demo; returns `{prediction: {class name: Dice}}`."""
    started = time.perf_counter()
    console = Console(highlight=False, soft_wrap=True)
    start_over(out)
    affine = write_data(out, slices)
    console.print(
        f"\n[bold]Annotate {LABELLED} slices, get the volume[/bold]\n{slices} slices of a brain MRI, {LABELLED} of them"
        f" with a mask; {steps} steps for each method."
    )

    minutes: dict[str, float] = {}
    for method, sam in (("supervised", "none"), ("knowsam", "tiny")):
        console.print(f"\n[bold]Training {method}[/bold]")
        begun = time.perf_counter()
        # Both get the same data, size, steps and seed; everything else is the default. All six masks train: no
        # validation set, the last weights are kept.
        run = knowsam.train(
            out / "data", out / "runs" / method, method=method, sam=sam, size=size, steps=steps, batch=BATCH, seed=seed,
            settings={"data.classes": CLASSES, "data.val_fraction": 0, "train.checkpoint_every": steps},
        )  # fmt: skip
        if not run.finished:
            sys.exit(130)
        minutes[method] = round((time.perf_counter() - begun) / 60, 2)

    console.print("\n[bold]Predicting all slices[/bold]")
    for method in minutes:
        failed = knowsam.predict(out / "runs" / method, out / "data", out / "predictions" / method).failed
        assert not failed, failed
    write_volume(out / "knowsam_volume.nii.gz", out / "predictions" / "knowsam", affine)
    dice = score(out, "supervised") | score(out, "knowsam")
    picture = draw(out, dice)

    console.print(table(dice))
    minutes["all"] = round((time.perf_counter() - started) / 60, 2)
    write_report(out, dice, steps, size, seed, minutes)
    console.print(
        f"Done in {minutes['all']:.1f} minutes. Where to look:\n"
        f"  {picture}   image, truth, supervised, KnowSAM side by side\n"
        f"  {out / 'report.md'}      this table, and what was done\n"
        f"  {out / 'knowsam_volume.nii.gz'}  the segmented volume, for any NIfTI viewer\n"
        f"  {out / 'runs' / 'knowsam'}    the trained network: knowsam predict {out / 'runs' / 'knowsam'} IMAGES --out"
        " preds/"
    )
    return dice


def start_over(out: Path) -> None:
    """Empty the folder, but only if an earlier demo made it."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        sys.exit(f"{out}: files of something else were found, but expected a folder for the demo alone; name another.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).write_text("Made by examples/mri_demo.py, which replaces this folder when it runs again.\n")


def write_data(out: Path, slices: int) -> np.ndarray:
    """Slices, six masks, and the truth of all slices apart from them; returns the affine of the stacked slices."""
    template = load_mni152_template(resolution=1)
    t1, grey, white = (
        np.asarray(volume.dataobj, dtype=np.float32)[BOX]
        for volume in (template, load_mni152_gm_template(resolution=1), load_mni152_wm_template(resolution=1))
    )
    label = np.where(white > np.maximum(grey, 0.5), 2, np.where(grey > 0.5, 1, 0)).astype(np.uint8)
    step = t1.shape[2] // slices
    chosen = range(0, slices * step, step)
    # The middle of each of six equal parts of the volume.
    annotated = {round((part + 0.5) * slices / LABELLED) for part in range(LABELLED)}
    for number, z in enumerate(chosen):
        # "axial_012" is a group of its own; a name ending in "_slice_012" would say "part of one volume".
        name = f"axial_{number:03d}.png"
        write_grey(out / "data" / "images" / name, np.rint(255 * t1[:, :, z]).astype(np.uint8))
        write_grey(out / "truth" / name, label[:, :, z])
        if number in annotated:
            write_grey(out / "data" / "masks" / name, label[:, :, z])
    affine = np.array(template.affine) @ np.diag([1, 1, step, 1])
    affine[:3, 3] = nib.affines.apply_affine(template.affine, [part.start for part in BOX])
    return affine


def write_grey(path: Path, array: np.ndarray) -> None:
    """`(X, Y)` uint8 of the volume as a PNG with the nose up."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(np.rot90(array))).save(path)


def write_volume(path: Path, folder: Path, affine: np.ndarray) -> None:
    """The predicted slices as one NIfTI in the place of the template."""
    stack = np.stack([np.rot90(read_label(file).array, -1) for file in sorted(folder.glob("*.png"))], axis=-1)
    nib.save(nib.Nifti1Image(stack.astype(np.uint8), affine), path)


@torch.inference_mode()
def score(out: Path, method: str) -> dict[str, dict[str, float]]:
    """Dice of every prediction of a run on all slices without a mask, as one volume, at their own size."""
    trained, info = load_trained_method(out / "runs" / method)
    annotated = {path.name for path in (out / "data" / "masks").iterdir()}
    counts: dict[str, np.ndarray] = {}
    for path in sorted((out / "data" / "images").iterdir()):
        if path.name in annotated:
            continue
        truth = read_label(out / "truth" / path.name).array
        slices = info.preprocessing.slices(read_image(path))
        predictions = {
            name: probabilities_at(logits, truth.shape)[0].argmax(dim=0).numpy()
            for name, logits in predict_all(trained.student(), slices, trained.sam).items()
        }
        # Of the network that is kept the written mask counts: `predict` rounds otherwise, which may decide a tie.
        predictions[KEPT[method]] = read_label(out / "predictions" / method / path.name).array
        for name, predicted in predictions.items():
            counts[name] = counts.get(name, 0) + np.stack(confusion_counts(predicted, truth, len(CLASSES)))
    dice = {}
    for name in (name for name in NAMES if name in counts):
        grey, white = (float(value) for value in dice_from_counts(*counts[name])[1:])
        dice[NAMES[name]] = {CLASSES[1]: grey, CLASSES[2]: white, "mean": (grey + white) / 2}
    return dice


def table(dice: dict[str, dict[str, float]]) -> Table:
    """The scores as a table for the screen."""
    best = max(dice, key=lambda name: dice[name]["mean"])
    result = Table(title="\nDice on the slices without a mask, scored as one volume", title_justify="left")
    result.add_column("prediction")
    for heading in (*CLASSES[1:], "mean"):
        result.add_column(heading, justify="right")
    for name, values in dice.items():
        style = "bold" if name == best else None
        result.add_row(name, *(f"{value:.3f}" for value in values.values()), style=style)
    return result


def draw(out: Path, dice: dict[str, dict[str, float]]) -> Path:
    """Four slices without a mask: image, truth, supervised, KnowSAM."""
    names = sorted(path.name for path in (out / "truth").iterdir())
    annotated = {path.name for path in (out / "data" / "masks").iterdir()}
    rows = []
    for place in (0.25, 0.42, 0.62, 0.83):
        # The slice there that lies farthest from any mask: the next ones up to half a gap away.
        window = range(int(place * len(names)), min(int(place * len(names)) + len(names) // 12 + 1, len(names)))
        known = [names.index(name) for name in annotated]
        number = max(window, key=lambda i: min(abs(i - other) for other in known))
        name = names[number]
        image = to_unit_range(read_image(out / "data" / "images" / name))
        columns = [np.zeros(image.shape[:2], int)] + [
            read_label(out / folder / name).array
            for folder in ("truth", "predictions/supervised", "predictions/knowsam")
        ]
        rows.append([overlay(image, label) for label in columns])
    supervised, fused = dice[NAMES["student"]]["mean"], dice[NAMES["fused"]]["mean"]
    captions = ("image", "truth", f"supervised: Dice {supervised:.3f}", f"KnowSAM: Dice {fused:.3f}")
    return write_png(out / "overlays.png", contact_sheet(rows, captions))


def write_report(
    out: Path, dice: dict[str, dict[str, float]], steps: int, size: str, seed: int, minutes: dict[str, float]
) -> None:
    """`report.md` for a person, `summary.json` for a program."""
    summary = {"dice": dice, "steps": steps, "size": size, "batch": BATCH, "seed": seed, "labelled_slices": LABELLED,
               "minutes": minutes, "threads": torch.get_num_threads()}  # fmt: skip
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |" for name, values in dice.items()
    )
    number = len(list((out / "truth").iterdir()))
    (out / "report.md").write_text(
        f"""# Annotate {LABELLED} slices, get the volume

![image, truth, supervised, KnowSAM](overlays.png)

{number} axial slices of the ICBM152 T1 template, {LABELLED} of them with a mask (grey matter, white matter).
Dice on the other {number - LABELLED}, scored as one volume at their own size:

| prediction | {" | ".join((*CLASSES[1:], "mean"))} |
|---|---|---|---|
{rows}

- Each method: {steps} steps at {size} px, batch {BATCH}, seed {seed}, default settings, no validation set: the last
  weights are scored, once. The supervised baseline sees eight annotated slices in every step; KnowSAM only while it
  pre-trains, then four annotated and four others.
- SAM is the bundled `tiny` one, pretrained on drawn images and trained along; after training nothing needs it.
- Training took {minutes["supervised"]:.1f} (supervised) and {minutes["knowsam"]:.1f} (KnowSAM) minutes on
  {torch.get_num_threads()} threads, everything {minutes["all"]:.1f}.
- `knowsam_volume.nii.gz` is KnowSAM's prediction of all slices in the place of the template;
  `runs/` holds both runs, `predictions/` every predicted mask, `truth/` what they were compared with.

Data: ICBM 152 nonlinear template 2009a, McConnell Brain Imaging Centre, Montreal Neurological Institute, as distributed
with nilearn (Fonov et al. 2009 and 2011, Collins et al. 1999).
"""
    )


if __name__ == "__main__":
    main()

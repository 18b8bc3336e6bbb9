"""Commands that use what was trained, judge it, or show it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import knowsam
from knowsam.cli.app import (
    EXIT_BAD_INPUT,
    EXIT_FAILED_FILES,
    Amp,
    Classes,
    Device,
    IgnoreValue,
    Instances,
    Json,
    LabelValues,
    MaskThreshold,
    MovedData,
    Quiet,
    StrayShare,
    app,
)
from knowsam.cli.output import print_json, say_error
from knowsam.cli.values import parse_classes, parse_values
from knowsam.presentation.console import progress_bar, say


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, student.safetensors or exported model.onnx.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a volume, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw the masks over the images.")] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write the soft maps.")] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write entropy, disagreement and estimated Dice (cases.csv).")
    ] = False,
    only: Annotated[Path | None, typer.Option(help="Text file: predict only these stems, one a line.")] = None,
    mask_format: Annotated[
        str | None, typer.Option("--format", help="Masks of DICOM volumes: dicom (default, DICOM-SEG) or nifti.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also the images of subfolders, into subfolders of the same names.")
    ] = False,
    network: Annotated[str | None, typer.Option(help="distilled: the run's small network (knowsam distil).")] = None,
    device: Device = None,
    amp: Amp = "no",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict masks for new images, in their own size and geometry."""
    with progress_bar("predicting", quiet=quiet) as progress:
        done = knowsam.predict(
            run,
            source,
            out,
            overlay=overlay,
            probabilities=probabilities,
            uncertainty=uncertainty,
            only=only,
            recursive=recursive,
            network=network,
            device=device,
            amp=amp,
            mask_format=mask_format,  # type: ignore[arg-type]  # checked there
            progress=progress,
        )
    for note in () if quiet else done.notes:
        say(f"note: {note}", file=sys.stderr)
    if as_json:
        print_json(done.to_json())
    elif done.written and not quiet:
        say(f"{len(done.written)} predicted into {out}")
        if done.mask_values is not None:
            meanings = (f"{value} {name}" for value, name in zip(done.mask_values, done.class_names, strict=True))
            say(f"mask values as in the training masks: {', '.join(meanings)}")
        if done.basis is not None:
            from knowsam.reliability.cases import print_worst

            print_worst(done.cases, done.class_names, done.basis)
            say(f"all cases: {done.cases_file}")
    for warning in done.warnings:
        say(f"warning: {warning}", file=sys.stderr)
    for error in done.failed:
        say_error(error)
    if done.failed:
        raise typer.Exit(EXIT_FAILED_FILES if done.written else EXIT_BAD_INPUT)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder or student.safetensors.")],
    to: Annotated[Path, typer.Option(help="File to write: .onnx, or .pt2 for a torch.export program.")],
    network: Annotated[
        str | None, typer.Option(help="fused, unet or vnet, or distilled; by default what predict uses.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Verify on these images too: a file or a folder.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write the network as one file that predicts without knowsam, verified, with a model card beside it."""
    written = knowsam.export(run, to, network, images)
    if written.outdated is not None:
        say(f"warning: {written.outdated}.", file=sys.stderr)
    if not quiet:
        say(f"{written.path}: network {written.network}, {written.path.stat().st_size / 1e6:.1f} MB")
        say(str(written.verification))
        say(f"{written.card}: complete it where it says so")


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: MovedData = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn from a run's validation cases how good its predictions are; training does it at its end."""
    from knowsam.runs.folder import RunFolder

    basis, written = knowsam.calibrate(run, data, device), RunFolder(run).calibration
    if as_json:
        print(written.read_text(encoding="utf-8"), end="")
    elif not quiet:
        say(basis.sentence())
        say(f"written: {written}")


@app.command()
def suggest(
    run: Annotated[Path, typer.Argument(help="Run folder or student.safetensors.")],
    data: Annotated[Path, typer.Argument(help="The run's data folder, another one, or a folder of images.")],
    number: Annotated[int, typer.Option("-n", "--number", help="How many images or groups.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder for suggest.csv, suggest.json and pictures.")] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say which unlabelled images to label next: those the network is unsure of and that are unlike the labelled."""
    from knowsam.reliability.suggest_output import print_suggestions, to_records

    with progress_bar("reading", quiet=quiet) as progress:
        chosen = knowsam.suggest(run, data, number, out, device=device, progress=progress)
    if as_json:
        print_json(to_records(chosen))
    elif not quiet:
        print_suggestions(chosen)
        if out is not None:
            say(f"pictures and tables: {out}")


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks, or one file.")],
    truth: Annotated[Path, typer.Argument(help="Folder of true masks, or one file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for scores.csv and scores.json.")] = None,
    classes: Classes = None,
    label_values: LabelValues = None,
    ignore_value: IgnoreValue = None,
    mask_threshold: MaskThreshold = None,
    instances: Instances = False,
    stray_share: StrayShare = 0.0,
    hold: Annotated[
        str | None,
        typer.Option("--predictions", help="What the predictions hold: indices of classes, or values as the truth."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score predictions: Dice, Jaccard, HD95 and ASD per case and class, at native size, in mm where known."""
    from knowsam.evaluation.result import print_table, scores_json

    scores = knowsam.evaluate(
        predictions,
        truth,
        out,
        classes=parse_classes(classes),
        label_values=parse_values(label_values),
        ignore_value=ignore_value,
        mask_threshold=mask_threshold,
        instances=instances,
        stray_share=stray_share,
        predictions_hold=hold,
    )
    if as_json:
        print_json(scores_json(scores))
    elif not quiet:
        print_table(scores)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="File to write; by default RUN/report.html.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Supervised run to compare with; by default one found beside RUN.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained page about a run: scores, curves, cases, data, settings, what to do next."""
    with progress_bar("scoring", quiet=quiet) as progress:
        written = knowsam.report(run, out, baseline, progress=progress)
    if not quiet:
        say(f"written: {written.path}")
        if written.left_out is not None:
            say(f"note: without cases and data, which could not be read: {written.left_out}")

"""The command line: parse, call one function of the package, print, exit code.

Exit codes: 0 done; 1 done, but some inputs failed; 2 bad input or output, one sentence on stderr; 70 a mistake of this
package, with its traceback; 130 interrupted and saved; 141 nobody reads the output any more.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import knowsam
from knowsam.errors import InputError, os_error_sentence
from knowsam.presentation.console import escape_unprintable, progress_bar, say

app = typer.Typer(
    help="From a folder of medical images and a few masks to a small segmentation network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXIT_FAILED_FILES = 1
EXIT_BAD_INPUT = 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141  # 128 + SIGPIPE

Json = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no text; errors only.")]
Amp = Annotated[str, typer.Option(help="bf16, or no: bf16 is faster where the processor has it.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default a GPU where there is one.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
Size = Annotated[str | None, typer.Option(help="Network size in pixels: 256 or 192x256.")]
Batch = Annotated[str | None, typer.Option(help="Labelled + unlabelled images per step, e.g. 12+12.")]
Classes = Annotated[str | None, typer.Option(help="Number of classes, or their names: background,liver,...")]
LabelValues = Annotated[str | None, typer.Option(help="Mask values in the order of the classes: 0,85,170.")]
IgnoreValue = Annotated[int | None, typer.Option(help="Mask value of pixels nobody annotated.")]
MaskThreshold = Annotated[int | None, typer.Option(help="Two classes: mask values from this one on are the object.")]
Instances = Annotated[bool, typer.Option("--instances", help="Two classes: mask values number the objects.")]
StrayShare = Annotated[float, typer.Option(help="Share of a mask whose values are no class and take the nearest one.")]
GroupBy = Annotated[
    str | None, typer.Option(help="What a group is without groups.csv: name, or prefix (patient001_000).")
]
LABELLED_HELP = "Groups that stay labelled: N, a share, or a list file."
OUT_HELP = "Folder to write to."


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"knowsam {knowsam.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Folder with images/ and masks/ (or labels/).")],
    labelled: Annotated[str | None, typer.Option(help=LABELLED_HELP)] = None,
    classes: Classes = None,
    label_values: LabelValues = None,
    ignore_value: IgnoreValue = None,
    mask_threshold: MaskThreshold = None,
    instances: Instances = False,
    stray_share: StrayShare = 0.0,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share kept for validation where there is no val.txt; by default as in train.")
    ] = None,
    group_by: GroupBy = None,
    write_groups: Annotated[
        bool, typer.Option("--write-groups", help="Also write DATA/groups.csv: shared prefixes, copies together.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page with pictures to this file.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look through a data folder before any training: what is there, and what would go wrong."""
    with progress_bar("reading", quiet=quiet) as progress:
        report = knowsam.check(
            data,
            labelled=labelled,
            classes=_parse_classes(classes),
            label_values=_parse_values(label_values),
            ignore_value=ignore_value,
            mask_threshold=mask_threshold,
            instances=instances,
            stray_share=stray_share,
            val_fraction=val_fraction,
            group_by=group_by,
            write_groups=write_groups,
            html=html,
            progress=progress,
        )
    if as_json:
        _print_json(report.to_json())
    elif quiet:
        for finding in report.of("error"):
            _say_error(f"{finding} {finding.suggestion}".rstrip())
    else:
        from knowsam.inspection.findings import print_report

        print_report(report)
        if html is not None:
            say(f"with pictures: {html}")
    if not report.ok:
        raise typer.Exit(EXIT_BAD_INPUT)


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(help="Data folder; with --resume, leave it out.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, e.g. train.lr=0.02; `knowsam settings` has all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty folder for the run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    moved: Annotated[Path | None, typer.Option("--data", help="With --resume: where its data are now.")] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="With --resume: go on although images or masks have changed.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="A task: colonoscopy, thyroid, skin, cardiac, histology; or NAME-short."),
    ] = None,
    config: Config = None,
    method: Annotated[str | None, typer.Option(help="A method's name, e.g. knowsam, or FILE.py:CLASS.")] = None,
    sam: Annotated[str | None, typer.Option(help="none, tiny, lite_medsam, vit_b, a directory or .pth file.")] = None,
    labelled: Annotated[str | None, typer.Option(help=LABELLED_HELP)] = None,
    group_by: GroupBy = None,
    size: Size = None,
    steps: Annotated[int | None, typer.Option(help="Total number of steps; with --resume, the new total.")] = None,
    batch: Batch = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a run, or continue one with --resume."""
    options: dict[str, Any] = {
        "recipe": recipe,
        "config": config,
        "method": method,
        "sam": sam,
        "labelled": labelled,
        "group_by": group_by,
        "size": size,
        "batch": batch,
        "seed": seed,
    }
    if resume is not None:
        others = {"--out": out} | {"--" + name.replace("_", "-"): value for name, value in options.items()}
        others |= {"DATA": data, "key=value": overrides or None}
        if given := [name for name, value in others.items() if value is not None]:
            raise InputError(
                f"--resume: {', '.join(given)} was given too, but expected at most --steps and --data; a resumed run"
                " keeps its own settings, so leave that out or start a new run."
            )
        run = knowsam.resume(resume, steps, quiet, data=moved, accept_changes=accept_changes)
    else:
        if moved is not None or accept_changes:
            option = "--accept-changes" if moved is None else "--data"
            raise InputError(
                f"train: {option} was given without --resume, but expected both or neither; a new run takes its data"
                " folder as `knowsam train DATA --out RUN`."
            )
        if data is None or out is None:
            missing = "DATA" if data is None else "--out"
            raise InputError(f"train: {missing} is missing, but expected `knowsam train DATA --out RUN`; add it.")
        run = knowsam.train(data, out, **options, steps=steps, settings=_parse_settings(overrides), quiet=quiet)
    if not run.finished:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command(name="distil")
def distil_a_run(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[str, typer.Option(help="The network that learns: unet.")] = "unet",
    steps: Annotated[int | None, typer.Option(min=1, help="By default half of the run's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Its data folder, if that was moved.")] = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Distil a finished run into one small network, which `--network distilled` takes. Repeat the command to go on."""
    done = knowsam.distil(run, to, steps=steps, data=data, device=device, quiet=quiet)
    if not quiet and done.finished:
        beside = (
            "" if done.best is None else f", validation Dice {done.best:.3f} (the run's network {done.teacher:.3f})"
        )
        say(f"{done.folder.student}{beside}")
        say(f"use it: knowsam predict {shlex.quote(str(run))} IMAGES --network distilled --out DIR")
    if not done.finished:
        say(f"stopped after step {done.steps}; repeat the command to go on", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, student.safetensors or exported model.onnx.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a volume, or a folder of them.")],
    out: Annotated[Path, typer.Option(help=OUT_HELP)],
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
        _print_json(done.to_json())
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
        _say_error(error)
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
    data: Annotated[Path | None, typer.Option(help="Its data folder, if that was moved.")] = None,
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
        _print_json(to_records(chosen))
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
        classes=_parse_classes(classes),
        label_values=_parse_values(label_values),
        ignore_value=ignore_value,
        mask_threshold=mask_threshold,
        instances=instances,
        stray_share=stray_share,
        predictions_hold=hold,
    )
    if as_json:
        _print_json(scores_json(scores))
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


@app.command()
def compare(
    data: Annotated[Path, typer.Argument(help="Data folder; with --table-only, the folder of a comparison.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of all runs as key=value; of one method alone as METHOD.key=value."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder, or that of an earlier call: it goes on there.")] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", "--method", help="Methods to compare: supervised,knowsam,FILE.py:CLASS")
    ] = None,
    sam: Annotated[str, typer.Option(help="Each method with each of these: none,tiny,vit_b,...")] = "none,tiny",
    labelled: Annotated[str | None, typer.Option(help="Labelled groups: 3,7 or 5%,10% or list files.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help="One run for each seed: 0,1,2.")] = "0",
    config: Config = None,
    size: Size = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps of each run.")] = None,
    batch: Batch = None,
    group_by: GroupBy = None,
    jobs: Annotated[int, typer.Option(help="Runs side by side on this machine, as far as memory reaches.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask cluster that does the runs instead: tcp://HOST:8786.")
    ] = None,
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing, write the tables anew.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train methods with and without SAM over seeds, score each run once, and write one table."""
    if table_only:
        from knowsam.comparison.output import rewrite_tables

        results = rewrite_tables(data)
    else:
        if methods is None or out is None:
            missing = "--methods" if methods is None else "--out"
            raise InputError(
                f"compare: {missing} is missing, but expected `knowsam compare DATA --methods supervised,knowsam --out"
                " DIR`; add it."
            )
        results = knowsam.compare(
            data,
            out,
            _parse_names("--methods", methods),
            _parse_names("--sam", sam),
            [None] if labelled is None else _parse_names("--labelled", labelled),
            _parse_numbers(seeds, "--seeds", "0,1,2"),
            size=size,
            steps=steps,
            batch=batch,
            group_by=group_by,
            config=config,
            settings=_parse_settings(overrides),
            jobs=jobs,
            scheduler=scheduler,
            quiet=quiet or as_json,
        )
    if as_json:
        _print_json(results.to_json())
    elif not quiet:
        from knowsam.comparison.output import print_tables

        print_tables(results)
    for cell, reason in results.failed.items():
        _say_error(f"{cell}: {reason}")
    if results.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if results.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


@app.command()
def federate(
    public: Annotated[Path, typer.Argument(help="Labelled folder that every site may see.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings as key=value, as for train; of one site sites.NAME.key=value."),
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER, a site's images; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder, or that of an earlier call: it goes on there.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How often the sites' networks become one; 50.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of a site in a round; 20.")] = None,
    start_steps: Annotated[int | None, typer.Option(help="Steps on the public set before the rounds; 200.")] = None,
    config: Config = None,
    method: Annotated[str, typer.Option(help="sam_fed, or any other method, by FedAvg.")] = "sam_fed",
    sam: Annotated[str | None, typer.Option(help="none, tiny, lite_medsam, vit_b, a directory or .pth file.")] = None,
    labelled: Annotated[str | None, typer.Option(help=LABELLED_HELP)] = None,
    group_by: GroupBy = None,
    size: Size = None,
    batch: Batch = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    local_norm: Annotated[bool, typer.Option("--local-norm", help="Batch-norm statistics stay at their site.")] = False,
    min_sites: Annotated[int | None, typer.Option(help="With NVFlare: sites that a round needs; all.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Seconds that it waits for the others when as many have answered; 600.")
    ] = None,
    engine: Annotated[str, typer.Option(help="loop: one process; nvflare: its simulator.")] = "loop",
    job: Annotated[Path | None, typer.Option(help="Write a job of NVFlare to this folder instead.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train one network at several sites whose images stay where they are. Repeat the command to go on."""
    if out is None:
        raise InputError("federate: --out is missing, but expected a folder for the run; add it.")
    done = knowsam.federate(
        public,
        out,
        _parse_sites(site or []),
        method=method,
        sam=sam,
        rounds=rounds,
        steps=steps,
        start_steps=start_steps,
        local_norm=local_norm,
        min_sites=min_sites,
        patience=patience,
        size=size,
        batch=batch,
        labelled=labelled,
        group_by=group_by,
        seed=seed,
        config=config,
        settings=_parse_settings(overrides),
        engine=engine,
        job=job,
        quiet=quiet,
    )
    if done is None:
        if not quiet:
            say(f"{job}: a job of NVFlare; submit it with NVFlare's own tools (docs/federated.md)")
    elif not done.finished:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command()
def settings(
    method: Annotated[
        str | None, typer.Argument(help="Also the options of this method, and what its presets change.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List every setting of a run with its default, its range and its meaning."""
    from knowsam.settings import all_settings, settings_json, settings_text

    groups = all_settings(method)
    if as_json:
        _print_json(settings_json(groups))
    else:
        print(settings_text(groups))


sam_app = typer.Typer(help="The SAM teacher itself.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sam_app, name="sam")


@sam_app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="New folder, or that of an earlier call: it goes on there.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps in all.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Drawn images per step.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Objects asked for per image.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Image sides in pixels; each step draws one: 96,128.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Largest learning rate.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Weights to begin with: tiny, or the folder of an earlier call; else random.")
    ] = None,
    amp: Amp = "no",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Pretrain the small SAM on drawn images; afterwards sam=OUT uses it. Repeat the command to go on.

    What is not given is as for the bundled one's first 4,500 steps.
    """
    from knowsam.inference.predictor import known_amp
    from knowsam.sam.pretrain.loop import pretrain as run
    from knowsam.sam.pretrain.steps import PretrainConfig
    from knowsam.storage import require_writable_folder

    sides = None if sizes is None else tuple(_parse_numbers(sizes, "--sizes", "96,128"))
    given = {
        "steps": steps,
        "images": images,
        "prompts": prompts,
        "sizes": sides,
        "lr": lr,
        "start": start,
        "amp": known_amp(amp),
        "seed": seed,
    }
    require_writable_folder(out)
    config = PretrainConfig(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    _make_sam(run, config, out, quiet)


@sam_app.command()
def distil(
    images: Annotated[list[Path], typer.Option(help="A folder of images, as for train; repeatable.")],
    out: Annotated[Path, typer.Option(help="New folder, or that of an earlier call: it goes on there.")],
    teacher: Annotated[str, typer.Option(help="lite_medsam, vit_b, a directory or .pth file.")] = "lite_medsam",
    student: Annotated[str, typer.Option(help="tiny (the small SAM), or another encoder: unet, resnet50.")] = "tiny",
    labelled: Annotated[
        str, typer.Option(help="Masks that are read, as in train; none: no mask. Default: those train learns from.")
    ] = "",
    val_fraction: Annotated[float, typer.Option(help="As in train: these masks are never read.")] = 0.2,
    size: Annotated[int, typer.Option(min=0, help="Side at which the teacher sees images; 0: made for.")] = 0,
    view: Annotated[int, typer.Option(min=16, help="Side of what is cut out of them for tiny.")] = 128,
    steps: Annotated[int, typer.Option(min=2, help="Half for the embedding, half for answers.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 4,
    drawn: Annotated[int, typer.Option(min=-1, help="Drawn images beside them for tiny; -1: half as many.")] = -1,
    prompts: Annotated[int, typer.Option(min=1, help="Objects asked for per image.")] = 4,
    answers: Annotated[int, typer.Option(min=1, help="Objects the teacher is asked for per image.")] = 12,
    embedding: Annotated[float, typer.Option(min=0, help="Weight of the embedding for tiny.")] = 0.5,
    start: Annotated[
        str, typer.Option(help="Weights tiny begins with: tiny (default), random, or a folder of such a SAM.")
    ] = "",
    lr: Annotated[float, typer.Option(min=0, help="Largest learning rate.")] = 1e-3,
    amp: Amp = "no",
    cache: Annotated[Path | None, typer.Option(help="Where the teacher's answers are kept; OUT/cache.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Distil a SAM into a small one on a folder's images; afterwards sam=OUT uses it. Repeat the command to go on."""
    from functools import partial

    from knowsam.inference.predictor import known_amp
    from knowsam.sam.distil.loop import distil as run
    from knowsam.sam.distil.settings import DistilConfig
    from knowsam.sam.loading.build import settled_name
    from knowsam.storage import require_writable_folder

    require_writable_folder(out)
    config = DistilConfig(
        settled_name(teacher), student, tuple(str(folder.resolve()) for folder in images), labelled, val_fraction,
        size=size, view=view, steps=steps, batch=batch, drawn=drawn, prompts=prompts, answers=answers,
        embedding=embedding, start=settled_name(start) if start else "", lr=lr, amp=known_amp(amp), seed=seed,
    )  # fmt: skip
    _make_sam(partial(run, cache=cache), config, out, quiet)


@sam_app.command()
def get(
    name: Annotated[str, typer.Argument(help="lite_medsam.")],
    file: Annotated[Path | None, typer.Option(help="A file of it that you have; else the installed one.")] = None,
) -> None:
    """Check the weights of a SAM that does not come with this package, or say how to have them."""
    from knowsam.sam.loading.lite_medsam import NAME, check_lite_medsam, require_lite_medsam

    if name != NAME:
        raise InputError(
            f"sam get: '{name}' was found, but expected {NAME}: tiny comes with this package, those of Meta"
            " (vit_b, sam2_tiny, ...) are fetched when they are first used."
        )
    say(
        f"{require_lite_medsam()}: LiteMedSAM as published; use it with sam={NAME}"
        if file is None
        else check_lite_medsam(file)
    )


def _make_sam(run: Callable[..., bool], config: Any, out: Path, quiet: bool) -> None:
    """Let `run` write a SAM into a folder, until it is done or a signal asks to stop, and say how to use it."""
    from knowsam.training.interrupt import stop_on_signal

    with stop_on_signal() as asked_to_stop:
        finished = run(config, out, quiet, asked_to_stop)
    if not quiet:
        say(f"{out}: {'done' if finished else 'saved; repeat the command to go on'}; use it with sam={out}")
    if not finished:
        raise typer.Exit(EXIT_INTERRUPTED)


def _parse_settings(overrides: list[str] | None) -> dict[str, Any]:
    """`key=value` arguments."""
    from knowsam.config import parse_overrides

    return parse_overrides(overrides or [])


def _parse_classes(text: str | None) -> int | list[str] | None:
    """`"4"` or `"background,liver"`."""
    if text is None:
        return None
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",")]


def _parse_values(text: str | None) -> list[int] | None:
    """`"0,85,170"`."""
    return None if text is None else _parse_numbers(text, "--label-values", "0,85,170")


def _parse_sites(given: list[str]) -> dict[str, Path]:
    """`["a=FOLDER", "b=FOLDER"]`."""
    sites: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--site: '{one}' was found, but expected NAME=FOLDER; correct it.")
        if name in sites:
            raise InputError(
                f"--site: {name} was found twice ({sites[name]} and {folder}), but expected each name once; rename one."
            )
        sites[name] = Path(folder)
    return sites


def _parse_names(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"{option}: '{text}' was found, but expected names with commas between them; correct it.")
    return parts


def _parse_numbers(text: str, option: str, example: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise InputError(f"{option}: '{text}' was found, but expected whole numbers like {example}; correct it.")
    return [int(part) for part in text.split(",")]


def _print_json(values: Any) -> None:
    import json

    # What the terminal cannot encode must be escaped as JSON has it.
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(values, indent=2, ensure_ascii=not unicode, allow_nan=False)
    # JSON escapes the characters that steer a terminal, but for these.
    print(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _say_error(sentence: str) -> None:
    """One sentence on stderr, its first word red on a terminal that wants colour (https://no-color.org)."""
    in_colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    word = "\033[1;31merror:\033[0m" if in_colour else "error:"
    print(f"{word} ", end="", file=sys.stderr)
    say(sentence, sys.stderr)


def _of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or that of the GPU, ran out."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _explained(error: Exception) -> str | None:
    """An error as one sentence; None where it is a mistake of this package."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return os_error_sentence(error)
    if _of_memory(error):
        return (
            f"memory: it ran out ({next(iter(str(error).splitlines()), '') or type(error).__name__}); take a smaller"
            " --batch, --size or image, or a machine with more of it."
        )
    return None


def main() -> None:
    """Entry point: bad input or output becomes one sentence and exit code 2; a traceback is left for bugs, and 70."""
    escape_unprintable()
    try:
        app()
    except SystemExit as end:
        # typer makes 1 of a closed pipe (`| head`), which is no failed input.
        sys.exit(EXIT_NO_READER if isinstance(end.__context__, BrokenPipeError) else end.code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sentence = _explained(error)
        if sentence is not None:
            _say_error(sentence)
            sys.exit(EXIT_BAD_INPUT)
        traceback.print_exc()
        sys.exit(EXIT_BUG)


if __name__ == "__main__":
    main()

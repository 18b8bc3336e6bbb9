"""Commands that train networks."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import knowsam
from knowsam.cli.app import (
    AGAIN_HELP,
    EXIT_FAILED_FILES,
    EXIT_INTERRUPTED,
    Batch,
    Config,
    Device,
    GroupBy,
    Json,
    Labelled,
    MovedData,
    Quiet,
    Sam,
    Seed,
    Size,
    app,
)
from knowsam.cli.output import print_json, say_error
from knowsam.cli.values import parse_names, parse_numbers, parse_settings, parse_sites
from knowsam.errors import InputError
from knowsam.presentation.console import say


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
    sam: Sam = None,
    labelled: Labelled = None,
    group_by: GroupBy = None,
    size: Size = None,
    steps: Annotated[int | None, typer.Option(help="Total number of steps; with --resume, the new total.")] = None,
    batch: Batch = None,
    seed: Seed = None,
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
        run = knowsam.train(data, out, **options, steps=steps, settings=parse_settings(overrides), quiet=quiet)
    if not run.finished:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command(name="distil")
def distil_a_run(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[str, typer.Option(help="The network that learns: unet.")] = "unet",
    steps: Annotated[int | None, typer.Option(min=1, help="By default half of the run's.")] = None,
    data: MovedData = None,
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
def compare(
    data: Annotated[Path, typer.Argument(help="Data folder; with --table-only, the folder of a comparison.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of all runs as key=value; of one method alone as METHOD.key=value."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help=AGAIN_HELP)] = None,
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
            parse_names("--methods", methods),
            parse_names("--sam", sam),
            [None] if labelled is None else parse_names("--labelled", labelled),
            parse_numbers(seeds, "--seeds", "0,1,2"),
            size=size,
            steps=steps,
            batch=batch,
            group_by=group_by,
            config=config,
            settings=parse_settings(overrides),
            jobs=jobs,
            scheduler=scheduler,
            quiet=quiet or as_json,
        )
    if as_json:
        print_json(results.to_json())
    elif not quiet:
        from knowsam.comparison.output import print_tables

        print_tables(results)
    for cell, reason in results.failed.items():
        say_error(f"{cell}: {reason}")
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
    out: Annotated[Path | None, typer.Option(help=AGAIN_HELP)] = None,
    rounds: Annotated[int | None, typer.Option(help="How often the sites' networks become one; 50.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of a site in a round; 20.")] = None,
    start_steps: Annotated[int | None, typer.Option(help="Steps on the public set before the rounds; 200.")] = None,
    config: Config = None,
    method: Annotated[str, typer.Option(help="sam_fed, or any other method, by FedAvg.")] = "sam_fed",
    sam: Sam = None,
    labelled: Labelled = None,
    group_by: GroupBy = None,
    size: Size = None,
    batch: Batch = None,
    seed: Seed = None,
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
        parse_sites(site or []),
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
        settings=parse_settings(overrides),
        engine=engine,
        job=job,
        quiet=quiet,
    )
    if done is None:
        if not quiet:
            say(f"{job}: a job of NVFlare; submit it with NVFlare's own tools (docs/federated.md)")
    elif not done.finished:
        raise typer.Exit(EXIT_INTERRUPTED)

"""Commands before any training: what the data are, what can be set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import knowsam
from knowsam.cli.app import (
    EXIT_BAD_INPUT,
    Classes,
    GroupBy,
    IgnoreValue,
    Instances,
    Json,
    Labelled,
    LabelValues,
    MaskThreshold,
    Quiet,
    StrayShare,
    app,
)
from knowsam.cli.output import print_json, say_error
from knowsam.cli.values import parse_classes, parse_values
from knowsam.presentation.console import progress_bar, say


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Folder with images/ and masks/ (or labels/).")],
    labelled: Labelled = None,
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
            classes=parse_classes(classes),
            label_values=parse_values(label_values),
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
        print_json(report.to_json())
    elif quiet:
        for finding in report.of("error"):
            say_error(f"{finding} {finding.suggestion}".rstrip())
    else:
        from knowsam.inspection.findings import print_report

        print_report(report)
        if html is not None:
            say(f"with pictures: {html}")
    if not report.ok:
        raise typer.Exit(EXIT_BAD_INPUT)


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
        print_json(settings_json(groups))
    else:
        print(settings_text(groups))

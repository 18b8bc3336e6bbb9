"""What all commands share: the application, exit codes, and options that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import knowsam

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
Sam = Annotated[str | None, typer.Option(help="none, tiny, lite_medsam, vit_b, a directory or .pth file.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
MovedData = Annotated[Path | None, typer.Option(help="Its data folder, if that was moved.")]
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
Labelled = Annotated[str | None, typer.Option(help="Groups that stay labelled: N, a share, or a list file.")]
AGAIN_HELP = "New folder, or that of an earlier call: it goes on there."


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

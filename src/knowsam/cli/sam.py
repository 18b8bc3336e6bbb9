"""Commands that make or check a SAM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from knowsam.cli.app import AGAIN_HELP, EXIT_INTERRUPTED, Amp, Quiet, app
from knowsam.cli.values import parse_numbers
from knowsam.errors import InputError
from knowsam.presentation.console import say

sam_app = typer.Typer(help="The SAM teacher itself.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sam_app, name="sam")


@sam_app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help=AGAIN_HELP)],
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

    sides = None if sizes is None else tuple(parse_numbers(sizes, "--sizes", "96,128"))
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
    out: Annotated[Path, typer.Option(help=AGAIN_HELP)],
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

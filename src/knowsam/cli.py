"""The command line: parse, import late, call one documented function, exit code.

Exit codes: 0 done, 1 done but some inputs failed, 2 bad input (one sentence on stderr), 130 interrupted and saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from knowsam.errors import InputError

app = typer.Typer(
    help="From a folder of medical images and a few masks to a small segmentation network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXIT_FAILED_FILES = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

OUT_HELP = "Folder to write to."
JSON_HELP = "Print the whole result as JSON, and nothing else."
VALUES_HELP = "Mask values in the order of the classes: 0,85,170."
CLASSES_HELP = "Number of classes, or their names: background,liver,..."
Amp = Annotated[str, typer.Option(help="bf16, or no: bf16 is faster where the processor has it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no text; errors only.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from knowsam import __version__

        print(f"knowsam {__version__}")
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
    labelled: Annotated[str | None, typer.Option(help="Groups that stay labelled: N, a share, or a list file.")] = None,
    classes: Annotated[str | None, typer.Option(help=CLASSES_HELP)] = None,
    label_values: Annotated[str | None, typer.Option(help=VALUES_HELP)] = None,
    ignore_value: Annotated[int | None, typer.Option(help="Mask value of pixels nobody annotated.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share kept for validation where there is no val.txt.")] = 0.2,
    html: Annotated[Path | None, typer.Option(help="Also write a page with pictures to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Quiet = False,
) -> None:
    """Look through a data folder before any training: what is there, and what would go wrong."""
    from rich.console import Console
    from rich.progress import Progress

    from knowsam.data.split import parse_labelled
    from knowsam.inspection.check import check_folder
    from knowsam.inspection.findings import print_report

    given = None if labelled is None else parse_labelled(labelled)
    names, values = _parse_classes(classes), _parse_values(label_values)
    hidden = quiet or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as bar:
        task = bar.add_task("reading", total=None)
        report = check_folder(
            data,
            labelled=given,
            classes=names,
            label_values=values,
            ignore_value=ignore_value,
            val_fraction=val_fraction,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if html is not None:
        from knowsam.inspection.page import write_page

        write_page(report, html)
    if as_json:
        _print_json(report.to_json())
    elif quiet:
        for finding in report.of("error"):
            _say_error(f"{finding} {finding.suggestion}".rstrip())
    else:
        print_report(report)
        if html is not None:
            print(f"with pictures: {html}")
    if not report.ok:
        raise typer.Exit(EXIT_BAD_INPUT)


def _parse_classes(text: str | None) -> int | list[str] | None:
    """`"4"` or `"background,liver"`."""
    if text is None:
        return None
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",")]


def _parse_values(text: str | None) -> list[int] | None:
    """`"0,85,170"`."""
    return None if text is None else _parse_numbers(text, "--label-values", "0,85,170")


def _parse_amp(text: str) -> Literal["no", "bf16"]:
    """The value of `--amp`."""
    known: dict[str, Literal["no", "bf16"]] = {"no": "no", "bf16": "bf16"}
    if text in known:
        return known[text]
    raise InputError(f"--amp: '{text}' was found, but expected no or bf16; correct it.")


def _parse_numbers(text: str, option: str, example: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise InputError(f"{option}: '{text}' was found, but expected whole numbers like {example}; correct it.")
    return [int(part) for part in text.split(",")]


def _print_json(values: Any) -> None:
    import json

    print(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))


def _say_error(sentence: str) -> None:
    """One sentence on stderr, its first word red on a terminal that wants colour (https://no-color.org)."""
    in_colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    word = "\033[1;31merror:\033[0m" if in_colour else "error:"
    print(f"{word} {sentence}", file=sys.stderr)


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(help="Data folder; with --resume, leave it out.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, e.g. sam=none train.lr=0.02.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty folder for the run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    method: Annotated[str | None, typer.Option(help="A method's name, e.g. knowsam, or FILE.py:CLASS.")] = None,
    labelled: Annotated[str | None, typer.Option(help="Groups that stay labelled: N, a share, or a list file.")] = None,
    size: Annotated[str | None, typer.Option(help="Network size in pixels: 256 or 192x256.")] = None,
    steps: Annotated[int | None, typer.Option(help="Total number of steps; with --resume, the new total.")] = None,
    batch: Annotated[str | None, typer.Option(help="Labelled + unlabelled images per step, e.g. 12+12.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a run, or continue one with --resume."""
    if resume is not None:
        given = [name for name, value in {
            "--out": out, "--config": config, "--method": method, "--labelled": labelled, "--size": size,
            "--batch": batch, "--seed": seed, "DATA": data, "key=value": overrides or None,
        }.items() if value is not None]  # fmt: skip
        if given:
            raise InputError(
                f"--resume: {', '.join(given)} was given too, but expected at most --steps; a resumed run keeps its own"
                " settings, so leave that out or start a new run."
            )
        from knowsam.training.run import resume as resume_run

        result = resume_run(resume, steps=steps, quiet=quiet)
    else:
        if data is None or out is None:
            missing = "DATA" if data is None else "--out"
            raise InputError(f"train: {missing} is missing, but expected `knowsam train DATA --out RUN`; add it.")
        from knowsam.config import load_yaml, parse_overrides, resolve_config
        from knowsam.training.run import train as train_run

        flags = _flags(data=data, method=method, labelled=labelled, size=size, steps=steps, batch=batch, seed=seed)
        from_file = {} if config is None else load_yaml(config)
        result = train_run(resolve_config(from_file, parse_overrides(overrides or []), flags), out, quiet=quiet)
    if not result.finished:
        raise typer.Exit(EXIT_INTERRUPTED)


def _flags(data: str, method: str | None, **values: Any) -> dict[str, Any]:
    """Command-line flags as a configuration layer."""
    sections = {"labelled": "data", "size": "data", "steps": "train", "batch": "train", "seed": "train"}
    layer: dict[str, Any] = {"data": {"path": data}, "train": {}}
    if method is not None:
        layer["method"] = method
    for name, value in values.items():
        if value is not None:
            layer[sections[name]][name] = value
    return layer


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
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU where there is one.")] = None,
    amp: Amp = "no",
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Quiet = False,
) -> None:
    """Predict masks for new images, in their own size and geometry."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from knowsam.data.lists import read_lines
    from knowsam.inference.files import list_inputs, predict_files
    from knowsam.inference.predictor import Predictor
    from knowsam.io import case_stem, file_stem
    from knowsam.presentation.text import first_few
    from knowsam.training.memory import keep_freed_memory

    # As in the other lists, a name may carry the suffix of its file.
    wanted = None if only is None else {file_stem(line) for _, line in read_lines(only)}
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    failed, done, seen, items = [], 0, set(), []
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar, keep_freed_memory():
        total = len(list_inputs(source, out)) if wanted is None else len(wanted)
        task = bar.add_task("predicting", total=total)
        predictor = Predictor(run, device, _parse_amp(amp))
        accept = None if wanted is None else wanted.__contains__
        for item in predict_files(predictor, source, out, overlay, probabilities, accept, uncertainty):
            bar.advance(task)
            items.append(item)
            seen.add(case_stem(item.image))
            done += item.error is None
            if item.error is not None:
                failed.append(item.error)
    if wanted is not None and wanted - seen:
        missing = sorted(wanted - seen)
        failed.append(f"{only}: {first_few(missing)} have no image in {source}; correct the list or add the images.")
    say = not (quiet or as_json)
    if done and say:
        print(f"{done} predicted into {out}")
    result: dict[str, Any] = {
        "predicted": [{"image": str(item.image), "mask": str(item.label)} for item in items if item.label is not None],
        "failed": failed,
    }
    if done and uncertainty:
        from knowsam.reliability.cases import CASES_FILE, case_rows, estimate_cases, print_worst, write_cases
        from knowsam.reliability.of_run import load_calibration

        trust, names = load_calibration(predictor.path), predictor.info.class_names
        cases = estimate_cases(items, trust)
        write_cases(cases, names, out / CASES_FILE)
        result |= {"cases": case_rows(cases, names), "trust": trust.sentence()}
        if say:
            print_worst(cases, names, trust)
            print(f"all cases: {out / CASES_FILE}")
    if as_json:
        _print_json(result)
    for error in failed:
        _say_error(error)
    if failed:
        raise typer.Exit(EXIT_BAD_INPUT if done == 0 else EXIT_FAILED_FILES)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder or student.safetensors.")],
    to: Annotated[Path, typer.Option(help="File to write: .onnx, or .pt2 for a torch.export program.")],
    network: Annotated[
        str | None, typer.Option(help="fused, unet or vnet; by default what predict uses, the fused one.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Verify on these images too: a file or a folder.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write the network as one file that predicts without knowsam, verified, with a model card beside it."""
    from knowsam.inference.export import export as export_run

    written = export_run(run, to, network, images)
    if not quiet:
        print(f"{written.path}: network {written.network}, {written.path.stat().st_size / 1e6:.1f} MB")
        print(written.verification)
        print(f"{written.card}: complete it where it says so")


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path | None, typer.Option(help="Its data folder, if that was moved.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU where there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Quiet = False,
) -> None:
    """Learn from a run's validation cases how good its predictions are; training does it at its end."""
    from knowsam.reliability.of_run import calibrate_run
    from knowsam.runs.folder import RunFolder

    trust = calibrate_run(run, data, device)
    if as_json:
        print(RunFolder(run).calibration.read_text(encoding="utf-8"), end="")
    elif not quiet:
        print(trust.sentence())
        print(f"written: {RunFolder(run).calibration}")


@app.command()
def suggest(
    run: Annotated[Path, typer.Argument(help="Run folder or student.safetensors.")],
    data: Annotated[Path, typer.Argument(help="The run's data folder, another one, or a folder of images.")],
    number: Annotated[int, typer.Option("-n", "--number", help="How many images or groups.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder for suggest.csv, suggest.json and pictures.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU where there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Quiet = False,
) -> None:
    """Say which unlabelled images to label next: those the network is unsure of and that are unlike the labelled."""
    from rich.console import Console
    from rich.progress import Progress

    from knowsam.inference.predictor import Predictor
    from knowsam.reliability.suggest import suggest as choose
    from knowsam.reliability.suggest_output import print_suggestions, to_records, write_suggestions

    predictor = Predictor(run, device)
    with Progress(console=Console(stderr=True, quiet=quiet), transient=True) as bar:
        task = bar.add_task("looking", total=None)
        chosen = choose(
            predictor, data, number, advance=lambda done, total: bar.update(task, completed=done, total=total)
        )
    if out is not None:
        write_suggestions(chosen, predictor, out)
    if as_json:
        _print_json(to_records(chosen))
    elif not quiet:
        print_suggestions(chosen)
        if out is not None:
            print(f"pictures and tables: {out}")


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks, or one file.")],
    truth: Annotated[Path, typer.Argument(help="Folder of true masks, or one file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for scores.csv and scores.json.")] = None,
    classes: Annotated[str | None, typer.Option(help=CLASSES_HELP)] = None,
    label_values: Annotated[str | None, typer.Option(help=VALUES_HELP)] = None,
    ignore_value: Annotated[int | None, typer.Option(help="Mask value of pixels nobody annotated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Quiet = False,
) -> None:
    """Score predictions: Dice, Jaccard, HD95 and ASD per case and class, at native size, in mm where known."""
    from knowsam.evaluation.evaluate import evaluate as score
    from knowsam.evaluation.result import print_table, scores_json

    names, values = _parse_classes(classes), _parse_values(label_values)
    result = score(predictions, truth, out, classes=names, label_values=values, ignore_value=ignore_value)
    if as_json:
        _print_json(scores_json(result))
    elif not quiet:
        print_table(result)


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
    from knowsam.reporting.write import write_report
    from knowsam.training.display import TrainingDisplay

    with TrainingDisplay(quiet).reading("scoring") as progress:
        written = write_report(run, out, baseline, progress)
    if not quiet:
        print(f"written: {written.path}")
        if written.left_out is not None:
            print(f"note: without cases and data, which could not be read: {written.left_out}")


@app.command()
def compare(
    data: Annotated[Path, typer.Argument(help="Data folder; with --table-only, the folder of a comparison.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of all runs as key=value; of one method alone as METHOD.key=value."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder, or that of an earlier call: it goes on there.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods to compare: supervised,knowsam,FILE.py:CLASS")] = None,
    sam: Annotated[str, typer.Option(help="Each method with each of these: none,tiny,vit_b,...")] = "none,tiny",
    labelled: Annotated[str | None, typer.Option(help="Labelled groups: 3,7 or 5%,10% or list files.")] = None,
    seeds: Annotated[str, typer.Option(help="One run for each seed: 0,1,2.")] = "0",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    size: Annotated[str | None, typer.Option(help="Network size in pixels: 256 or 192x256.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps of each run.")] = None,
    batch: Annotated[str | None, typer.Option(help="Labelled + unlabelled images per step, e.g. 12+12.")] = None,
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing, write the tables anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Quiet = False,
) -> None:
    """Train methods with and without SAM over seeds, score each run once, and write one table."""
    from knowsam.comparison import command

    if table_only:
        results = command.rebuild(data)
    else:
        if methods is None or out is None:
            missing = "--methods" if methods is None else "--out"
            raise InputError(
                f"compare: {missing} is missing, but expected `knowsam compare DATA --methods supervised,knowsam --out"
                " DIR`; add it."
            )
        flags = {"size": size, "steps": steps, "batch": batch}
        given = command.settings(config, overrides or [], _flags(str(data), None, **flags))
        lists = {"methods": methods, "sam": sam, "labelled": labelled or "all", "seeds": seeds}
        results = command.run(data, out, lists, given, quiet or as_json)
    if as_json:
        _print_json(results.to_json())
    elif not quiet:
        command.show(results)
    for cell, reason in results.failed.items():
        _say_error(f"{cell}: {reason}")
    if results.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if results.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


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
    from knowsam.sam.pretrain.loop import pretrain as run
    from knowsam.sam.pretrain.steps import PretrainConfig
    from knowsam.training.interrupt import stop_on_signal

    amp = _parse_amp(amp)
    sides = None if sizes is None else tuple(_parse_numbers(sizes, "--sizes", "96,128"))
    given = {
        "steps": steps, "images": images, "prompts": prompts, "sizes": sides, "lr": lr, "start": start, "amp": amp,
        "seed": seed,
    }  # fmt: skip
    config = PretrainConfig(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    with stop_on_signal() as asked_to_stop:
        finished = run(config, out, quiet, asked_to_stop)
    if not quiet:
        print(f"{out}: {'done' if finished else 'saved; repeat the command to go on'}; use it with sam={out}")
    if not finished:
        raise typer.Exit(EXIT_INTERRUPTED)


def main() -> None:
    """Entry point: bad input becomes one sentence and exit code 2, anything else stays a traceback."""
    try:
        app()
    except InputError as error:
        _say_error(str(error))
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()

"""The public functions of the package, `knowsam.check` to `knowsam.compare`: plain arguments in, a record out.

Each calls one function of the package; what is imported for it is imported when it is called. Everything a user may
have got wrong raises `knowsam.InputError`, a `ValueError` of one sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsam.errors import InputError

if TYPE_CHECKING:
    from knowsam.comparison.results import Results
    from knowsam.evaluation.result import EvaluationResult
    from knowsam.federation.loop import Federation
    from knowsam.inference.export import Exported
    from knowsam.inference.predictor import Predictor
    from knowsam.inspection.findings import CheckReport
    from knowsam.io import MaskFormat
    from knowsam.presentation.console import ProgressStart
    from knowsam.reliability.of_run import CalibrationStatus
    from knowsam.reliability.predictions import Predictions
    from knowsam.reliability.suggest import Suggestion
    from knowsam.reporting.write import WrittenReport
    from knowsam.runs.result import Distilled, Run

Labelled = int | float | str | Path
"""Groups that stay labelled: so many, a share of them (`0.1`, `"10%"`), or those that a list file names."""

PLACES = {
    "method": "method",
    "sam": "sam.name",
    "size": "data.size",
    "labelled": "data.labelled",
    "group_by": "data.group_by",
    "steps": "train.steps",
    "batch": "train.batch",
    "seed": "train.seed",
}
"""Arguments that have a name of their own -> the setting they are."""


def check(
    data: str | Path,
    *,
    labelled: Labelled | None = None,
    classes: int | Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
    mask_threshold: int | None = None,
    instances: bool = False,
    stray_share: float = 0.0,
    val_fraction: float | None = None,
    group_by: str | None = None,
    write_groups: bool = False,
    html: str | Path | None = None,
    progress: ProgressStart | None = None,
) -> CheckReport:
    """Check a data folder before training: what is there, and what would go wrong.

    Args:
        data: Folder with `images/` and `masks/` (or `labels/`).
        labelled: Groups that stay labelled: a number, a share (`0.1`, `"10%"`) or a list file; None: all with masks.
        classes: Number or names of the classes, background first; None: found in the masks.
        label_values: Mask values in the order of the classes.
        ignore_value: Mask value of pixels nobody annotated.
        mask_threshold: Two classes: every mask value from this one on is the object.
        instances: Two classes: mask values number the objects.
        stray_share: Largest share of a mask's pixels with values of no class; they take the nearest one.
        val_fraction: Share of the labelled groups kept for validation where there is no `val.txt`.
        group_by: Without `groups.csv`, what is one group: `"name"` but for a slice number, or the `"prefix"` of
            `patient001_000`.
        write_groups: Also write a `groups.csv`: shared prefixes and copies together.
        html: File for a page with pictures.
        progress: Called with the number of files; returns a function to call after each.

    Returns:
        The report. `print(report)` shows it; `ok`, `errors`, `warnings`, `notes`, `counts`, `classes`, `to_json()`.

    Raises:
        InputError: If an argument makes no sense, or `html` cannot be written; never for the data.

    Example:
        ```python
        report = knowsam.check("DATA")
        print(report)
        assert report.ok
        ```
    """
    from knowsam.data.labels import LabelSpec
    from knowsam.data.prefixes import check_no_groups, parse_group_by
    from knowsam.data.split import parse_labelled
    from knowsam.inspection.check import check_folder
    from knowsam.storage import require_writable_file

    if html is not None:
        require_writable_file(html, "check.html")
    given = _given(val_fraction=val_fraction, group_by=None if group_by is None else parse_group_by(group_by))
    labelled = parse_labelled(labelled) if isinstance(labelled, str) else labelled
    if write_groups:
        check_no_groups(Path(data) / "groups.csv")
    spec = LabelSpec(classes, label_values, ignore_value, mask_threshold, instances, stray_share)
    report = check_folder(data, labelled, spec, **given, progress=progress)
    if write_groups:
        from knowsam.inspection.groups import write_believed_groups

        write_believed_groups(report)
    if html is not None:
        from knowsam.inspection.page import write_page

        write_page(report, Path(html))
    return report


def train(
    data: str | Path,
    out: str | Path,
    *,
    method: str | None = None,
    sam: str | None = None,
    size: int | str | tuple[int, int] | None = None,
    steps: int | None = None,
    batch: str | tuple[int, int] | None = None,
    labelled: Labelled | None = None,
    group_by: str | None = None,
    seed: int | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Run:
    """Train a run. Defaults: docs/settings.md.

    Args:
        data: As in `check`.
        out: New or empty folder for the run.
        method: Name of a method (default `"knowsam"`), or `"FILE.py:CLASS"`.
        sam: `"auto"` (default), `"none"`, `"tiny"`, `"lite_medsam"`, `"vit_b"`, `"sam2_small"`, ... (docs/sam.md), a
            directory or an original `.pth` file.
        size: Height and width in the network, px, multiples of 16: `256`, `(192, 256)` or `"192x256"`.
        steps: Optimiser steps.
        batch: Labelled and unlabelled images per step: `(12, 12)` or `"12+12"`.
        labelled: As in `check`.
        group_by: As in `check`.
        seed: Seed of everything random, from 0.
        recipe: Settings for a kind of task, e.g. `"colonoscopy"` (examples/recipes/).
        config: YAML file of settings; wins over the recipe.
        settings: Other settings, nested or with dotted names; they win over the file, arguments over all.
        quiet: No progress bar, no text.

    Returns:
        The run: `folder` (its files; `folder.path`, `folder.student`), `steps` done, `best` validation Dice in [0, 1]
        or None, `finished` (False after Ctrl-C; `knowsam.resume` goes on).

    Raises:
        InputError: For bad data or settings, or a folder that is not empty or not writable; nothing was written.

    Example:
        ```python
        run = knowsam.train("DATA", "runs/a", size=256, steps=30_000, batch=(12, 12), settings={"train.clip": 1.0})
        if not run.finished:
            run = knowsam.resume("runs/a")
        print(run.best)
        ```
    """
    from knowsam.config import load_recipe, merge_layers, resolve_config
    from knowsam.storage import require_writable_folder

    require_writable_folder(out)
    labelled = str(labelled) if isinstance(labelled, Path) else labelled
    given = _given(
        method=method, sam=sam, size=size, steps=steps, batch=batch, labelled=labelled, group_by=group_by, seed=seed
    )
    of_recipe = {} if recipe is None else load_recipe(recipe)
    resolved = resolve_config(merge_layers(of_recipe, _settings(config, settings, {"data.path": str(data)}, given)))

    from knowsam.training import run as training

    return training.train(resolved, out, quiet=quiet)


def resume(
    run: str | Path,
    steps: int | None = None,
    quiet: bool = False,
    *,
    data: str | Path | None = None,
    accept_changes: bool = False,
) -> Run:
    """Continue a run from its last checkpoint, on a CPU to the same weights as without the stop.

    Args:
        run: The run's folder.
        steps: New total of steps, to train longer; the schedules stretch over it.
        quiet: No progress bar, no text.
        data: Its data folder, if that was moved.
        accept_changes: Go on although images or masks have changed.

    Returns:
        As `train`.

    Raises:
        InputError: If there is no run or nothing to continue, or the data or checkpoint have changed.

    Example:
        ```python
        run = knowsam.resume("runs/a", steps=40_000)
        ```
    """
    from knowsam.storage import require_writable_folder
    from knowsam.training import run as training

    require_writable_folder(run)
    return training.resume(run, steps=steps, quiet=quiet, data=data, accept_changes=accept_changes)


def distil(
    run: str | Path,
    to: str = "unet",
    *,
    steps: int | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Distilled:
    """Distil a finished run into one small network; SAM teaches too where it is ahead on validation.

    Repeat the call to go on with one that was interrupted.

    Args:
        run: The run's folder.
        to: `"unet"`.
        steps: Of the distillation; None: half of the run's.
        data: The run's data folder, if that was moved.
        device: As in `predict`.
        quiet: As in `train`.

    Returns:
        `best`, its validation Dice, and `teacher`, that of the run's network, in [0, 1]; `finished`; `with_sam`.

    Raises:
        InputError: If the run is not finished, its data are gone, or its network is one U-Net already.

    Example:
        ```python
        done = knowsam.distil("runs/a")
        print(done.best, done.teacher)
        mask = knowsam.load("runs/a", network="distilled")(array)
        ```
    """
    from knowsam.storage import require_writable_folder
    from knowsam.training.distillation import DistilSettings, distil_run

    require_writable_folder(run)
    return distil_run(run, DistilSettings(to, steps or 0), data, device, quiet)


def predict(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    only: str | Path | Iterable[str] | None = None,
    recursive: bool = False,
    network: str | None = None,
    device: str | None = None,
    amp: str = "no",
    mask_format: MaskFormat | None = None,
    progress: ProgressStart | None = None,
) -> Predictions:
    """Predict masks for new images, in their own size and geometry; a broken file does not stop the others.

    Args:
        run: Run folder, `student.safetensors` or exported `.onnx`.
        images: An image, a volume, a folder of them, or a data folder.
        out: Folder for the masks, named like their images, with the values of the training masks (docs/masks.md).
        overlay: Also draw the masks over the images.
        probabilities: Also write the soft maps, float in [0, 1].
        uncertainty: Also write entropy and disagreement, in [0, 1], and each case's estimated Dice (`cases.csv`).
        only: Predict only these: names, or a text file with one a line.
        recursive: Take subfolders too, into subfolders of the same names.
        network: `"distilled"`: the run's small network (`distil`); None: the run's own.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`; None: a GPU where there is one.
        amp: `"no"`, or `"bf16"`, faster where the processor has it.
        mask_format: Of the masks of DICOM volumes: `"dicom"` (default, DICOM-SEG) or `"nifti"`.
        progress: As in `check`.

    Returns:
        `files` (`image`, `label`, `error` of each), `failed` and `notes` (sentences); with `uncertainty` `cases`, worst
        first (`case`, `dice`), and `basis.sentence()`, what the estimates rest on.

    Raises:
        InputError: If there is no network, image or device, or `out` cannot be written or holds the images.

    Example:
        ```python
        done = knowsam.predict("runs/a", "NEW_IMAGES", "preds", uncertainty=True)
        print(len(done.written), "masks;", *done.failed)
        print(done.cases[0].case, done.cases[0].dice, done.basis.sentence())
        ```
    """
    from knowsam.inference.predictor import Predictor
    from knowsam.reliability.predictions import predict_folder
    from knowsam.storage import require_writable_folder
    from knowsam.training.memory import keep_freed_memory

    require_writable_folder(out)
    predictor = Predictor(run, device, amp, network)
    with keep_freed_memory():
        return predict_folder(
            predictor,
            images,
            out,
            overlay=overlay,
            probabilities=probabilities,
            uncertainty=uncertainty,
            only=only,
            recursive=recursive,
            mask_format=mask_format,
            progress=progress,
        )


def load(run: str | Path, device: str | None = None, amp: str = "no", *, network: str | None = None) -> Predictor:
    """Open a trained network for arrays: `model(array)` is a mask of class indices.

    A picture is `(H, W)`, `(H, W, 1)` or `(H, W, 3)`; any other 3-D array is a volume `(X, Y, Z)`, of any size. A
    volume whose last axis is shorter than 5 needs `model(array, volume=True)`. Volumes are cut along the axis of
    training, else the last, or with `model(array, axis=0)` along that one. Values are those of a file: uint8 pictures 0
    to 255; all else any numbers, scaled by percentiles (`data.normalise`).

    Args:
        run: As in `predict`.
        device: As in `predict`; an ONNX file runs on the CPU.
        amp: As in `predict`.
        network: As in `predict`.

    Returns:
        The model. `model(array)`: uint8 (uint16 of more than 256 classes), the array's spatial shape.
        `model.predict(array, probabilities=True, uncertainty=True)`: `label`, `probabilities` `(K, *shape)`,
        `uncertainty.entropy` and `.disagreement`, all three in [0, 1]. `model.class_names`, `model.classes`.

    Raises:
        InputError: If there is no such network, or the array is no image.

    Example:
        ```python
        model = knowsam.load("runs/a")
        mask = model(array)
        print({name: int((mask == k).sum()) for k, name in enumerate(model.class_names)})
        ```
    """
    from knowsam.inference.predictor import Predictor

    return Predictor(run, device, amp, network)


def evaluate(
    predictions: str | Path,
    truth: str | Path,
    out: str | Path | None = None,
    *,
    classes: int | Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
    mask_threshold: int | None = None,
    instances: bool = False,
    stray_share: float = 0.0,
    predictions_hold: str | None = None,
) -> EvaluationResult:
    """Score predicted masks: Dice, Jaccard, HD95 and ASD per case and class, at native size.

    Args:
        predictions: Folder of predicted masks, or a file; paired with the truth by name.
        truth: Folder of true masks, or a file.
        out: Folder for `scores.csv` and `scores.json`; None writes nothing.
        classes: As in `check`.
        label_values: As in `check`.
        ignore_value: As in `check`.
        mask_threshold: As in `check`.
        instances: As in `check`.
        stray_share: As in `check`.
        predictions_hold: Class `"indices"`, or `"values"` as in the truth; None: values where they fit, else indices;
            `notes` says which.

    Returns:
        The scores. `print(scores)` shows a table; `cases`, `summary.mean["dice"]` in [0, 1], `unit` of the distances
        (`"mm"` where the truth states its spacing, else `"px"`), `notes`.

    Raises:
        InputError: If no names agree, sizes differ, a value is no class, or a file is broken.

    Example:
        ```python
        scores = knowsam.evaluate("preds", "truth", "scores")
        print(scores)
        ```
    """
    from knowsam.evaluation.evaluate import evaluate
    from knowsam.storage import require_writable_folder

    if out is not None:
        require_writable_folder(out)
    return evaluate(
        predictions,
        truth,
        out,
        classes=classes,
        label_values=label_values,
        ignore_value=ignore_value,
        mask_threshold=mask_threshold,
        instances=instances,
        stray_share=stray_share,
        predictions_hold=predictions_hold,
    )


def calibrate(run: str | Path, data: str | Path | None = None, device: str | None = None) -> CalibrationStatus:
    """Learn from a run's validation cases how good its predictions are; writes its `calibration.json`.

    Training ends with it; repeat it for an interrupted run or changed validation masks.

    Args:
        run: The run's folder.
        data: Its data folder, if that was moved.
        device: As in `predict`.

    Returns:
        What estimates of Dice rest on: `calibration` (None: too few cases), `assessment`, and `sentence()`, both in
        words.

    Raises:
        InputError: If there is no run, data or validation case, or the classes are not the network's.

    Example:
        ```python
        print(knowsam.calibrate("runs/a").sentence())
        ```
    """
    from knowsam.reliability.of_run import calibrate_run
    from knowsam.storage import require_writable_folder

    require_writable_folder(run)
    return calibrate_run(run, data, device)


def suggest(
    run: str | Path,
    data: str | Path,
    n: int = 10,
    out: str | Path | None = None,
    *,
    device: str | None = None,
    progress: ProgressStart | None = None,
) -> list[Suggestion]:
    """Say which images to label next: those the network is unsure of and that are unlike the labelled ones.

    Args:
        run: Run folder or `student.safetensors`.
        data: The run's data folder, another one, or a folder of images.
        n: How many images or groups, at least 1.
        out: Folder for `suggest.csv`, `.json`, a page and pictures; None writes nothing.
        device: As in `predict`.
        progress: As in `check`.

    Returns:
        At most n, most useful first: `candidate.group` (name), `.cases` (files), `.dice` (estimated, in [0, 1]);
        `reason` in words.

    Raises:
        InputError: If there is nothing to choose from, or a file is broken.

    Example:
        ```python
        for one in knowsam.suggest("runs/a", "DATA", n=5, out="next"):
            print(one.candidate.group, one.reason)
        ```
    """
    from knowsam.inference.predictor import Predictor
    from knowsam.reliability.suggest import suggest
    from knowsam.storage import require_writable_folder

    if out is not None:
        require_writable_folder(out)
    predictor = Predictor(run, device)
    chosen = suggest(predictor, data, n, progress=progress)
    if out is not None:
        from knowsam.reliability.suggest_output import write_suggestions

        write_suggestions(chosen, predictor, Path(out))
    return chosen


def export(run: str | Path, to: str | Path, network: str | None = None, images: str | Path | None = None) -> Exported:
    """Write the network as one verified file that predicts without knowsam, and a model card.

    Args:
        run: Run folder or `student.safetensors`.
        to: File to write: `.onnx` (needs the extra `export`), or `.pt2` for a `torch.export` program.
        network: `"fused"`, `"unet"` or `"vnet"`, as far as the student has them, or `"distilled"`; None: what
            `predict` uses.
        images: Verify on this file or folder too, beside random images.

    Returns:
        `path`, `card`, `network`, `parameters` (their number), `verification`.

    Raises:
        InputError: If run, suffix or network do not fit, a package is missing, or the file's probabilities differ.

    Example:
        ```python
        print(knowsam.export("runs/a", "model.onnx").verification)
        mask = knowsam.load("model.onnx")(array)
        ```
    """
    from knowsam.inference.export import export
    from knowsam.storage import require_writable_file

    require_writable_file(to, "model.onnx")
    return export(run, to, network, images)


def report(
    run: str | Path,
    out: str | Path | None = None,
    baseline: str | Path | None = None,
    *,
    progress: ProgressStart | None = None,
) -> WrittenReport:
    """Write one page about a run: scores, curves, cases, data, settings, what to do next.

    Args:
        run: The run's folder, finished or not.
        out: File to write; None: `report.html` in the run's folder.
        baseline: Supervised run to compare with; None: one found beside the run.
        progress: As in `check`.

    Returns:
        `path`, and `left_out`: why the page has no cases, or None.

    Raises:
        InputError: If there is no run or no measurement, or the baseline cannot be compared with.

    Example:
        ```python
        print(knowsam.report("runs/a").path)
        ```
    """
    from knowsam.federation.report import is_federation, write_federation_report
    from knowsam.reporting.write import WrittenReport, write_report

    if is_federation(run):
        if baseline is not None:
            raise InputError(
                f"{baseline}: a baseline was given for a federation, but expected one for a run alone; leave it out, or"
                f" draw the report of {run}/start."
            )
        return WrittenReport(write_federation_report(run, out), None)
    return write_report(run, out, baseline, progress)


def compare(
    data: str | Path,
    out: str | Path,
    methods: Sequence[str],
    sam: Sequence[str] = ("none", "tiny"),
    labelled: Sequence[Labelled | None] = (None,),
    seeds: Sequence[int] = (0,),
    *,
    size: int | str | tuple[int, int] | None = None,
    steps: int | None = None,
    batch: str | tuple[int, int] | None = None,
    group_by: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    quiet: bool = False,
) -> Results:
    """Train methods with and without SAM over seeds, score each run once, and write one table.

    Every run is a new process, which imports the script again: call it under `if __name__ == "__main__":`.

    Args:
        data: The data folder.
        out: New folder, or that of an earlier call with the same settings, which goes on.
        methods: Names of methods, or `"FILE.py:CLASS"`.
        sam: Each method with each of these: `"none"`, `"tiny"`, `"vit_b"`, ..., paths.
        labelled: Each with so many groups: numbers, shares, list files; None: all with masks.
        seeds: One run for each.
        size: As in `train`.
        steps: As in `train`.
        batch: As in `train`.
        group_by: As in `check`.
        config: As in `train`.
        settings: As in `train`; those of one method under its name:
            `{"train.clip": 1.0, "knowsam.options.ugda_start": 0.3}`.
        jobs: Runs side by side on this machine, as far as memory reaches.
        scheduler: Address of a Dask cluster that does the runs instead (extra `cluster`).
        quiet: As in `train`.

    Returns:
        `rows` of the table, `failed` (run -> why), `interrupted`, `to_json()`. In `out`: `table.md`, `.csv`, `.json`,
        `.tex`, `figure.png`.

    Raises:
        InputError: For bad settings or data, or a folder with other content; nothing was trained.

    Example:
        ```python
        results = knowsam.compare("DATA", "runs/c", ["supervised", "knowsam"], labelled=[3, 7], seeds=[0, 1, 2])
        print(results.failed)
        ```
    """
    from knowsam.comparison.loop import compare
    from knowsam.comparison.output import write_tables
    from knowsam.storage import require_writable_folder

    require_writable_folder(out)
    given = _settings(config, settings, {}, _given(size=size, steps=steps, batch=batch, group_by=group_by))
    # The folder is an argument of its own; whatever a file says of it gives way, as in `train`.
    if isinstance(given.get("data"), dict):
        given["data"].pop("path", None)
    results = compare(data, out, methods, sam, labelled, seeds, given, quiet, jobs, scheduler)
    write_tables(results)
    return results


def federate(
    public: str | Path,
    out: str | Path,
    sites: Mapping[str, str | Path],
    *,
    method: str = "sam_fed",
    sam: str | None = None,
    rounds: int | None = None,
    steps: int | None = None,
    start_steps: int | None = None,
    local_norm: bool = False,
    min_sites: int | None = None,
    patience: int | None = None,
    size: int | str | tuple[int, int] | None = None,
    batch: str | tuple[int, int] | None = None,
    labelled: Labelled | None = None,
    group_by: str | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    engine: str = "loop",
    job: str | Path | None = None,
    quiet: bool = False,
) -> Federation | None:
    """Train one network at several sites whose images stay where they are (docs/federated.md).

    Repeat the call to go on with one that was interrupted.

    Args:
        public: Labelled folder that everybody may see; it decides about classes and preprocessing.
        out: New or empty folder, or that of this very federation.
        sites: Name -> data folder, with masks or without.
        method: Name of a method, or `"FILE.py:CLASS"`.
        sam: As in `train`.
        rounds: How often the sites' networks become one (50).
        steps: Optimiser steps of a site in a round (20).
        start_steps: Steps on the public set before the first round (200).
        local_norm: Batch-norm statistics stay at their site.
        min_sites: Sites that a round of NVFlare needs; None: all.
        patience: Seconds that it then waits for the others (600).
        size: As in `train`.
        batch: As in `train`.
        labelled: Of the public set, as in `check`.
        group_by: As in `check`.
        seed: As in `train`.
        config: As in `train`.
        settings: As in `train`; of one site `{"sites.a.options.network": "vnet"}`.
        engine: `"loop"`: one process; `"nvflare"`: NVFlare's simulator, to the same weights (extra `federated`).
        job: Folder for a job of NVFlare, which is written instead.
        quiet: As in `train`.

    Returns:
        `folder`, a run's, and those of the sites in its `sites/NAME`; `rounds` done; `best` mean Dice at the sites, in
        [0, 1] or None; `finished`. None for a job.

    Raises:
        InputError: For bad data, settings or names, an occupied folder, or a missing package; nothing was written.

    Example:
        ```python
        done = knowsam.federate("PUBLIC", "runs/fed", {"a": "A", "b": "B"}, sam="tiny")
        print(done.best)
        ```
    """
    from knowsam.federation.loop import start_federation
    from knowsam.federation.plan import make_plan
    from knowsam.storage import require_writable_folder

    require_writable_folder(out if job is None else job)
    labelled = str(labelled) if isinstance(labelled, Path) else labelled
    given = _given(method=method, sam=sam, size=size, batch=batch, labelled=labelled, group_by=group_by, seed=seed)
    numbers = _given(rounds=rounds, steps=steps, start_steps=start_steps, min_sites=min_sites, patience=patience)
    layers = _settings(config, settings, {}, given)
    if isinstance(layers.get("data"), dict):
        layers["data"].pop("path", None)
    plan = make_plan(public, sites, layers, local_norm=local_norm, **numbers)
    return start_federation(plan, Path(out), engine, None if job is None else Path(job), quiet)


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given: defaults have one place, and it is not here."""
    return {name: value for name, value in arguments.items() if value is not None}


def _settings(
    config: str | Path | None, settings: Mapping[str, Any] | None, first: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """A file, `settings` and arguments as one nested mapping, later ones winning."""
    from knowsam.config import load_yaml, merge_layers, nest

    layer = first | {PLACES[name]: value for name, value in given.items()}
    return merge_layers({} if config is None else load_yaml(Path(config)), nest(settings or {}), nest(layer))

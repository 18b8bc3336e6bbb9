"""A folder predicted: the files written, those that failed, and how good each case seems to be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowsam.inference.files import (
    PredictedFile,
    input_folder,
    input_name,
    input_notes,
    list_inputs,
    listed_stems,
    predict_files,
)
from knowsam.inference.predictor import Predictor
from knowsam.io import MaskFormat, case_stem
from knowsam.presentation.console import ProgressStart, start_progress
from knowsam.presentation.text import count_text, first_few
from knowsam.reliability.cases import CASES_FILE, CaseQuality, case_rows, estimate_cases, write_cases
from knowsam.reliability.of_run import CalibrationStatus, load_calibration
from knowsam.storage import output_folder, safe_at_end


@dataclass(frozen=True)
class Predictions:
    """What was predicted.

    Attributes:
        files: What happened to each image, in order; `label` is the mask that was written.
        failed: One sentence for each image that could not be read, and one for names of the list without an image.
        class_names: Background first.
        mask_values: Value of each class in the masks written, where these are not the class indices; else None.
        cases: Estimated Dice of each case, worst first; empty if not asked for.
        basis: What the estimates rest on; `basis.sentence()` says it. None if not asked for.
        cases_file: The table of the cases, None if there is none.
        notes: What a person should know about the input, one sentence each.
        outdated: What to say if the run has a newer network to give, one sentence; else None.
    """

    files: tuple[PredictedFile, ...]
    failed: tuple[str, ...]
    class_names: tuple[str, ...]
    mask_values: tuple[int, ...] | None = None
    cases: tuple[CaseQuality, ...] = ()
    basis: CalibrationStatus | None = None
    cases_file: Path | None = None
    notes: tuple[str, ...] = ()
    outdated: str | None = None

    @property
    def written(self) -> tuple[PredictedFile, ...]:
        """The files that have a mask now."""
        return tuple(item for item in self.files if item.label is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each thing that makes masks doubtful, with the images concerned where it is these."""
        by_doubt: dict[str, list[str]] = {}
        for item in self.written:
            for doubt in item.doubts:
                by_doubt.setdefault(doubt, []).append(item.image.name)
        of_run = () if self.outdated is None else (f"{self.outdated}.",)
        return of_run + tuple(
            f"{len(names)} of {count_text(len(self.written), 'image')} ({first_few(names)}): {doubt}."
            for doubt, names in by_doubt.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values: images and masks, failures, the rows of `cases.csv`, the sentence about them."""
        result: dict[str, Any] = {
            "predicted": [{"image": str(item.image), "mask": str(item.label)} for item in self.written],
            "failed": list(self.failed),
            "warnings": list(self.warnings),
            "mask_values": dict(zip(self.class_names, self.mask_values or range(len(self.class_names)), strict=True)),
            "notes": list(self.notes),
        }
        if self.basis is not None:
            result |= {"cases": case_rows(self.cases, self.class_names), "trust": self.basis.sentence()}
        return result


def predict_folder(
    predictor: Predictor,
    source: str | Path,
    out: str | Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    only: str | Path | Iterable[str] | None = None,
    recursive: bool = False,
    mask_format: MaskFormat | None = None,
    progress: ProgressStart | None = None,
) -> Predictions:
    """Predict a file or a folder; a broken file does not stop the others.

    Args:
        predictor: The network.
        source: A file or a folder.
        out: Where to write.
        overlay: As `with_overlay` of `predict_files`.
        probabilities: As `with_probabilities` of `predict_files`.
        uncertainty: As `with_uncertainty` of `predict_files`; also estimates the Dice of each case and writes
            `cases.csv`.
        only: Predict only these stems: a text file with one a line, or the names; a stem in a subfolder has its path
            before it, `day1/a`, or stands for all of that name.
        recursive: As in `predict_files`.
        mask_format: As in `predict_files`.
        progress: Called with the number of files; returns what to call after each.

    Raises:
        InputError: There is nothing to predict, the list cannot be read, or `out` is where the images lie.
    """
    source, out = Path(source), Path(out)
    top, inputs = input_folder(source), list_inputs(source, out, recursive)
    stems = {input_name(path, top): case_stem(path) for path in inputs}
    known = {*stems, *stems.values()}
    wanted = known if only is None else listed_stems(only, known)
    chosen = {name for name, stem in stems.items() if name in wanted or stem in wanted}
    advance = start_progress(progress, len(chosen))
    files = []
    with output_folder(out), safe_at_end():
        for item in predict_files(
            predictor, source, out, overlay, probabilities, chosen.__contains__, uncertainty, mask_format, recursive
        ):
            files.append(item)
            advance()
    failed = [item.error for item in files if item.error is not None]
    if missing := sorted(wanted - known):
        place = only if isinstance(only, str | Path) else "only"
        failed.append(f"{place}: {first_few(missing)} have no image in {source}; correct the list or add the images.")
    names, values = predictor.class_names, predictor.info.mask_values
    notes, outdated = tuple(input_notes(source, out, recursive)), predictor.outdated
    if not uncertainty or all(item.label is None for item in files):
        return Predictions(tuple(files), tuple(failed), names, values, notes=notes, outdated=outdated)
    basis = load_calibration(predictor.path)
    cases = estimate_cases(files, basis)
    write_cases(cases, names, out / CASES_FILE)
    return Predictions(
        tuple(files), tuple(failed), names, values, tuple(cases), basis, out / CASES_FILE, notes, outdated
    )

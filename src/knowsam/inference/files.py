"""Files in, label maps out: a folder is predicted one file at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knowsam.data.lists import read_lines
from knowsam.data.preprocess import to_unit_range
from knowsam.data.series import scan_series, write_series_table
from knowsam.errors import InputError
from knowsam.functional.uncertainty import CaseSums
from knowsam.inference.predictor import Predictor
from knowsam.io import (
    DICOM,
    IMAGE_SUFFIXES,
    MaskFormat,
    case_stem,
    file_stem,
    file_suffix,
    read_image,
    reader_of,
    write_label,
    write_map,
    write_probabilities,
)
from knowsam.io.names import DISAGREEMENT_SUFFIX, ENTROPY_SUFFIX, OVERLAY_SUFFIX, PROBABILITY_SUFFIX
from knowsam.presentation.orientation import view_of
from knowsam.presentation.pictures import OVERLAY_SIDE, overlay, scale_to, volume_sheet, write_png
from knowsam.runs.student_file import StudentInfo
from knowsam.types import MedicalImage


@dataclass(frozen=True)
class PredictedFile:
    """One file of a folder prediction.

    Attributes:
        image: The input.
        label: The label map written, None if the input could not be read.
        error: Why not, in one sentence.
        sums: What the network says of its own reliability, None if not asked for.
        doubts: What about the image makes its mask doubtful, see `Preprocessing.doubts`.
    """

    image: Path
    label: Path | None
    error: str | None = None
    sums: CaseSums | None = None
    doubts: tuple[str, ...] = ()


def list_inputs(source: Path, own: Path | None = None) -> list[Path]:
    """The image files to predict: the file itself, or all images of a folder, sorted by name.

    A DICOM series, in the folder or below it, is there by its first file; `case_stem` gives its name.

    Args:
        source: A file or a folder (a data folder with `images/` stands for its images).
        own: The output folder, whose files are no inputs.

    Raises:
        InputError: If there is nothing to predict, or two inputs would write the same output.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: nothing was found, but expected an image or a folder of images; check the path.")
    folder = source / "images" if (source / "images").is_dir() else source
    series = scan_series(folder, own=own)
    files = [path for path in folder.iterdir() if path.is_file() and file_suffix(path) and path.parent != own]
    files = sorted({*files} - series.files | {*series.paths_in(folder).values()})
    if not files:
        raise InputError(
            f"{folder}: no image was found, but expected files ending in {' '.join(IMAGE_SUFFIXES)}; check the path."
        )
    by_stem: dict[str, Path] = {}
    for path in files:
        other = by_stem.setdefault(case_stem(path), path)
        if other != path:
            raise InputError(
                f"{path}: {other.name} has the same stem, but expected one image per name, because both"
                " predictions would be"
                " written to one file; rename one."
            )
    return files


def listed_stems(only: str | Path | Iterable[str]) -> set[str]:
    """The stems of a list; as in every list of this package, a name may carry the suffix of its file.

    Args:
        only: A text file with one name a line, or the names themselves.

    Raises:
        InputError: If the file is missing or no text.
    """
    names = [line for _, line in read_lines(Path(only))] if isinstance(only, str | Path) else only
    return {file_stem(name) for name in names}


def input_notes(source: Path, own: Path | None = None) -> list[str]:
    """What a person should know about the DICOM series in a folder to predict: left aside, or read with a warning.

    Args:
        source: As in `list_inputs`.
        own: As in `list_inputs`.
    """
    found = scan_series(source / "images" if (source / "images").is_dir() else source, own=own)
    return [*found.notes, *found.warnings]


def predict_files(
    predictor: Predictor,
    source: str | Path,
    out: str | Path,
    with_overlay: bool = False,
    with_probabilities: bool = False,
    stems: Callable[[str], bool] | None = None,
    with_uncertainty: bool = False,
    mask_format: MaskFormat | None = None,
) -> Iterator[PredictedFile]:
    """Predict a file or a folder, one file at a time; a broken file does not stop the others.

    Args:
        predictor: The network.
        source: A file or a folder.
        out: Where to write; label maps are named like their images. Of DICOM series, `series.csv` says what the names
            stand for.
        with_overlay: Also write `<stem>_overlay.png`; for a volume a sheet of slices.
        with_probabilities: Also write `<stem>_prob` with the soft maps.
        stems: Predict only images whose stem this accepts.
        with_uncertainty: Also write `<stem>_entropy` and, of a network of several students, `<stem>_disagreement`.
        mask_format: Of the label maps of DICOM volumes: `"dicom"` (the default) or `"nifti"`.

    Yields:
        What happened to each file.

    Raises:
        InputError: Nothing to predict, `out` holds the images, or an unknown format.
    """
    if mask_format not in (None, "nifti", "dicom"):
        raise InputError(f"--format: '{mask_format}' was found, but expected dicom or nifti; correct it.")
    source, out = Path(source), Path(out)
    files = [path for path in list_inputs(source, out) if stems is None or stems(case_stem(path))]
    if any(path.resolve().parent == out.resolve() for path in files):
        raise InputError(
            f"{out}: the images themselves lie there, but expected another output folder; choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    series = [path for path in files if reader_of(path) is DICOM]
    if series:
        write_series_table(series, out, source if source.is_dir() else source.parent)
    for path in files:
        try:
            image = read_image(path)
            prediction = predictor.predict(image, with_probabilities, with_uncertainty)
        except InputError as error:
            yield PredictedFile(path, None, str(error))
            continue
        stem = case_stem(path)
        if prediction.probabilities is not None:
            write_probabilities(out / (stem + PROBABILITY_SUFFIX), prediction.probabilities, image)
        if with_overlay:
            write_png(out / f"{stem}{OVERLAY_SUFFIX}.png", draw(image, prediction.label, predictor.info))
        unsure = prediction.uncertainty
        if unsure is not None:
            write_map(out / (stem + ENTROPY_SUFFIX), unsure.entropy, image)
            if unsure.disagreement is not None:
                write_map(out / (stem + DISAGREEMENT_SUFFIX), unsure.disagreement, image)
        try:
            written = write_label(
                out / stem,
                predictor.info.file_values(prediction.label),
                image,
                predictor.info.class_names,
                mask_format,
            )
        except InputError as error:
            yield PredictedFile(path, None, str(error))
            continue
        doubts = tuple(predictor.info.preprocessing.doubts(image))
        yield PredictedFile(path, written, sums=None if unsure is None else unsure.sums, doubts=doubts)


def draw(image: MedicalImage, label: np.ndarray, info: StudentInfo) -> np.ndarray:
    """The label map over the image, `(h, w, 3)` uint8; a volume becomes a sheet of slices, turned as `view_of` says."""
    array = to_unit_range(image, info.preprocessing.normalise)
    if not image.is_volume:
        view = view_of(image)
        return overlay(view.turn(array), view.turn(label), scale_to(label.shape, OVERLAY_SIDE))
    axis = info.preprocessing.axis_of(image)
    view = view_of(image, axis)
    slices, labels = (view.turn(np.moveaxis(values, axis, 0), rows=1) for values in (array, label))
    return volume_sheet(slices, labels)

"""Files in, label maps out: a folder is predicted one file at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knowsam.data.listing import images_below, list_folder
from knowsam.data.lists import read_lines
from knowsam.data.preprocess import to_unit_range
from knowsam.data.series import scan_series, write_series_table
from knowsam.errors import InputError, os_error_sentence
from knowsam.functional.uncertainty import CaseSums
from knowsam.inference.predictor import Predictor
from knowsam.io import (
    DICOM,
    IMAGE_SUFFIXES,
    MaskFormat,
    case_stem,
    read_image,
    reader_of,
    write_label,
    write_map,
    write_probabilities,
)
from knowsam.io.checks import check_regular
from knowsam.io.names import DISAGREEMENT_SUFFIX, ENTROPY_SUFFIX, OVERLAY_SUFFIX, PROBABILITY_SUFFIX, add_suffix
from knowsam.presentation.orientation import view_of
from knowsam.presentation.pictures import OVERLAY_SIDE, overlay, scale_to, volume_sheet, write_png
from knowsam.presentation.text import count_text, first_few
from knowsam.runs.student_file import StudentInfo
from knowsam.storage import remove_unfinished
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
        folder: The subfolder of the input, and of the output, in which it lies.
    """

    image: Path
    label: Path | None
    error: str | None = None
    sums: CaseSums | None = None
    doubts: tuple[str, ...] = ()
    folder: Path = Path()


def list_inputs(source: Path, own: Path | None = None, recursive: bool = False) -> list[Path]:
    """The image files to predict: the file itself, or all images of a folder, sorted by name.

    A DICOM series, in the folder or below it, is there by its first file; `case_stem` gives its name.

    Args:
        source: A file or a folder (a data folder with `images/` stands for its images).
        own: The output folder, whose files are no inputs.
        recursive: Take those of its subfolders, too.

    Raises:
        InputError: If there is nothing to predict, or two inputs would write the same output.
    """
    if source.is_file():
        return [source]
    folder = input_folder(source)
    series = scan_series(folder, own=own)
    files = list_folder(folder, series.files).images
    below = images_below(folder, own, series.files)
    if recursive:
        files += [path for images in below.values() for path in images]
    files += series.paths_in(folder).values()
    if not files:
        found = f"; {left_out} lie in subfolders, which --recursive takes too" if (left_out := _count(below)) else ""
        raise InputError(
            f"{folder}: no image was found, but expected files ending in {' '.join(IMAGE_SUFFIXES)}{found}; check the"
            " path."
        )
    by_name: dict[Path, Path] = {}
    for path in files:
        other = by_name.setdefault(_output_folder(path, folder) / case_stem(path), path)
        if other != path:
            raise InputError(
                f"{path}: {other.name} has the same stem, but expected one image per name, because both"
                " predictions would be"
                " written to one file; rename one."
            )
    return files


def input_folder(source: Path) -> Path:
    """Where the images to predict lie: `images/` of a data folder, else the folder, or that of a file.

    Raises:
        InputError: If there is no such file or folder.
    """
    if source.is_file():
        return source.parent
    if not source.is_dir():
        if os.path.lexists(source):  # a FIFO, a device, a dangling link
            check_regular(source, "file or a folder of images")
        raise InputError(f"{source}: nothing was found, but expected an image or a folder of images; check the path.")
    return source / "images" if (source / "images").is_dir() else source


def left_in_subfolders(source: Path, own: Path | None = None) -> str | None:
    """The sentence about images in subfolders, which are not predicted; None where there are none.

    Args:
        source: As in `list_inputs`.
        own: As in `list_inputs`.
    """
    if source.is_file():
        return None
    folder = input_folder(source)
    below = images_below(folder, own, scan_series(folder, own=own).files)
    if not below:
        return None
    return (
        f"{count_text(len(below), 'subfolder')} with {_count(below)} {'is' if len(below) == 1 else 'are'} not predicted"
        " (" + first_few([str(folder.relative_to(input_folder(source))) for folder in below]) + "); --recursive does."
    )


def _count(below: dict[Path, list[Path]]) -> str:
    """`"12 images"`; `""` where there are none."""
    number = sum(map(len, below.values()))
    return count_text(number, "image") if number else ""


def listed_stems(only: str | Path | Iterable[str], names: Container[str] = ()) -> set[str]:
    """The stems of a list; as in every list of this package, a name may carry the suffix of its file.

    Args:
        only: A text file with one name a line, or the names themselves.
        names: The names there are: a line of the file that is one of them is no comment, even if it begins with `#`.

    Raises:
        InputError: If the file is missing or no text.
    """
    listed = [line for _, line in read_lines(Path(only), names)] if isinstance(only, str | Path) else only
    return {name if name in names else input_name(Path(name), Path()) for name in listed}


def input_name(path: Path, folder: Path) -> str:
    """What a list calls an image: its stem, in a subfolder with its path, as `"day1/a"`; a DICOM series by its stem."""
    return (_output_folder(path, folder) / case_stem(path)).as_posix()


def _output_folder(path: Path, top: Path) -> Path:
    """Where below the output folder an image's files go: as it lies below `top`.

    DICOM series all go to the top, because folders of an export are named after patients.
    """
    return Path() if reader_of(path) is DICOM else path.parent.relative_to(top)


def input_notes(source: Path, own: Path | None = None, recursive: bool = False) -> list[str]:
    """What a person should know about a folder to predict: images in subfolders, DICOM series left aside.

    Args:
        source: As in `list_inputs`.
        own: As in `list_inputs`.
        recursive: As in `list_inputs`.
    """
    if source.is_file():
        return []
    found = scan_series(input_folder(source), own=own)
    left = None if recursive else left_in_subfolders(source, own)
    return [*([] if left is None else [left]), *found.notes, *found.warnings]


def predict_files(
    predictor: Predictor,
    source: str | Path,
    out: str | Path,
    with_overlay: bool = False,
    with_probabilities: bool = False,
    stems: Callable[[str], bool] | None = None,
    with_uncertainty: bool = False,
    mask_format: MaskFormat | None = None,
    recursive: bool = False,
) -> Iterator[PredictedFile]:
    """Predict a file or a folder, one file at a time; a broken file does not stop the others.

    Args:
        predictor: The network.
        source: A file or a folder.
        out: Where to write; label maps are named like their images. Of DICOM series, `series.csv` says what the names
            stand for.
        with_overlay: Also write `<stem>_overlay.png`; for a volume a sheet of slices.
        with_probabilities: Also write `<stem>_prob` with the soft maps.
        stems: Predict only images whose `input_name` this accepts.
        with_uncertainty: Also write `<stem>_entropy` and, of a network of several students, `<stem>_disagreement`.
        mask_format: Of the label maps of DICOM volumes: `"dicom"` (the default) or `"nifti"`.
        recursive: Also predict the images of subfolders, into subfolders of the same names.

    Yields:
        What happened to each file.

    Raises:
        InputError: Nothing to predict, `out` holds the images, or an unknown format.
    """
    if mask_format not in (None, "nifti", "dicom"):
        raise InputError(f"--format: '{mask_format}' was found, but expected dicom or nifti; correct it.")
    source, out = Path(source), Path(out)
    top = input_folder(source)
    files = list_inputs(source, out, recursive)
    files = [path for path in files if stems is None or stems(input_name(path, top))]
    if any(path.resolve().parent == (out / _output_folder(path, top)).resolve() for path in files):
        raise InputError(
            f"{out}: the images themselves lie there, but expected another output folder; choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    series = [path for path in files if reader_of(path) is DICOM]
    if series:
        write_series_table(series, out, source if source.is_dir() else source.parent)
    made = {Path()}
    for path in files:
        folder = _output_folder(path, top)
        try:
            image = read_image(path)
            prediction = predictor.predict(image, with_probabilities, with_uncertainty)
        except InputError as error:
            yield PredictedFile(path, None, str(error), folder=folder)
            continue
        except OSError as error:  # of reading: nothing is written yet
            yield PredictedFile(path, None, os_error_sentence(error, path), folder=folder)
            continue
        if folder not in made:
            (out / folder).mkdir(parents=True, exist_ok=True)
            remove_unfinished(out / folder)
            made.add(folder)
        target = out / folder / case_stem(path)
        if prediction.probabilities is not None:
            write_probabilities(add_suffix(target, PROBABILITY_SUFFIX), prediction.probabilities, image)
        if with_overlay:
            write_png(add_suffix(target, f"{OVERLAY_SUFFIX}.png"), draw(image, prediction.label, predictor.info))
        unsure = prediction.uncertainty
        if unsure is not None:
            write_map(add_suffix(target, ENTROPY_SUFFIX), unsure.entropy, image)
            if unsure.disagreement is not None:
                write_map(add_suffix(target, DISAGREEMENT_SUFFIX), unsure.disagreement, image)
        try:
            written = write_label(
                target,
                prediction.label,
                image,
                predictor.info.class_names,
                mask_format,
                predictor.info.mask_values,
            )
        except InputError as error:
            yield PredictedFile(path, None, str(error), folder=folder)
            continue
        doubts = tuple(predictor.info.preprocessing.doubts(image))
        sums = None if unsure is None else unsure.sums
        yield PredictedFile(path, written, sums=sums, doubts=doubts, folder=folder)


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

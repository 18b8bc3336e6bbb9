"""The output of `knowsam suggest`: a table as CSV and JSON, a picture of each suggestion, all on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knowsam.data.preprocess import to_unit_range
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image
from knowsam.presentation import html
from knowsam.presentation.console import make_console, make_table
from knowsam.presentation.orientation import view_of
from knowsam.presentation.pictures import (
    class_colour,
    contact_sheet,
    css_colour,
    data_uri,
    enlarge,
    heat,
    overlay,
    scale_to,
    write_png,
)
from knowsam.reliability.suggest import Candidate, Suggestion
from knowsam.storage import without_nan, write_csv, write_json, write_text
from knowsam.types import MedicalImage

if TYPE_CHECKING:
    from rich.console import Console

SUGGESTION_SLICES = 6
PICTURE_COLUMNS = ("image", "prediction", "entropy", "disagreement")
PICTURE_SIDE = 160
"""In px; slices of a sheet are enlarged by whole factors to about this side."""


def to_records(suggestions: Sequence[Suggestion]) -> list[dict[str, Any]]:
    """Plain values, best suggestion first; None for unknown."""
    return without_nan(
        [
            {
                "rank": rank,
                "name": item.candidate.group,
                "files": len(item.candidate.cases),
                "dice": round(item.candidate.dice, 4),
                "disputed": round(item.candidate.disputed, 4),
                "entropy": round(item.candidate.entropy, 4),
                "distance": None if math.isinf(item.distance) else round(item.distance, 4),
                "nearest": item.nearest,
                "reason": item.reason,
                "stems": [case.stem for case in item.candidate.cases],
            }
            for rank, item in enumerate(suggestions, start=1)
        ]
    )


def write_suggestions(suggestions: Sequence[Suggestion], predictor: Predictor, out: Path) -> None:
    """Write `suggest.csv`, `suggest.json`, `suggest.html` and `<rank>_<name>.png` of each suggestion into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    records = to_records(suggestions)
    write_json(out / "suggest.json", records)
    columns = [key for key in records[0] if key != "stems"]
    write_csv(out / "suggest.csv", columns, ({key: record[key] for key in columns} for record in records))
    pictures = [draw_candidate(item.candidate, predictor) for item in suggestions]
    for rank, (item, picture) in enumerate(zip(suggestions, pictures, strict=True), start=1):
        # A group's name comes from a table and may hold characters that a file name cannot.
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in item.candidate.group)
        write_png(out / f"{rank:02d}_{name}.png", picture)
    write_text(out / "suggest.html", page(suggestions, pictures, predictor))


def page(suggestions: Sequence[Suggestion], pictures: Sequence[np.ndarray], predictor: Predictor) -> str:
    """All suggestions with their pictures and reasons as one HTML page: no script, no outside file.

    Args:
        suggestions: In order.
        pictures: What `draw_candidate` drew of each.
        predictor: The student that suggests, with the names of the classes.
    """
    shown = [
        {"record": record, "uri": data_uri(picture), "width": picture.shape[1], "height": picture.shape[0]}
        for record, picture in zip(to_records(suggestions), pictures, strict=True)
    ]
    names = predictor.info.class_names[1:]
    return html.render(
        "reliability/suggest.html.j2",
        shown=shown,
        calibrated=all(item.candidate.calibrated for item in suggestions),
        classes=[(name, css_colour(class_colour(k))) for k, name in enumerate(names, start=1)],
        most=SUGGESTION_SLICES,
    )


def draw_candidate(candidate: Candidate, predictor: Predictor) -> np.ndarray:
    """Image, mask over image, entropy and disagreement (black 0 to white 1), one row per slice.

    Of more than `SUGGESTION_SLICES` slices those with the largest sum of entropy are drawn, in their own order.

    Returns:
        `(h, w, 3)` uint8.
    """
    slices: list[list[np.ndarray]] = []
    for case in candidate.cases:
        slices = _most_uncertain(slices + slice_maps(read_image(case.image), predictor))
    rows = []
    for array, label, *maps in slices:
        scale = scale_to(label.shape, PICTURE_SIDE)
        drawn = [overlay(array, shown, scale) for shown in (np.zeros_like(label), label)]
        rows.append(drawn + [enlarge(heat(values), scale) for values in maps])
    return contact_sheet(rows, PICTURE_COLUMNS[: len(rows[0])])


def slice_maps(image: MedicalImage, predictor: Predictor) -> list[list[np.ndarray]]:
    """Image, label, entropy and, where there are students, disagreement of each slice."""
    prediction, preprocessing = predictor.predict(image, uncertainty=True), predictor.info.preprocessing
    unsure = prediction.uncertainty
    assert unsure is not None  # it was asked for
    maps = [to_unit_range(image, preprocessing.normalise), prediction.label, unsure.entropy]
    if unsure.disagreement is not None:
        maps.append(unsure.disagreement)
    if not image.is_volume:
        return [[view_of(image).turn(values) for values in maps]]
    axis = preprocessing.axis_of(image)
    view = view_of(image, axis)
    return [list(map(view.turn, one)) for one in zip(*(np.moveaxis(values, axis, 0) for values in maps), strict=True)]


def _most_uncertain(slices: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """The `SUGGESTION_SLICES` with the largest sum of entropy, in their own order."""
    total = [float(entropy.sum()) for _, _, entropy, *_ in slices]
    return [slices[index] for index in sorted(np.argsort(total)[::-1][:SUGGESTION_SLICES].tolist())]


def print_suggestions(suggestions: Sequence[Suggestion], console: Console | None = None) -> None:
    """Print what to label next, and why."""
    rows = [
        (str(rank), item.candidate.group, str(len(item.candidate.cases)), item.reason)
        for rank, item in enumerate(suggestions, start=1)
    ]
    table = make_table(("", "name", "files", "why"), rows, "Label next", names=(1, 3))
    (console or make_console()).print(table)

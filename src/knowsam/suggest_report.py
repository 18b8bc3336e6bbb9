"""What `knowsam suggest` leaves behind and prints: a table, `suggest.csv`, `suggest.json`, and a picture of each."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knowsam.data.preprocess import to_unit_range
from knowsam.files import without_nan, write_json
from knowsam.io import read_image
from knowsam.io.files import whole_file
from knowsam.pictures import contact_sheet, heat, overlay, write_png
from knowsam.predict import Predictor
from knowsam.suggest import Candidate, Suggestion

SHEET_SLICES = 6
PICTURE_SIDE = 160
"""Slices of a sheet are enlarged by whole factors to about so many pixels."""


def to_records(suggestions: Sequence[Suggestion]) -> list[dict[str, Any]]:
    """Plain values, best suggestion first; not known is None."""
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
    """Write `suggest.csv`, `suggest.json` and `<rank>_<name>.png` of each suggestion into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    records = to_records(suggestions)
    write_json(out / "suggest.json", records)
    columns = [key for key in records[0] if key != "stems"]
    with whole_file(out / "suggest.csv") as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
    for rank, item in enumerate(suggestions, start=1):
        # A group's name comes from a table and may hold what a file name cannot.
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in item.candidate.group)
        write_png(out / f"{rank:02d}_{name}.png", draw_candidate(item.candidate, predictor))


def draw_candidate(candidate: Candidate, predictor: Predictor) -> np.ndarray:
    """Image, mask over image, and entropy (black 0 to white 1) of up to `SHEET_SLICES` slices, one row each.

    Of more slices those with the largest sum of entropy are drawn, in their own order.

    Returns:
        `(h, w, 3)` uint8.
    """
    slices: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for case in candidate.cases:
        image = read_image(case.image)
        prediction = predictor.predict(image, uncertainty=True)
        assert prediction.uncertainty is not None  # it was asked for
        preprocessing = predictor.info.preprocessing
        axis = preprocessing.axis_of(image) if image.is_volume else None
        maps = (to_unit_range(image, preprocessing.normalise), prediction.label, prediction.uncertainty.entropy)
        array, label, entropy = (m[None] if axis is None else np.moveaxis(m, axis, 0) for m in maps)
        slices += zip(array, label, entropy, strict=True)
        slices = _most_uncertain(slices)
    rows = []
    for array, label, entropy in slices:
        factor = max(1, round(PICTURE_SIDE / max(label.shape)))
        pictures = (overlay(array, np.zeros_like(label)), overlay(array, label), heat(entropy))
        rows.append([np.repeat(np.repeat(picture, factor, 0), factor, 1) for picture in pictures])
    return contact_sheet(rows, ("image", "prediction", "entropy"))


def _most_uncertain(slices: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Any]:
    """The `SHEET_SLICES` with the largest sum of entropy, in their own order."""
    total = [float(entropy.sum()) for _, _, entropy in slices]
    keep = sorted(np.argsort(total)[::-1][:SHEET_SLICES].tolist())
    return [slices[index] for index in keep]


def print_suggestions(suggestions: Sequence[Suggestion], console: Any = None) -> None:
    """Print what to label next, and why."""
    from rich.box import SIMPLE_HEAVY
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Label next", box=SIMPLE_HEAVY, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("name", overflow="fold")
    table.add_column("files", justify="right")
    table.add_column("why", overflow="fold")
    for rank, item in enumerate(suggestions, start=1):
        table.add_row(str(rank), escape(item.candidate.group), str(len(item.candidate.cases)), escape(item.reason))
    (console or Console()).print(table)

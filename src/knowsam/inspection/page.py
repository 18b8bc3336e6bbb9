"""The result of a check as one HTML page: findings, counts, pictures. No script, no outside file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowsam.data.labels import LabelCoding
from knowsam.data.pairing import fit_label
from knowsam.errors import InputError
from knowsam.inspection.examine import CaseFacts
from knowsam.inspection.findings import CheckReport, Finding, Severity, counts_line
from knowsam.io import read_image, read_label
from knowsam.presentation import html
from knowsam.presentation.orientation import view_of
from knowsam.presentation.pictures import class_colour, css_colour, data_uri, overlay
from knowsam.presentation.text import count_text, share_text, size_text
from knowsam.storage import require_writable_file, write_text
from knowsam.types import IGNORE, MedicalImage

TEMPLATE = "inspection/page.html.j2"
LONG_SIDE = 220
"""px of a picture's longer side on the page."""

LABELLED_SHOWN, UNLABELLED_SHOWN, FLAGGED_SHOWN = 24, 12, 6
ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Tile:
    """One picture of the page.

    Attributes:
        stem: Of the image.
        caption: The line below it.
        alt: Its alternative text.
        source: The picture as a data URI, "" where the image cannot be drawn.
    """

    stem: str
    caption: str
    alt: str
    source: str


def write_page(report: CheckReport, path: str | Path) -> None:
    """Write the page, whole or not at all.

    Args:
        report: What `check_folder` returned.
        path: The file to write.

    Raises:
        InputError: The path is a folder, or cannot be written.
    """
    path = Path(path)
    require_writable_file(path, "check.html")
    write_text(path, page(report))


def page(report: CheckReport) -> str:
    """The page as HTML.

    Args:
        report: What `check_folder` returned; its images must still be there.
    """
    painter = _Painter(report)
    labelled, unlabelled = _sample(report)
    findings = [
        {"finding": one, "files": one.named, "pictures": painter.of_finding(one)}
        for severity in ORDER
        for one in report.of(severity)
    ]
    return html.render(
        TEMPLATE,
        data=report.data,
        ok=report.ok,
        verdict=report.verdict,
        tallies=[count_text(len(report.of(severity)), severity) for severity in ORDER],
        findings=findings,
        counts={name: counts_line(value) for name, value in report.counts.items()},
        classes=_class_rows(report),
        labelled=painter.tiles(labelled),
        unlabelled=painter.tiles(unlabelled),
    )


def _class_rows(report: CheckReport) -> list[dict[str, Any]]:
    return [
        {
            "count": one,
            "share": share_text(one.pixel_share),
            # On a square-root scale, so that a class of 1 % is still visible.
            "width": round(100 * one.pixel_share**0.5, 1),
            "colour": None if index == 0 else css_colour(class_colour(index)),
        }
        for index, one in enumerate(report.classes)
    ]


def _sample(report: CheckReport) -> tuple[list[str], list[str]]:
    """Stems to show, evenly spread: with a mask that may be seen, and without."""
    drawable = {one.case.stem for one in report.examined if one.size is not None}
    if report.split is None:
        with_mask = [one.case.stem for one in report.examined if one.mask is not None]
        without = [one.case.stem for one in report.examined if one.mask is None]
    else:
        with_mask, without = report.split.labelled + report.split.val, report.split.unlabelled
    return (
        _spread([stem for stem in with_mask if stem in drawable], LABELLED_SHOWN),
        _spread([stem for stem in without if stem in drawable], UNLABELLED_SHOWN),
    )


def _spread(stems: Sequence[str], most: int) -> list[str]:
    if not stems:
        return []
    chosen = np.linspace(0, len(stems) - 1, min(most, len(stems))).round().astype(int)
    return [stems[index] for index in chosen]


class _Painter:
    """Draws images of a report, each once."""

    def __init__(self, report: CheckReport) -> None:
        self.by_stem = {one.case.stem: one for one in report.examined}
        self.coding = report.coding
        self.role: dict[str, str] = {}
        if report.split is not None:
            for name in ("labelled", "unlabelled", "val", "test"):
                role = {"val": "validation"}.get(name, name)
                self.role.update(dict.fromkeys(getattr(report.split, name), role))
        self._drawn: dict[str, Tile] = {}

    def of_finding(self, finding: Finding) -> list[list[Tile]]:
        """Pictures of a finding: pairs side by side, all else one by one."""
        wanted = [list(pair) for pair in finding.pairs[:FLAGGED_SHOWN]]
        if not wanted:
            drawable = [stem for stem in finding.files if self._is_drawable(stem)]
            wanted = [[stem] for stem in _spread(drawable, FLAGGED_SHOWN)]
        self.tiles(stem for stems in wanted for stem in stems)
        return [self.tiles(stems) for stems in wanted]

    def tiles(self, stems: Iterable[str]) -> list[Tile]:
        """One tile for each stem, in order."""
        stems = list(stems)
        missing = [stem for stem in dict.fromkeys(stems) if stem not in self._drawn]
        with ThreadPoolExecutor(2) as pool:
            self._drawn.update(zip(missing, pool.map(self._draw, missing), strict=True))
        return [self._drawn[stem] for stem in stems]

    def _is_drawable(self, stem: str) -> bool:
        return stem in self.by_stem and self.by_stem[stem].size is not None

    def _draw(self, stem: str) -> Tile:
        one = self.by_stem[stem]
        parts = [self.role.get(stem, "no part in training")]
        if one.size is None:
            return Tile(stem, "cannot be read", f"{stem}: the image cannot be read", "")
        parts.append(size_text(one.size))
        try:
            hidden = one.case.label is not None and parts[0] == "unlabelled"
            picture, shown = draw_case(one, None if hidden else self.coding)
        except InputError:  # It changed since it was examined.
            return Tile(stem, "cannot be read", f"{stem}: the image cannot be read", "")
        if shown is None:
            seen = "without mask" if one.case.label is None else "its mask is not drawn"
            seen = "its mask is hidden" if hidden else seen
        else:
            seen = f"with {', '.join(shown)}" if shown else "with an empty mask"
        parts += (
            [] if one.case.label is None else [", ".join(shown) if shown else "empty mask" if shown == [] else seen]
        )
        return Tile(stem, " · ".join(parts), f"{stem}, {parts[0]} image {seen}", data_uri(picture, largest_png=0))


def draw_case(one: CaseFacts, coding: LabelCoding | None) -> tuple[np.ndarray, list[str] | None]:
    """The image, of a volume the slice with most foreground, with its mask drawn.

    Returns:
        `(h, w, 3)` uint8, and the foreground classes that it shows; None where no mask is drawn.
    """
    from knowsam.data.preprocess import to_unit_range

    image = read_image(one.case.image)
    label = _class_map(one, image, coding)
    if label is not None:
        label = np.where(label == IGNORE, 0, label)
    array = to_unit_range(image)
    if image.is_volume:
        axis = image.geometry.slice_axis
        array = np.moveaxis(array, axis, 0)
        index = len(array) // 2
        if label is not None:
            label = np.moveaxis(label, axis, 0)
            foreground = (label > 0).sum(axis=(1, 2))
            index = int(foreground.argmax()) if foreground.any() else index
            label = label[index]
        array = array[index]
    view = view_of(image)
    array, label = _resized(view.turn(array), None if label is None else view.turn(label))
    if label is None:
        return overlay(array, np.zeros(array.shape[:2], int)), None
    names = coding.names if coding is not None else ()
    return overlay(array, label), [names[index] for index in np.unique(label).tolist() if index > 0]


def _class_map(one: CaseFacts, image: MedicalImage, coding: LabelCoding | None) -> np.ndarray | None:
    """The mask as classes, None where there is none that can be drawn."""
    if one.mask is None or one.label_error or coding is None or coding.problem(one.mask):
        return None
    return coding.encode(fit_label(image, read_label(one.mask.path)))


def _resized(array: np.ndarray, label: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Image `(H, W, C)` and mask `(H, W)` at the size of the page."""
    from PIL import Image

    height, width = array.shape[:2]
    scale = LONG_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(array[..., channel])).resize(size, Image.Resampling.BICUBIC))
        for channel in range(array.shape[-1])
    ]
    if label is not None:
        small = Image.fromarray(label.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
        label = np.asarray(small).astype(int)
    return np.clip(np.stack(channels, axis=-1), 0, 1), label

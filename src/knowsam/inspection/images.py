"""The findings about images: unreadable, mixed, constant, turned, inverted or duplicated ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from knowsam.data.lists import natural_sorted
from knowsam.inspection.duplicates import Duplicates, exact_duplicates, exact_sets, near_duplicates
from knowsam.inspection.examine import VOLUME_GRID, CaseFacts, cell_means
from knowsam.inspection.findings import CheckReport, spacing_summary
from knowsam.inspection.inverted import FEWEST_IMAGES, find_negatives
from knowsam.io import file_suffix
from knowsam.presentation.text import count_clause, count_text, size_summary

SMALLEST_SIDE = 16
"""px; the students halve an image four times, so anything smaller is a thumbnail or a mistake."""

FEW = 0.1
"""Up to this share, images with the histogram of a negative are exceptions, above it a second kind of image."""

FEWEST_NEIGHBOURS = 5
"""Pairs of copies from which their names may tell a video."""

TYPE_NAMES = {
    "uint8": "8 bit",
    "uint16": "16 bit",
    "bool": "1 bit",
    "float32": "32-bit float",
    "float64": "64-bit float",
}


def judge_images(report: CheckReport) -> None:
    """Unreadable files; formats, sizes, channels, bit depths and spacings; constant, tiny and turned images."""
    examined, split = report.examined, report.split
    opened = {one.case.stem for one in examined}
    if split is not None:
        opened = {*split.labelled, *split.unlabelled, *split.val}
    broken = [one for one in examined if one.image_error]
    _unreadable(report, [one for one in broken if one.case.stem in opened], True)
    _unreadable(report, [one for one in broken if one.case.stem not in opened], False)
    read = [one for one in examined if one.size is not None]
    # A file without a known suffix is known by its content: DICOM.
    formats = Counter(file_suffix(one.case.image) or ".dcm" for one in examined)
    report.counts["formats"] = dict(formats.most_common())
    if not read:
        return
    report.counts["sizes"] = size_summary([one.size for one in read if one.size is not None])
    report.counts["channels"] = dict(sorted(Counter(one.channels for one in read).items()))
    depths = Counter(TYPE_NAMES.get(one.dtype, one.dtype) for one in read)
    report.counts["bit depth"] = dict(depths.most_common())
    _judge_spacing(report, read)
    _judge_mixtures(report, read)
    _warn(
        report,
        "constant",
        (one for one in read if one.constant),
        ("is constant", "are constant"),
        ", one value everywhere.",
        "Export them again, or remove them: nothing can be learned from them.",
    )
    _warn(
        report,
        "tiny",
        (one for one in read if one.size is not None and len(one.size) == 2 and min(one.size) < SMALLEST_SIDE),
        ("has", "have"),
        f" a side below {SMALLEST_SIDE} px.",
        "Make sure that these are no thumbnails.",
    )


def judge_contrast(report: CheckReport) -> None:
    """Images that look like negatives of the others; pictures and volumes are compared apart, if there are enough."""
    shown = [one for one in report.examined if one.thumbnail is not None]
    pictures = [one for one in shown if one.thumbnail is not None and one.thumbnail.ndim == 2]
    volumes = [one for one in shown if one.thumbnail is not None and one.thumbnail.ndim == 3]
    # Volumes stored slice by slice beside slices (SSL4MIS's HDF5) can be compared with those.
    beside = [one for one in volumes if one.slice_axis is None]
    if len(volumes) < FEWEST_IMAGES <= len(pictures) and beside:
        _judge_contrast_of(report, beside, np.stack([*map(_middle_slice, beside), *map(_middle_slice, pictures)]))
    else:
        _judge_contrast_of(report, volumes, _stacked(volumes))
    _judge_contrast_of(report, pictures, _stacked(pictures))


def _stacked(shown: list[CaseFacts]) -> np.ndarray:
    return np.stack([one.thumbnail for one in shown if one.thumbnail is not None]) if shown else np.zeros((0, 1, 1))


def _middle_slice(one: CaseFacts) -> np.ndarray:
    """A slice on the grid of volumes, whatever the thumbnail."""
    assert one.thumbnail is not None
    if one.thumbnail.ndim == 3:
        return one.thumbnail[len(one.thumbnail) // 2].astype(np.float32)
    return cell_means(one.thumbnail.astype(np.float32), VOLUME_GRID[1:])


def _judge_contrast_of(report: CheckReport, judged: list[CaseFacts], thumbnails: np.ndarray) -> None:
    """Report the negatives among the first thumbnails, which are those of the images judged; the rest is company."""
    coloured = next((one.chroma for one in judged if one.chroma is not None), None)
    chroma = None
    if coloured is not None:
        grey = np.zeros_like(coloured)
        chroma = np.stack([grey if one.chroma is None else one.chroma for one in judged])
    found = find_negatives(thumbnails, chroma)
    stems = [one.case.stem for one, marked in zip(judged, found.marks, strict=False) if marked]
    others = [one.case.stem for one, marked in zip(judged, found.by_histogram, strict=False) if marked]
    if len(others) > FEW * len(thumbnails):
        _note_two_kinds(report, others, len(thumbnails))
        others = []
    for listed, doubt in ((stems, ""), (others, ", or they are another kind of image")):
        if listed:
            report.add(
                "warning",
                "inverted",
                f"{count_clause(len(listed), 'image', 'looks', 'look')} inverted, dark where the "
                f"others are bright{doubt}.",
                "Look at them; invert those that are negatives (255 - value), keep what is meant.",
                listed,
            )


def _note_two_kinds(report: CheckReport, stems: list[str], number: int) -> None:
    labelled = set() if report.split is None else {*report.split.labelled} & {*stems}
    report.add(
        "note",
        "two-kinds",
        f"The folder holds two kinds of images: {count_text(len(stems), 'image')} of {number} are dark where the others"
        f" are bright, and {len(labelled)} of them {'is' if len(labelled) == 1 else 'are'} labelled.",
        "Make sure that images of both kinds are labelled and in validation, or train on each kind by itself.",
        stems,
    )


def judge_copies(report: CheckReport) -> None:
    """The same picture, exactly or nearly, in several groups or several times; worst where it crosses the split."""
    for duplicates, exactly in ((exact_duplicates(report.examined), True), (near_duplicates(report.examined), False)):
        across, within = _by_sides(report, duplicates)
        kind = "exact" if exactly else "near"
        alike = "pixel for pixel" if exactly else "nearly the same"
        advice = "Give the copies one group in groups.csv, so that no split parts them"
        advice += "" if exactly else ", if they are the same"
        advice += " (--write-groups writes it)."
        if not exactly and _are_neighbours(report, duplicates):
            advice += " Most follow each other by name: all frames of a video, or slices of a scan, are one group."
        harm = ": scores on validation or test will be too good"
        for found, name, where in (
            (across, "leak", f"on both sides of the split, {alike}{harm}"),
            (within, "copies", f"in another group, {alike}"),
        ):
            if found:
                stems, groups = _stems(found), {group for one in found for group in one.groups}
                occur = "occurs" if len(stems) == 1 else "occur"
                text = f"{count_text(len(stems), 'image')} of {count_text(len(groups), 'group')} {occur} {where}."
                report.add("warning", f"{kind}-{name}", text, advice, sorted(stems), pairs=_pairs(found))
    _judge_repeated(report)


def _are_neighbours(report: CheckReport, duplicates: Iterable[Duplicates]) -> bool:
    """True where most pairs, and not just a few, are next to each other in the natural order of names."""
    place = {stem: number for number, stem in enumerate(natural_sorted(one.case.stem for one in report.examined))}
    apart = [abs(place[first] - place[second]) for one in duplicates for first, second in one.pairs]
    return len(apart) >= FEWEST_NEIGHBOURS and 2 * sum(distance <= 2 for distance in apart) > len(apart)


def _judge_repeated(report: CheckReport) -> None:
    """Equal images of one group, and equal images with different masks."""
    repeated, contradicting = [], []
    for same in exact_sets(report.examined):
        by_group: dict[str, list[str]] = defaultdict(list)
        for one in same:
            by_group[one.case.group].append(one.case.stem)
        repeated += [(stems[0], other) for stems in by_group.values() for other in stems[1:]]
        masked = [one for one in same if one.label_digest]
        contradicting += [
            (masked[0].case.stem, one.case.stem) for one in masked[1:] if one.label_digest != masked[0].label_digest
        ]
    if repeated:
        report.add(
            "note",
            "repeated",
            f"{count_text(len(repeated), 'image')} repeat{'s' if len(repeated) == 1 else ''} another of the same"
            " group, pixel for pixel: it counts double.",
            "Remove the copies.",
            [stem for pair in repeated for stem in pair],
            pairs=repeated,
        )
    if contradicting:
        report.add(
            "warning",
            "contradicting-masks",
            f"{count_text(len(contradicting), 'pair')} of equal images {'has' if len(contradicting) == 1 else 'have'} "
            "different masks.",
            "Keep the mask that is right, for both or for one of them.",
            [stem for pair in contradicting for stem in pair],
            pairs=contradicting,
        )


def _by_sides(report: CheckReport, duplicates: Iterable[Duplicates]) -> tuple[list[Duplicates], list[Duplicates]]:
    """Duplicates of which a pair lies on two sides of the split, and the rest."""
    side: dict[str, str] = {}
    if report.split is not None:
        for name, stems in (
            ("training", report.split.labelled),
            ("training", report.split.unlabelled),
            ("val", report.split.val),
            ("test", report.split.test),
        ):
            side.update(dict.fromkeys(stems, name))
    across: list[Duplicates] = []
    within: list[Duplicates] = []
    for one in duplicates:
        sides = [{side.get(stem) for stem in pair} - {None} for pair in one.pairs]
        (across if any(len(both) > 1 for both in sides) else within).append(one)
    return across, within


def _stems(duplicates: Iterable[Duplicates]) -> set[str]:
    return {stem for one in duplicates for stem in one.stems}


def _pairs(duplicates: Iterable[Duplicates]) -> list[tuple[str, str]]:
    """One pair of each two groups first, so that those shown differ; then the others."""
    listed = list(duplicates)
    return [one.pairs[0] for one in listed] + [pair for one in listed for pair in one.pairs[1:]]


def _unreadable(report: CheckReport, broken: list[CaseFacts], opened_in_training: bool) -> None:
    if not broken:
        return
    aside = "" if opened_in_training else ", but training does not open them"
    report.add(
        "error" if opened_in_training else "warning",
        "unreadable-image",
        f"{count_text(len(broken), 'image')} cannot be read{aside}.",
        "Export or copy them again, or remove them.",
        [one.case.stem for one in broken],
        [one.image_error or "" for one in broken],
    )


def _judge_spacing(report: CheckReport, read: list[CaseFacts]) -> None:
    spacings = [one.spacing_mm for one in read if one.spacing_mm is not None]
    report.counts["spacing"] = spacing_summary(spacings) if spacings else "unknown: distances in px"
    if 0 < len(spacings) < len(read):
        report.add(
            "warning",
            "spacing",
            f"{len(read) - len(spacings)} of {len(read)} images have no known spacing: their distances are in px, the "
            "others' in mm.",
            "Store all images in a format with spacing, or evaluate the two kinds in folders of their own.",
            [one.case.stem for one in read if one.spacing_mm is None],
        )


def _judge_mixtures(report: CheckReport, read: list[CaseFacts]) -> None:
    if len({one.channels for one in read}) > 1:
        report.add(
            "note",
            "channels",
            "Grey and colour images are mixed.",
            "One labelled colour image makes all of them RGB; data.channels=1 makes all grey.",
        )
    # Volumes are mapped by percentiles whatever their type, see `to_unit_range`.
    if len({one.dtype == "uint8" for one in read if one.size is not None and len(one.size) == 2}) > 1:
        report.add(
            "warning",
            "bit-depth",
            "8-bit pictures are mixed with others: the former are divided by 255, the latter mapped by percentiles.",
            "data.normalise=percentile treats all of them alike.",
        )
    if len({len(one.size) for one in read if one.size is not None}) > 1:
        report.add("note", "dimensions", "Volumes and single slices are mixed.", "Nothing to do if that is meant.")
    sizes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for one in read:
        if one.size is not None and len(one.size) == 2:
            sizes[one.case.volume].add(one.size)
    uneven = {volume for volume, found in sizes.items() if len(found) > 1}
    if uneven:
        report.add(
            "warning",
            "uneven-volumes",
            f"{count_clause(len(uneven), 'volume', 'has', 'have')} slices of different sizes,"
            " which `evaluate` cannot stack.",
            "If they are no slices of one scan, give each a volume of its own in groups.csv (stem,group,volume).",
            [one.case.stem for one in read if one.case.volume in uneven],
        )


def _warn(
    report: CheckReport, kind: str, found: Iterable[CaseFacts], verb: tuple[str, str], rest: str, suggestion: str
) -> None:
    stems = [one.case.stem for one in found]
    if stems:
        report.add(
            "warning", kind, f"{count_text(len(stems), 'image')} {verb[len(stems) > 1]}{rest}", suggestion, stems
        )

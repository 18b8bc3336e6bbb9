"""What is said about mask values that mean nothing yet: file, what was found, what was expected, what to type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsam.data.mask_values import GREY_FROM, MaskFacts, TwoGroups
from knowsam.presentation.text import count_text, share_text

SHOWN_VALUES, SHOWN_FILES = 6, 3
SMALL_SHARE = 0.01
"""Up to this share of a mask values of no class may be slips, and `stray_share` is offered."""


def option(name: str, value: Any) -> str:
    """A setting as it is typed: `data.NAME=VALUE` for train, `--name VALUE` for check and evaluate."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return f"data.{name}=true (check, evaluate: {flag})"
    if isinstance(value, list | tuple):
        listed = ",".join(map(str, value))
        return f"data.{name}=[{listed}] (check, evaluate: {flag} {listed})"
    return f"data.{name}={value} (check, evaluate: {flag} {value})"


def listed(values: Iterable[int], most: int = SHOWN_VALUES) -> str:
    """The first few of some values."""
    values = list(values)
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


def unknown_values(mask: MaskFacts, unknown: Mapping[int, int], values: Sequence[int], ignore_value: int | None) -> str:
    """A mask has values outside the classes.

    Args:
        mask: The mask.
        unknown: Pixels of each such value.
        values: Those of the classes.
        ignore_value: Of pixels without truth.
    """
    pixels = sum(unknown.values())
    advice = "correct the mask, or say with data.classes or data.label_values what the values mean"
    if set(unknown) == {255} and ignore_value is None:
        advice = f"if 255 marks pixels without ground truth type {option('ignore_value', 255)}, else correct the mask"
    elif pixels <= SMALL_SHARE * mask.pixels:
        advice = (
            f"correct the mask, or let slips take the nearest class's value: type {option('stray_share', SMALL_SHARE)}"
        )
    ignored = "" if ignore_value is None else f" and {ignore_value} to ignore"
    return (
        f"{mask.path}: mask values outside the classes: {listed(unknown)} ({pixels} px, "
        f"{share_text(pixels / mask.pixels)}); expected only [{listed(values, len(values))}]{ignored}; {advice}."
    )


def jpeg_classes(mask: MaskFacts) -> str:
    """JPEG masks of more than two classes, or of values too near to be told apart."""
    largest = max(mask.counts)
    advice = "export the masks again as PNG from where they were drawn"
    if largest >= GREY_FROM:
        advice += f", or train all objects against the background with {option('mask_threshold', largest // 4 + 1)}"
    return (
        f"{mask.path}: a mask in JPEG, which blurs values, and not of background and one object in two clearly"
        f" different greys; expected a lossless mask; {advice}."
    )


def blurred(masks: Sequence[MaskFacts], groups: TwoGroups, n_values: int) -> str:
    """Masks of background and one object that were resampled or once were JPEG."""
    return (
        f"{masks[0].path}: {n_values} different values in {count_text(len(masks), 'mask')}, in two groups as if they"
        f" had been interpolated or compressed, {groups.doubtful} px ({share_text(groups.doubtful / groups.pixels)})"
        f" far from both; expected one value for each class; type {option('mask_threshold', groups.threshold)}: all"
        f" from {groups.threshold} on is the object."
    )


def slips(masks: Sequence[MaskFacts], main: Sequence[int], stray: Sequence[int]) -> str:
    """A few pixels between or beside the values of the classes.

    Args:
        masks: All masks.
        main: The values of the classes.
        stray: The others.
    """
    concerned = [(mask, {value: mask.counts[value] for value in stray if value in mask.counts}) for mask in masks]
    concerned = [pair for pair in concerned if pair[1]]
    concerned.sort(key=lambda pair: -sum(pair[1].values()))
    parts = []
    for index, (mask, found) in enumerate(concerned[:SHOWN_FILES]):
        name = str(mask.path) if index == 0 else mask.path.name
        parts.append(f"{name}: {sum(found.values())} px of value {listed(found)}")
    more = f" and {len(concerned) - SHOWN_FILES} more" if len(concerned) > SHOWN_FILES else ""
    share = max(sum(found.values()) / mask.pixels for mask, found in concerned)
    needed = SMALL_SHARE if share <= SMALL_SHARE else min(1.0, float(f"{share * 1.05:.2g}"))
    if len(main) == 2:
        threshold = (main[0] + main[1] + 1) // 2
        advice = f"type {option('mask_threshold', threshold)}, which reads all from {threshold} on as the object"
    else:
        advice = f"type {option('stray_share', needed)}, which gives them the nearest of these values"
    return (
        f"{', '.join(parts)}{more} ({len(concerned)} of {count_text(len(masks), 'mask')}), beside the values"
        f" {listed(main)}; expected one value for each class; look at them: if they are slips {advice}, and if they are"
        " classes name all values with data.label_values (check, evaluate: --label-values)."
    )


def white_or_ignored(path: Path, classes: Sequence[int]) -> str:
    """255 beside class indices: no truth, the object in some masks, or one more class."""
    return (
        f"{path}: mask value 255 beside the values {listed(classes)}; expected one meaning; if 255 marks pixels without"
        f" ground truth type {option('ignore_value', 255)}, if some masks have 255 for 1 type"
        f" {option('mask_threshold', 1)}, if it is a class type {option('label_values', [*classes, 255])}."
    )


def instances(path: Path, n_values: int, n_masks: int) -> str:
    """Values that number objects."""
    return (
        f"{path}: the {n_values} values of {n_masks} masks seem to number objects: each is one connected piece, and not"
        f" every mask has the same; expected classes; type {option('instances', True)} to make all objects one class,"
        f" or {option('classes', n_values + 1)} if they are classes."
    )


def too_many_values(path: Path, seen: Sequence[int]) -> str:
    """More values than classes that anybody would draw."""
    threshold = option("mask_threshold", (seen[0] + seen[-1] + 1) // 2)
    meanings = [f"if they are greys of one object {threshold}", f"if they number objects {option('instances', True)}"]
    if seen[-1] != 255:
        meanings.reverse()
    return (
        f"{path}: the masks have {len(seen)} different values from {seen[0]} to {seen[-1]}; expected one value for each"
        f" class; type, {', '.join(meanings)}, if they are classes data.classes={len(seen)}."
    )

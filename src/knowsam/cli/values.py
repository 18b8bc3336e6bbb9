"""Text of the command line as values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from knowsam.errors import InputError


def parse_settings(overrides: list[str] | None) -> dict[str, Any]:
    """`key=value` arguments."""
    from knowsam.config import parse_overrides

    return parse_overrides(overrides or [])


def parse_classes(text: str | None) -> int | list[str] | None:
    """`"4"` or `"background,liver"`."""
    if text is None:
        return None
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",")]


def parse_values(text: str | None) -> list[int] | None:
    """`"0,85,170"`."""
    return None if text is None else parse_numbers(text, "--label-values", "0,85,170")


def parse_sites(given: list[str]) -> dict[str, Path]:
    """`["a=FOLDER", "b=FOLDER"]`."""
    sites: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--site: '{one}' was found, but expected NAME=FOLDER; correct it.")
        if name in sites:
            raise InputError(
                f"--site: {name} was found twice ({sites[name]} and {folder}), but expected each name once; rename one."
            )
        sites[name] = Path(folder)
    return sites


def parse_names(option: str, text: str) -> list[str]:
    """`"supervised, knowsam"`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"{option}: '{text}' was found, but expected names with commas between them; correct it.")
    return parts


def parse_numbers(text: str, option: str, example: str) -> list[int]:
    """`"0,1,2"`."""
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise InputError(f"{option}: '{text}' was found, but expected whole numbers like {example}; correct it.")
    return [int(part) for part in text.split(",")]

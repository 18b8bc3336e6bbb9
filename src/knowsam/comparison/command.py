"""The arguments of `knowsam compare`, from text to values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.loop import compare
from knowsam.comparison.output import print_tables, write_tables
from knowsam.comparison.results import Results, read_results
from knowsam.config import load_yaml, merge_layers, parse_overrides
from knowsam.errors import InputError


def settings(config: Path | None, overrides: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """File, `key=value` and flags as one nested mapping, later ones winning, without the data folder."""
    merged = merge_layers({} if config is None else load_yaml(config), parse_overrides(overrides), flags)
    # The folder is an argument of its own; whatever a file says of it gives way, as in `train`.
    merged["data"].pop("path")
    return merged


def run(data: Path, out: Path, lists: Mapping[str, str], given: Mapping[str, Any], quiet: bool) -> Results:
    """Do the grid and write its tables.

    Args:
        data: The data folder.
        out: The folder of the comparison.
        lists: `methods`, `sam`, `labelled`, `seeds` as texts with commas.
        given: From `settings`.
        quiet: No progress.
    """
    parts = {option: _split(option, text) for option, text in lists.items()}
    seeds = [_seed(text) for text in parts["seeds"]]
    results = compare(data, out, parts["methods"], parts["sam"], parts["labelled"], seeds, given, quiet)
    write_tables(results)
    return results


def rebuild(folder: Path) -> Results:
    """Write the tables of what is there."""
    results = read_results(CompareFolder(folder))
    write_tables(results)
    return results


def show(results: Results) -> None:
    """Print the tables."""
    print_tables(results)


def _split(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"--{option}: '{text}' was found, but expected names with commas between them; correct it.")
    return parts


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"--seeds: '{text}' was found, but expected whole numbers like 0,1,2; correct it.")
    return int(text)

"""The folder of a comparison: its files, and the check that a new call continues the comparison it holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from knowsam.comparison.grid import Cell, Grid
from knowsam.config import (
    VALIDATE_AT_LEAST_EVERY,
    Config,
    flat,
    merge_layers,
    nest,
    paper_settings,
    read_resolved,
    resolve_config,
)
from knowsam.errors import InputError
from knowsam.presentation.text import first_few
from knowsam.runs.folder import RunFolder
from knowsam.storage import is_unused, read_json, reason_of, write_json

FORMAT = 1
HARMLESS = (
    "data.path",
    "data.cache_mb",
    "data.workers",
    "train.distil",
    "train.report",
    "train.tensorboard",
    "train.log_every",
    "train.checkpoint_every",
)
"""Settings that change no score, so that a comparison may be continued with other values."""

FORMER_DEFAULTS: dict[str, Any] = {
    "train.validate_every": VALIDATE_AT_LEAST_EVERY,
    "train.flip": "both",
    "train.class_prior": False,
    "sam.kd_weight": 0.2,
    "sam.temperature": 10.0,
    "sam.normalise": "sam",
}
"""Of short runs, before they changed."""


class CompareFolder:
    """The files of a comparison.

    `compare.json` the grid, `runs/CELL/` a run as `knowsam train` leaves it, `cells/CELL/` its outcome: `outcome.json`,
    `scores.csv` (per case), `scores.json`, `log.txt`; `table.*` and `figure.*` the results.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.grid = self.path / "compare.json"

    def run(self, cell: Cell) -> RunFolder:
        """The run of a cell."""
        return RunFolder(self.path / "runs" / cell.name)

    def cell(self, cell: Cell) -> Path:
        """Where the outcome of a cell is."""
        return self.path / "cells" / cell.name

    def read(self) -> Grid:
        """Read the grid.

        Raises:
            InputError: If there is none.
        """
        if not self.grid.is_file():
            raise InputError(
                f"{self.path}: no comparison was found (no {self.grid.name}), but expected the folder of one; check"
                " the path."
            )
        values = read_json(self.grid, "restore it, or choose another --out")
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']}")
            cells = tuple(Cell(**cell) for cell in values["cells"])
            settings = {name: read_resolved(given) for name, given in values["settings"].items()}
            return Grid(cells, settings, values["own"], values.get("footnotes", _footnotes(settings)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.grid}: no grid could be read ({reason_of(error)}), but expected what `knowsam compare` writes;"
                " restore it, or choose another --out."
            ) from error

    def write(self, grid: Grid) -> None:
        """Write the grid."""
        settings = {name: config.model_dump(mode="json") for name, config in grid.settings.items()}
        cells = [asdict(cell) for cell in grid.cells]
        values = {"format": FORMAT, "cells": cells, "settings": settings, "own": grid.own, "footnotes": grid.footnotes}
        write_json(self.grid, values)


def _footnotes(methods: Iterable[str]) -> dict[str, str]:
    """The footnotes of a comparison that was written before they were part of its grid."""
    from knowsam.methods import METHODS

    return {name: METHODS[name].footnote for name in methods if name in METHODS}


def join_grids(folder: CompareFolder, asked: Grid) -> Grid:
    """The grid of the folder and the one asked for, as one.

    Args:
        folder: Where the comparison is or will be.
        asked: This call's grid.

    Returns:
        The asked settings; the cells of both, those of the folder first.

    Raises:
        InputError: If the folder holds something else, or a comparison under other settings.
    """
    path = folder.path
    if not folder.grid.exists():
        if not is_unused(path):
            raise InputError(
                f"{path}: other files were found, but expected a new or empty folder or that of an earlier comparison;"
                " choose another --out."
            )
        return asked
    there = folder.read()
    if there.data.resolve() != asked.data.resolve():
        raise InputError(
            f"{path}: a comparison on {there.data} was found, but {asked.data} was asked for; choose another --out."
        )
    # A new method must be as comparable as those that are there, its own options aside.
    reference = next((config for name, config in there.settings.items() if name not in there.own), None)
    differing: dict[str, list[str]] = {}
    for name, config in asked.settings.items():
        before = there.settings.get(name, config if name in asked.own else reference or config)
        for key, (was, now) in _differences(before, config).items():
            new = name not in there.settings
            if not (new and (key.startswith(("method", "options.")) or _demands(before, key) or _demands(config, key))):
                differing.setdefault(f"{key} is {was!r} there and {now!r} here", []).append(name)
    if differing:
        said = [
            sentence + ("" if len(names) == len(asked.settings) else f" ({', '.join(names)})")
            for sentence, names in differing.items()
        ]
        raise InputError(
            f"{path}: a comparison under other settings was found: {first_few(said)}; expected the same settings;"
            " repeat them or choose another --out."
        )
    cells = tuple(dict.fromkeys([*there.cells, *asked.cells]))
    return replace(
        asked,
        cells=cells,
        settings=there.settings | asked.settings,
        own=there.own | asked.own,
        footnotes=there.footnotes | asked.footnotes,
    )


def as_it_began(folder: CompareFolder, asked: Grid) -> tuple[Grid, list[str]]:
    """The grid asked for, with the former defaults that the comparison in the folder began with.

    A default that has changed since would else end every comparison that is not finished. What is asked for by itself
    and is no default is left for `join_grids` to refuse.

    Returns:
        The grid, and the settings that were kept, e.g. `"train.flip=both"`.
    """
    if not folder.grid.exists():
        return asked, []
    before = [flat(config.model_dump(mode="json")) for config in folder.read().settings.values()]
    kept: dict[str, None] = {}

    def kept_as_before(config: Config) -> Config:
        steps = config.train.steps
        now = flat(config.model_dump(mode="json"))
        default = flat(
            resolve_config({"method": config.method, "preset": config.preset, "train": {"steps": steps}}).model_dump()
        )
        former = {
            key: value
            for key, value in FORMER_DEFAULTS.items()
            if now[key] == default[key] != value
            and any((one["train.steps"], one[key]) == (steps, value) for one in before)
        }
        kept.update((f"{key}={value}", None) for key, value in former.items())
        return Config.model_validate(merge_layers(config.model_dump(), nest(former)))

    grid = replace(asked, settings={name: kept_as_before(config) for name, config in asked.settings.items()})
    return grid, list(kept)


def _demands(config: Config, key: str) -> bool:
    """Whether a setting has the value that the paper of its method asks for, see `paper_settings`."""
    from knowsam.methods import known_method

    method = known_method(config.method)
    if method is None:
        return False
    section, _, name = key.partition(".")
    asked = paper_settings(method, config.preset).get(section, {})
    return name in asked and getattr(getattr(config, section), name) == asked[name]


def _differences(there: Config, here: Config) -> dict[str, tuple[Any, Any]]:
    before, now = flat(there.model_dump(mode="json")), flat(here.model_dump(mode="json"))
    return {
        key: (before.get(key), now.get(key))
        for key in before | now
        if before.get(key) != now.get(key) and key not in HARMLESS
    }

"""The grid of a comparison: its cells, their settings, their splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from knowsam.config import Config, flat, resolve_config
from knowsam.data.folder import DataFolder, scan_folder
from knowsam.data.split import Split, make_split, parse_labelled
from knowsam.errors import InputError
from knowsam.plugins import absolute, names_file

ALL = "all"
"""Stands for every training mask."""
BASE = {"train": {"report": False}}
"""Under whatever the user sets: a comparison is read by its table; `knowsam report RUN` draws the page of one run."""
VARIED = {
    ("method",): "--methods",
    ("sam", "name"): "--sam",
    ("data", "labelled"): "--labelled",
    ("train", "seed"): "--seeds",
    ("data", "path"): "DATA",
}
"""Settings that cells differ in -> the argument that gives them."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        method: A name for `load_method`; a file with its full path.
        sam: `"none"`, the name of a SAM, or a path.
        labelled: `"7"` groups, `"10%"` of them, the path of a list, or `ALL`.
        seed: Seed of everything random.
    """

    method: str
    sam: str
    labelled: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder: `knowsam_sam-tiny_labelled-7_seed-0`."""
        return f"{_slug(self.method)}_sam-{_slug(self.sam)}_labelled-{_slug(self.labelled)}_seed-{self.seed}"

    def __str__(self) -> str:
        sam = "" if self.sam == "none" else f" + SAM {short_name(self.sam)}"
        return f"{short_name(self.method)}{sam}, labelled {short_name(self.labelled)}, seed {self.seed}"


def short_name(text: str) -> str:
    """The last part of a path; anything else as it is."""
    return Path(text).name if "/" in text else text


def _slug(text: str) -> str:
    text = text.replace("%", "percent")
    if re.fullmatch(r"[\w.-]+", text):
        return text
    # Two paths may have the same last part.
    return re.sub(r"[^\w.-]", "-", Path(text).name) + "-" + hashlib.sha1(text.encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        cells: The runs, in the order in which they are done.
        settings: Method -> the configuration of its cells, apart from what cells differ in.
        own: Method -> settings that were given for it alone, as `key: value`.
        footnotes: Method -> its `footnote`, kept because a user's method may not be known when tables are written.
    """

    cells: tuple[Cell, ...]
    settings: dict[str, Config]
    own: dict[str, dict[str, Any]]
    footnotes: dict[str, str]

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(next(iter(self.settings.values())).data.path)

    def config(self, cell: Cell) -> Config:
        """The configuration of a cell."""
        varied = {
            "sam": {"name": cell.sam},
            "data": {"labelled": None if cell.labelled == ALL else cell.labelled},
            "train": {"seed": cell.seed},
        }
        return resolve_config(self.settings[cell.method].model_dump(mode="json"), varied)


def plan_grid(
    data: str | Path,
    methods: Sequence[str],
    sam: Sequence[str] = ("none", "tiny"),
    labelled: Sequence[int | float | str | Path | None] = (None,),
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
) -> Grid:
    """Every combination of methods, SAMs, labelled subsets and seeds, checked before anything is trained.

    Args:
        data: The data folder.
        methods: Names that `load_method` knows, `PATH.py:CLASS` among them.
        sam: `"none"` for the methods alone, names of SAMs, paths.
        labelled: As `data.labelled` of a run; None keeps all masks.
        seeds: Whole numbers from 0.
        settings: Settings of all runs, nested as in a configuration; under the name of a method, or of the class
            in a file, those of its runs alone.

    Returns:
        The grid; one seed after the other, so that an early stop leaves complete columns.

    Raises:
        InputError: For an unknown method, SAM or setting, a negative seed, or nothing to compare.
    """
    from knowsam.methods import load_method

    for name, given in (("methods", methods), ("sam", sam), ("labelled", labelled), ("seeds", seeds)):
        if not given:
            raise InputError(f"--{name}: nothing was found, but expected at least one; add it.")
    wrong = [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0]
    if wrong:
        raise InputError(f"--seeds: {wrong[0]!r} was found, but expected whole numbers from 0; correct it.")
    subsets = [labelled_text(value) for value in labelled]
    teachers = [_sam_text(name) for name in sam]
    names = [absolute(name) for name in methods]
    keys = {key: name for name, given in zip(names, methods, strict=True) for key in (name, given, _own_key(name))}
    shared = {key: value for key, value in (settings or {}).items() if key not in keys}
    given_alone = {keys[key]: value for key, value in (settings or {}).items() if key in keys}
    own: dict[str, Any] = {name: given_alone.get(name, {}) for name in names}
    resolved = {name: _resolve(name, Path(data), shared, own[name], len(names)) for name in names}
    footnotes = {name: load_method(name).footnote for name in names}
    order = product(subsets, seeds, names, teachers)
    cells = dict.fromkeys(Cell(method, teacher, subset, seed) for subset, seed, method, teacher in order)
    return Grid(tuple(cells), resolved, {name: flat(values) for name, values in own.items() if values}, footnotes)


def _own_key(method: str) -> str:
    """The key of the settings of one method alone: its name, or that of the class in a file."""
    return method.rpartition(":")[2] if names_file(method) else method


def labelled_text(value: int | float | str | Path | None) -> str:
    """One spelling for each subset: `0.1` and `"10%"` are both `"10%"`; a list file has its full path."""
    if value is None or value == ALL:
        return ALL
    parsed = parse_labelled(str(value))
    if isinstance(parsed, Path):
        return str(parsed.resolve())
    return str(parsed) if isinstance(parsed, int) else f"{100 * parsed:.10g}%"


def _sam_text(name: str) -> str:
    from knowsam.sam.loading.build import check_sam_name, settled_name

    if name == "none":
        return name
    check_sam_name(name)
    return settled_name(name)


def _resolve(method: str, data: Path, shared: Mapping[str, Any], own: Any, methods: int) -> Config:
    if not isinstance(own, Mapping):
        key = _own_key(method)
        raise InputError(f"'{key}={own}' was found, but expected {key}.KEY=VALUE for a setting of {key} alone.")
    for layer in (shared, own):
        for place, option in VARIED.items():
            if _reach(layer, place):
                raise InputError(
                    f"the setting {'.'.join(place)} was found, but expected {option}, because the runs of a comparison"
                    " differ in it; use that."
                )
    if "data" in own:
        raise InputError(
            f"a setting {_own_key(method)}.data was found, but expected the same data for all methods; leave it out."
        )
    varied = {"method": method, "sam": {"name": "none"}, "data": {"path": str(data.resolve())}}
    try:
        return resolve_config(BASE, shared, own, varied)
    except InputError as error:
        hint = ""
        if methods > 1 and "options" in shared:
            hint = f" (an option of one method alone is given as {_own_key(method)}.options.NAME=VALUE)"
        raise InputError(f"{short_name(method)}: {error}{hint}") from error


def _reach(layer: Any, place: tuple[str, ...]) -> bool:
    """Whether a nested mapping sets a key; a bare `sam=tiny` sets `sam.name`."""
    for part in place:
        if not isinstance(layer, Mapping):
            return True
        if part not in layer:
            return False
        layer = layer[part]
    return True


def plan_splits(grid: Grid) -> tuple[DataFolder, dict[tuple[str, int], Split]]:
    """The split of each (labelled, seed): the same for every method. Opens no image.

    Raises:
        InputError: For a folder that does not fit, or more labelled groups than it has.
    """
    settings = next(iter(grid.settings.values())).data
    folder = scan_folder(grid.data, group_by=settings.group_by)
    splits = {}
    for cell in grid.cells:
        wanted = None if cell.labelled == ALL else parse_labelled(cell.labelled)
        splits[cell.labelled, cell.seed] = make_split(folder, wanted, settings.val_fraction, cell.seed)
    return folder, splits

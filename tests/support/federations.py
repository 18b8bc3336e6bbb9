"""Federations small enough for one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from knowsam.config import merge_layers
from knowsam.federation.plan import Plan, make_plan
from support.folders import make_folder

WITHOUT_DROPOUT = {"widths": [4, 8], "dropout": [0.0, 0.0]}
SMALL: dict[str, Any] = {
    "method": "sam_fed",
    "sam": "none",
    "preset": "paper",
    "data": {"size": 32},
    "train": {"batch": "2+2", "log_every": 1, "optimiser": "adamw", "lr": 1e-3},
    "options": {"network_arguments": WITHOUT_DROPOUT},
}


def make_sites(root: Path, *, masks: int = 3, count: int = 2, **folder: Any) -> tuple[Path, dict[str, str | Path]]:
    """A public folder of four masks and sites `a`, `b`, ... of five images, the first of them with masks."""
    public = make_folder(root / "public", n_images=4, n_masks=4, **folder)
    sites: dict[str, str | Path] = {}
    for name in "abcdef"[:count]:
        sites[name] = make_folder(root / name, n_images=5, n_masks=masks, **folder)
    return public, sites


def small_plan(
    root: Path, settings: dict[str, Any] | None = None, masks: int = 3, count: int = 2, **numbers: Any
) -> Plan:
    """Two sites, two rounds of two steps, three steps on the public set before."""
    public, sites = make_sites(root, masks=masks, count=count)
    given = {"rounds": 2, "steps": 2, "start_steps": 3, "public_epochs": 1} | numbers
    return make_plan(public, sites, merge_layers(SMALL, settings or {}), **given)

"""Which mirroring the labels allow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from knowsam.data.mirroring import allowed_flips

Place = tuple[int, int]


def label(*centres: Place) -> np.ndarray:
    """A disc of each class, 1 and up, at its centre."""
    rows, columns = np.mgrid[:48, :48]
    drawn = np.zeros((48, 48), np.int64)
    for index, (row, column) in enumerate(centres, start=1):
        drawn[(rows - row) ** 2 + (columns - column) ** 2 < 16] = index
    return drawn


def anywhere(rng: np.random.Generator) -> Place:
    return int(rng.integers(6, 42)), int(rng.integers(6, 42))


@pytest.mark.parametrize(
    ("place", "left"),
    [
        (lambda rng: [(int(rng.integers(6, 18)), anywhere(rng)[1]), (int(rng.integers(30, 42)), anywhere(rng)[1])],
         "horizontal"),
        (lambda rng: [(anywhere(rng)[0], int(rng.integers(6, 18))), (anywhere(rng)[0], int(rng.integers(30, 42)))],
         "vertical"),
        (lambda rng: [(int(rng.integers(6, 18)), 8), (int(rng.integers(30, 42)), 36)], "none"),
        (lambda rng: [anywhere(rng), anywhere(rng)], "both"),
    ],
)  # fmt: skip
def test_a_fixed_order_is_kept(place: Callable[[np.random.Generator], list[Place]], left: str) -> None:
    rng = np.random.default_rng(0)
    flip, left_out = allowed_flips([label(*place(rng)) for _ in range(30)], 3)
    assert flip == left
    assert set(left_out) == {"both": set(), "none": {"horizontal", "vertical"}}.get(
        left, {"horizontal", "vertical"} - {left}
    )
    assert set(left_out.values()) <= {(1, 2)}


def test_what_says_nothing_about_an_order() -> None:
    ordered = [label((10, 24), (36, 24))] * 30
    assert allowed_flips(ordered[:4], 3)[0] == "both"  # too few slices
    assert allowed_flips([np.minimum(one, 1) for one in ordered], 2)[0] == "both"  # one class has no order
    assert allowed_flips([label((10, 24))] * 30, 3)[0] == "both"  # never together
    ring = np.where(label((24, 24)) == 1, 2, np.pad(np.ones((12, 12), np.int64), ((19, 17), (18, 18))))
    assert allowed_flips([ring] * 30, 3)[0] == "both"  # one around the other: a pixel apart
    assert allowed_flips(ordered[:27] + [label((36, 24), (10, 24))] * 3, 3)[0] == "both"  # 90 %


def test_the_pair_at_fault_is_named() -> None:
    rng = np.random.default_rng(0)
    labels = [label(anywhere(rng), (18, int(rng.integers(6, 42))), (30, int(rng.integers(6, 42)))) for _ in range(30)]
    assert allowed_flips(labels, 4) == ("horizontal", {"vertical": (2, 3)})


@pytest.mark.parametrize(("name", "left"), [("wbc", "both"), ("hippocampus", "vertical"), ("acdc", "vertical")])
def test_real_sets(shared_data: Path, name: str, left: str) -> None:
    """Nuclei lie anywhere; a hippocampus has its head in front, a heart its right ventricle on one side."""
    from knowsam.config import resolve_config
    from knowsam.training.data import load_data, plan_split

    given = {"method": "supervised", "preset": "short", "data": {"path": str(shared_data / name), "size": 64,
             "labelled": "10%"}}  # fmt: skip
    config = resolve_config(given)
    data = load_data(config, *plan_split(config), use_unlabelled=False)
    assert data.flip == left
    assert sum("not mirrored" in note for note in data.notes) == (left != "both")

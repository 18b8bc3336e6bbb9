"""Do the prompts that PCSW finds in a student's rough masks hit the object? Against simpler rules, on hidden masks.

The volumes are those of a run's unlabelled cases; their masks, which the run never opened, are opened here. Each rule
names a slice for each class of a volume, with a box and a point there. A box hits if its IoU with the true box of that
slice is at least .5, a point if it lies in the object. Beside that: the boxes of all slices, and how many pixels called
an object are rightly so, before and after PCSW.

    knowsam train DATA --out runs/a --method supervised --sam none --steps 100 --labelled 10
    python benchmarks/volume_prompts.py runs/a
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from knowsam.data.lists import grouped
from knowsam.data.pairing import read_pair
from knowsam.data.preprocess import resize_label
from knowsam.functional.boxes import SlicePrompt, slice_prompt
from knowsam.functional.probabilities import most_probable_class
from knowsam.functional.pseudo_labels import largest_piece
from knowsam.functional.volume_objects import Window, find_object
from knowsam.inference.predictor import Predictor
from knowsam.runs.cases import open_cases
from knowsam.runs.folder import RunFolder

HIT = 0.5
Slices = list[SlicePrompt | None]
Rule = Callable[[np.ndarray], tuple[int, Slices]]


def best_window(mask: np.ndarray) -> tuple[int, Slices]:
    """PCSW: the object of the window with the largest piece."""
    return of_object(mask, "best")


def first_window(mask: np.ndarray) -> tuple[int, Slices]:
    """PCSW as released: the first window that is continuous enough."""
    return of_object(mask, "first")


def of_object(mask: np.ndarray, window: Window) -> tuple[int, Slices]:
    """Key slice and prompts of `find_object`."""
    found = find_object(mask, window=window)
    assert found is not None  # only asked where the class is
    return found.key, [found.prompt(position) for position in range(len(mask))]


def largest_slice(mask: np.ndarray) -> tuple[int, Slices]:
    """The slice with most of the class, a box around all of it."""
    return int(mask.sum(axis=(1, 2)).argmax()), [slice_prompt(one) for one in mask]


def slice_pieces(mask: np.ndarray) -> tuple[int, Slices]:
    """The largest piece of each slice, and the slice of the largest of them."""
    pieces = np.stack([largest_piece(one) for one in mask])
    return int(pieces.sum(axis=(1, 2)).argmax()), [slice_prompt(one) for one in pieces]


RULES: dict[str, Rule] = {
    "PCSW, best window": best_window,
    "PCSW, first window": first_window,
    "largest slice": largest_slice,
    "slice-wise pieces": slice_pieces,
}


@dataclass
class Tally:
    """Counts of one rule.

    Attributes:
        boxes: Of each (volume, class): whether the box in the named slice hits.
        points: The same of the point.
        slices: Of each slice with the class in truth or with a prompt: whether its box hits.
    """

    boxes: list[bool] = field(default_factory=list)
    points: list[bool] = field(default_factory=list)
    slices: list[bool] = field(default_factory=list)

    def judge(self, key: int, prompts: Slices, truth: np.ndarray) -> None:
        """Count one class of one volume; `truth` is `(S, H, W)` bool."""
        hits = [box_hits(prompt, slice_prompt(one)) for prompt, one in zip(prompts, truth, strict=True)]
        self.boxes.append(bool(hits[key]))
        prompt = prompts[key]
        self.points.append(prompt is not None and bool(truth[key][int(prompt.point[1]), int(prompt.point[0])]))
        self.slices += [hit for hit in hits if hit is not None]


def box_hits(found: SlicePrompt | None, true: SlicePrompt | None) -> bool | None:
    """Whether a box has an IoU of at least `HIT` with the true one; None where there is neither."""
    if found is None and true is None:
        return None
    if found is None or true is None:
        return False
    low = np.maximum(found.box[:2], true.box[:2])
    high = np.minimum(found.box[2:], true.box[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (found.box, true.box)]
    return common / (sum(areas) - common) >= HIT


def volumes(run: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rough masks and true ones, `(S, H, W)` class indices at network size, of every unlabelled volume."""
    predictor, cases = Predictor(run), open_cases(RunFolder(run))
    preprocessing = predictor.info.preprocessing
    for files in grouped(cases.of("unlabelled"), lambda case: case.volume).values():
        rough, true = [], []
        for case in files:
            if case.label is None:
                continue
            image, label = read_pair(case.image, case.label)
            for part in preprocessing.slices(image).split(32):
                used = next(iter(predictor.outputs(part).values()))
                rough.append(most_probable_class(used).cpu().numpy())
            native = preprocessing.label_slices(cases.coding.encode(label), image)
            true.append(resize_label(native, preprocessing.size).numpy())
        if rough:
            yield np.concatenate(rough), np.concatenate(true)


def measure(pairs: Iterator[tuple[np.ndarray, np.ndarray]], classes: int) -> tuple[dict[str, Tally], dict[str, float]]:
    """Tallies by rule; and the share of pixels called an object that are rightly so, and of true ones that are kept."""
    tallies = {name: Tally() for name in RULES}
    counts = np.zeros(5)
    for rough, true in pairs:
        for number in range(1, classes):
            mask, truth = rough == number, true == number
            found = find_object(mask)
            kept = np.zeros_like(mask) if found is None else found.mask
            both = mask & truth, kept & truth
            counts += [mask.sum(), both[0].sum(), kept.sum(), both[1].sum(), truth.sum()]
            for name, rule in RULES.items():
                key, prompts = rule(mask) if found is not None else (0, [None] * len(mask))
                tallies[name].judge(key, prompts, truth)
    called, right, kept_called, kept_right, all_true = (float(count) for count in counts)
    return tallies, {
        "precision": right / max(called, 1), "precision after PCSW": kept_right / max(kept_called, 1),
        "recall": right / max(all_true, 1), "recall after PCSW": kept_right / max(all_true, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="run folder whose unlabelled cases have masks after all")
    arguments = parser.parse_args()
    tallies, shares = measure(volumes(arguments.run), Predictor(arguments.run).classes)
    table = Table("rule", "box hits", "point in object", "boxes of all slices hit")
    for name, tally in tallies.items():
        table.add_row(name, *(f"{np.mean(one):.3f}" for one in (tally.boxes, tally.points, tally.slices)))
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {share:.3f}" for name, share in shares.items()), highlight=False)


if __name__ == "__main__":
    main()

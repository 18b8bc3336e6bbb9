"""How much better could answers to wrong masks be? What bounds a SAM that has never seen a folder.

On the objects and the corrupted masks of `sam_prompts.py`, mean IoU of:

- `appearance`: pixels told apart by how bright it is inside and around the given mask, and how far they are from its
  boundary, at the settings that suit the folder best. What image and mask say without anything learned.
- `appearance known`: the same with the brightness of the truth. What brightness can say at best.
- `trained on it`: the SAM after some steps on half of the folder's files, on the other half. What is gained by knowing
  what the objects of this folder look like, which no pretraining on other images can know.

    python benchmarks/sam_ceiling.py tiny DATA [DATA ...] --joined DATA --components DATA --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage
from torch import Tensor

from knowsam.sam.corruption import corrupt
from knowsam.sam.loading.build import build_sam
from knowsam.sam.pretrain.promptable import PromptableSam, mask_loss
from knowsam.sam.pretrain.steps import MASK, SEVERITY
from knowsam.storage import write_json
from sam_prompts import Objects, ask, corrupted, draw_objects, each_folder, enlarge, mean_iou, parser

BLURS = (0.7, 1.5)
"""Standard deviations in pixels at which brightness is looked at."""
TRUSTS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Log-odds by which a pixel is the likelier inside, the further it is from the given mask's boundary, per pixel."""
AROUND = 20
"""How far around a mask, in pixels, its surroundings reach."""
LEVELS = 64
"""Steps of brightness."""
BATCH, LR = 8, 3e-4


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=50, help="on half of the folder, 8 objects each (%(default)s)")
    measure(options.parse_args())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All folders; writes `ceiling.json` and prints the table."""
    results: dict[str, Any] = {}
    for name, folder, kind in each_folder(arguments):
        objects = draw_objects(folder, kind, arguments)
        logits = corrupted(objects, arguments.seed)
        given = enlarge(logits, objects.truth) > 0
        truth = objects.truth > 0.5
        results[name] = {
            "objects": len(truth),
            "given": mean_iou(given, truth),
            "appearance": best_by_appearance(objects.image, given, given, truth),
            "appearance_known": best_by_appearance(objects.image, given, truth, truth),
            **by_training(arguments, objects, logits),
        }
    write_json(arguments.out / "ceiling.json", {"sam": arguments.sam, "size": arguments.size, "folders": results})
    columns = ("objects", "given", "appearance", "appearance_known", "tested", "given_tested", "untrained", "trained")
    table = Table("folder", *[name.replace("_", " ") for name in columns])
    for name, row in results.items():
        table.add_row(name, *[f"{row[column]:.3f}".removesuffix(".000") for column in columns])
    Console(highlight=False, width=110).print(table)
    return results


def best_by_appearance(image: Tensor, given: Tensor, known: Tensor, truth: Tensor) -> float:
    """Mean IoU of what brightness and distance to the given boundary say, at the settings that suit these objects best.

    Args:
        image: `(N, 3, H, W)` in [0, 1].
        given: The given masks, `(N, H, W)` bool.
        known: The masks whose brightness is known, `(N, H, W)` bool: the given ones, or the truth.
        truth: `(N, H, W)` bool.
    """
    settings = list(product(BLURS, TRUSTS))
    answers = np.repeat(given.numpy()[None], len(settings), axis=0)
    for index, (pixels, mask, looked_at) in enumerate(
        zip(image.mean(dim=1).numpy(), given.numpy(), known.numpy(), strict=True)
    ):
        around = ndimage.binary_dilation(looked_at, iterations=AROUND) & ~looked_at
        if not (mask.any() and looked_at.any() and around.any()):
            continue  # nothing to tell apart: the mask stays as it is
        depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
        odds = {blur: log_odds(pixels, looked_at, around, blur) for blur in BLURS}
        for answer, (blur, trust) in zip(answers, settings, strict=True):
            answer[index] = ndimage.gaussian_filter(odds[blur] + trust * depth, 2) > 0
    return max(mean_iou(torch.from_numpy(answer), truth) for answer in answers)


def log_odds(pixels: np.ndarray, inside: np.ndarray, around: np.ndarray, blur: float) -> np.ndarray:
    """How much the brightness of each pixel `(H, W)` speaks for what is inside against what is around."""
    level = (ndimage.gaussian_filter(pixels, blur) * (LEVELS - 1)).round().astype(int).clip(0, LEVELS - 1)
    return (np.log(_histogram(level[inside])) - np.log(_histogram(level[around])))[level]


def _histogram(levels: np.ndarray) -> np.ndarray:
    """Share of each level, smoothed, nowhere 0."""
    counts = ndimage.gaussian_filter1d(np.bincount(levels, minlength=LEVELS).astype(float), 2) + 0.1
    return counts / counts.sum()


def by_training(arguments: argparse.Namespace, objects: Objects, logits: Tensor) -> dict[str, float]:
    """The SAM on the first half of the files, before and after training on the second; masks only, with flips."""
    sam, report = build_sam(arguments.sam, (arguments.size, arguments.size))
    model = PromptableSam(sam, report.pixels)
    first = objects.case <= objects.case.median()
    tested, seen, prompts = objects.part(first), objects.part(~first), logits[first]
    truth = tested.truth > 0.5

    def answered() -> float:
        return mean_iou(ask(model.eval(), tested, MASK, prompts) > 0, truth)

    untrained = answered()
    generator = torch.Generator().manual_seed(arguments.seed)
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=LR, weight_decay=0.05)
    for step in track(range(arguments.steps), "training", transient=True):
        for group in optimiser.param_groups:
            group["lr"] = LR * (1 - step / arguments.steps)
        batch = seen.part(torch.randint(len(seen.truth), (BATCH,), generator=generator))
        loss = _loss(model.train(), batch, _flips(generator), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    given = mean_iou(enlarge(prompts, tested.truth) > 0, truth)
    return {"tested": len(truth), "given_tested": given, "untrained": untrained, "trained": answered()}


def _flips(generator: torch.Generator) -> list[int]:
    """Axes to turn round, each with probability one half."""
    return [axis for axis in (-1, -2) if torch.rand((), generator=generator) < 0.5]


def _loss(model: PromptableSam, batch: Objects, flips: Sequence[int], generator: torch.Generator) -> Tensor:
    """The pretraining's loss of answers to freshly corrupted masks."""
    image, truth, other = (one.flip(list(flips)) for one in (batch.image, batch.truth, batch.other))
    small, neighbour = (F.avg_pool2d(mask[:, None], 2)[:, 0] for mask in (truth, other))
    prompt = corrupt(small, neighbour, generator, SEVERITY)
    count = len(small)
    kind, point = torch.full((count,), MASK), torch.zeros(count, 2)
    inside, box = torch.ones(count, dtype=torch.bool), torch.zeros(count, 4)
    answer, quality = model.answer(model.encode(image), kind, prompt, point, inside, box)
    return mask_loss(answer, quality, small, torch.ones(count))[0]


if __name__ == "__main__":
    main()

"""What should the students' map become, a mask prompt, boxes, or both? Each after the same short adaptation.

A SAM is adapted to a few labelled images of a folder as in training, from corrupted truths as prompts, and then asked
about other images with other corrupted truths: mean Dice of the foreground classes of its answer (the most probable
class), before and after, beside that of the prompts themselves. Every folder starts from the same weights and sees the
same images and prompts for each kind.

    python benchmarks/sam_prompt_kinds.py lite_medsam DATA [DATA ...] --out FILE.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowsam.data.discover import discover_coding
from knowsam.data.folder import scan_folder
from knowsam.data.pairing import read_pair
from knowsam.data.preprocess import Preprocessing, resize_label
from knowsam.functional.losses import segmentation_loss
from knowsam.sam.corruption import corrupt_prompts
from knowsam.sam.distillation import SamDistillation
from knowsam.storage import write_json

KINDS = ("mask", "box", "box+mask")
LR = 1e-3
"""As in `preset: short`."""


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("sam")
    options.add_argument("data", type=Path, nargs="+")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--kinds", nargs="+", default=KINDS)
    options.add_argument("--size", type=int, default=128, help="of the students' images (%(default)s)")
    options.add_argument("--sam-size", type=int, default=128, help="at which SAM sees them (%(default)s)")
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--images", type=int, nargs=2, default=(12, 24), help="adapted to, tested on (%(default)s)")
    arguments = options.parse_args()
    results: dict[str, Any] = {}
    for folder in arguments.data:
        image, label, classes = read_images(folder, arguments.size, sum(arguments.images))
        for kind in arguments.kinds:
            results.setdefault(folder.name, {})[kind] = adapt(arguments, kind, image, label, classes)
            print(folder.name, kind, results[folder.name][kind], flush=True)
            write_json(arguments.out, {**vars(arguments), "out": str(arguments.out), "data": None, "results": results})


def read_images(folder: Path, side: int, count: int) -> tuple[Tensor, Tensor, int]:
    """The slice with most foreground of `count` groups: images `(N, 3, H, W)`, labels, number of classes."""
    scanned = scan_folder(folder)
    cases, rng, size = scanned.labelled_cases(), np.random.default_rng(0), (side, side)
    coding, preprocessing = discover_coding(cases).coding, Preprocessing(size, 3)
    images, labels, groups = [], [], set()
    for case in (cases[index] for index in rng.permutation(len(cases))):
        if case.group in groups:
            continue
        pixels, mask = read_pair(case.image, case.label)
        slices = resize_label(preprocessing.label_slices(coding.encode(mask), pixels), size)
        best = int(slices.flatten(1).gt(0).sum(dim=1).argmax())
        if len(slices[best].unique()) < coding.classes:
            continue
        groups.add(case.group)
        images.append(preprocessing.slices(pixels)[best])
        labels.append(slices[best])
        if len(images) == count:
            break
    return torch.stack(images), torch.stack(labels), coding.classes


def adapt(arguments: argparse.Namespace, kind: Any, image: Tensor, label: Tensor, classes: int) -> dict[str, float]:
    """Mean Dice of the prompts, of SAM's answers to them before and after adaptation; CPU seconds per step."""
    torch.manual_seed(0)
    teacher = SamDistillation.from_name(
        arguments.sam, size=tuple(image.shape[-2:]), classes=classes, sam_size=arguments.sam_size, prompt=kind
    ).teacher
    seen, tested = image[: arguments.images[0]], image[arguments.images[0] :]
    seen_label, truth = label[: len(seen)], label[len(seen) :]
    torch.manual_seed(1)
    empty = torch.zeros(len(tested), classes, *label.shape[1:])
    prompts, _ = corrupt_prompts(empty, truth, 1.0)

    @torch.no_grad()
    def answered() -> float:
        teacher.eval()
        answers = [teacher(tested[i : i + 4], prompts[i : i + 4]).argmax(dim=1) for i in range(0, len(tested), 4)]
        return mean_dice(torch.cat(answers), truth, classes)

    before, started = answered(), time.process_time()
    optimiser = torch.optim.Adam([one for one in teacher.parameters() if one.requires_grad], lr=LR)
    for step in range(arguments.steps):
        torch.manual_seed(2 + step)
        for group in optimiser.param_groups:
            group["lr"] = LR * (1 - step / arguments.steps)
        chosen = torch.randint(len(seen), (arguments.batch,))
        pixels, target = seen[chosen], seen_label[chosen]
        if torch.rand(()) < 0.5:
            pixels, target = pixels.flip(-1), target.flip(-1)
        prompt, _ = corrupt_prompts(torch.zeros(len(target), classes, *target.shape[1:]), target, 1.0)
        loss = segmentation_loss(teacher.train()(pixels, prompt), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    seconds = (time.process_time() - started) / max(1, arguments.steps)
    given = mean_dice(prompts.argmax(dim=1), truth, classes)
    return {"given": given, "before": before, "after": answered(), "seconds_per_step": seconds}


def mean_dice(found: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over images and foreground classes."""
    scores = []
    for number in range(1, classes):
        one, other = found == number, truth == number
        total = one.sum(dim=(1, 2)) + other.sum(dim=(1, 2))
        scores.append(torch.where(total > 0, 2 * (one & other).sum(dim=(1, 2)) / total.clamp(min=1), 1.0))
    return float(torch.stack(scores).mean())


if __name__ == "__main__":
    main()

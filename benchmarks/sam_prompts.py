"""Is a SAM a segmenter on images it has never seen? Mask, box: its answer against what anybody could do without it.

For each data folder objects are drawn at random: a class of an image as a whole, all its classes as one object
(`--joined`), or the connected components of what is annotated (`--components`, for folders whose objects are many and
alike, each in a window of `--size` pixels around it). Each object's truth is corrupted so that the given masks have a
mean IoU of about .65; the SAM sees the image and the corrupted mask. It has to beat the given mask, and the given mask
smoothed at the width that suits the folder best. A tight box has to give more than the filled box and its inscribed
ellipse.

    python benchmarks/sam_prompts.py tiny DATA [DATA ...] --joined DATA --components DATA --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from torch import Tensor

from knowsam.data.discover import discover_coding
from knowsam.data.folder import scan_folder
from knowsam.data.pairing import read_pair
from knowsam.data.preprocess import Preprocessing, resize, resize_label
from knowsam.presentation.pictures import contact_sheet, overlay, write_png
from knowsam.sam.backbone.decode import MASK_PROMPT_SCALE
from knowsam.sam.corruption import corrupt
from knowsam.sam.loading.build import build_sam
from knowsam.sam.pretrain.promptable import PromptableSam, intersection_over_union
from knowsam.sam.pretrain.steps import BOX, MASK
from knowsam.sam.pretrain.targets import boxes_of
from knowsam.storage import write_csv, write_json

WIDTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Standard deviations, in pixels, at which the given mask is smoothed."""
GIVEN_IOU = 0.65
CLASSES, JOINED, COMPONENTS = "classes", "joined", "components"
"""What one object of a folder is."""
SMALLEST = 0.004
"""Share of the image an object must cover."""


@dataclass
class Objects:
    """Objects and where they are.

    Attributes:
        image: `(N, 3, H, W)` in [0, 1].
        truth: One object of each image `(N, H, W)`, 0 or 1.
        other: What else is annotated there `(N, H, W)`.
        case: `(N,)`, which of the folder's files each comes from, in the order in which they were drawn.
    """

    image: Tensor
    truth: Tensor
    other: Tensor
    case: Tensor

    def part(self, chosen: Tensor | slice) -> Objects:
        """Some of them."""
        return Objects(self.image[chosen], self.truth[chosen], self.other[chosen], self.case[chosen])


def main() -> None:
    measure(parser(__doc__).parse_args())


def parser(description: str) -> argparse.ArgumentParser:
    """The options: a SAM, folders, what their objects are."""
    options = argparse.ArgumentParser(description=description.split("\n")[0])
    options.add_argument("sam", help="as in sam=: a name, a directory, a .pth file")
    options.add_argument("data", type=Path, nargs="*", help="folders whose objects are whole classes")
    options.add_argument("--joined", type=Path, nargs="*", default=[], help="folders whose classes are one object")
    options.add_argument("--components", type=Path, nargs="*", default=[], help="folders whose objects are components")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--size", type=int, default=128, help="side in pixels (%(default)s)")
    options.add_argument("--objects", type=int, default=200, help="per folder (%(default)s)")
    options.add_argument("--seed", type=int, default=0)
    return options


def each_folder(arguments: argparse.Namespace) -> Iterator[tuple[str, Path, str]]:
    """Name, folder, and what its objects are."""
    kinds = {CLASSES: arguments.data, JOINED: arguments.joined, COMPONENTS: arguments.components}
    for kind, folders in kinds.items():
        for folder in folders:
            yield f"{folder.name}, joined" if kind == JOINED else folder.name, folder, kind


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All folders; writes `prompts.json`, `objects.csv` and a picture of each, prints the table."""
    console = Console(highlight=False, width=100)
    sam, report = build_sam(arguments.sam, (arguments.size, arguments.size))
    model = PromptableSam(sam, report.pixels).eval()
    results: dict[str, Any] = {}
    each: list[dict[str, Any]] = []
    for name, folder, kind in each_folder(arguments):
        objects = draw_objects(folder, kind, arguments)
        logits = corrupted(objects, arguments.seed)
        one = refine(model, objects, logits) | boxes(model, objects)
        means = {measure: float(values.mean()) for measure, values in one.items()}
        error = float(one["mask"].std() / len(objects.truth) ** 0.5)
        results[name] = means | {"objects": len(objects.truth), "mask_standard_error": error}
        results[name] |= smooth(objects, logits)
        one["share_of_image"] = objects.truth.mean(dim=(1, 2))
        each += [
            {"folder": name, **dict(zip(one, row, strict=True))}
            for row in torch.stack(list(one.values()), dim=1).tolist()
        ]
        write_png(arguments.out / f"{name.replace(', ', '_')}.png", picture(model, objects, logits))
    write_csv(arguments.out / "objects.csv", list(each[0]), each)
    write_json(arguments.out / "prompts.json", {"sam": report.to_json(), "size": arguments.size, "folders": results})
    table = Table("folder", "objects", "given", "smoothed", "SAM", "gain", "box", "ellipse", "SAM", "gain")
    for name, row in results.items():
        best = max(row["given"], row["smoothed"])
        numbers = [row["given"], row["smoothed"], row["mask"], row["mask"] - best]
        numbers += [row["box"], row["ellipse"], row["from_box"], row["from_box"] - max(row["box"], row["ellipse"])]
        table.add_row(name, str(row["objects"]), *[f"{number:.3f}" for number in numbers])
    console.print(table)
    return results


def draw_objects(folder: Path, kind: str, arguments: argparse.Namespace) -> Objects:
    """Objects of the folder's masks, spread evenly over its images and classes by a seeded order."""
    scanned, rng = scan_folder(folder), np.random.default_rng(arguments.seed)
    cases = scanned.labelled_cases()
    coding = discover_coding(cases).coding
    size = (arguments.size, arguments.size)
    preprocessing = Preprocessing(size, 3)
    found: list[tuple[Tensor, Tensor, Tensor, int]] = []
    for number, case in enumerate([cases[i] for i in rng.permutation(len(cases))]):
        if len(found) >= arguments.objects:
            break
        image, label = read_pair(case.image, case.label)
        encoded = coding.encode(label)
        labels = preprocessing.label_slices(encoded, image)
        if kind == COMPONENTS:
            pixels = Preprocessing(labels.shape[-2:], 3).slices(image)[0]
            candidates = list(windows(pixels, labels[0].numpy() > 0, arguments.size, rng))[:2]
        else:
            pixels, labels = preprocessing.slices(image), resize_label(labels, size)
            index = int(labels.flatten(1).gt(0).sum(dim=1).argmax())
            label = labels[index]
            masks = [label > 0] if kind == JOINED else [label == k for k in range(1, coding.classes)]
            candidates = [(pixels[index], mask, (label > 0) & ~mask) for mask in masks]
        found += [(*entry, number) for entry in candidates if entry[1].float().mean() >= SMALLEST]
    images, truths, others, numbers = zip(*found[: arguments.objects], strict=True)
    return Objects(torch.stack(images), torch.stack(truths).float(), torch.stack(others).float(), torch.tensor(numbers))


def windows(pixels: Tensor, mask: np.ndarray, side: int, rng: np.random.Generator) -> Any:
    """A window around each component, in random order; the image is enlarged where it is smaller than a window."""
    if min(mask.shape) < side:
        factor = side / min(mask.shape)
        larger = (round(mask.shape[0] * factor + 0.5), round(mask.shape[1] * factor + 0.5))
        pixels = resize(pixels[None], larger)[0]
        mask = resize_label(torch.from_numpy(mask.astype(np.int64))[None], larger)[0].numpy() > 0
    labelled, count = ndimage.label(mask)
    for index in rng.permutation(count) + 1:
        rows, columns = np.nonzero(labelled == index)
        y = int(np.clip(rows.mean() - rng.uniform(0.25, 0.75) * side, 0, mask.shape[0] - side))
        x = int(np.clip(columns.mean() - rng.uniform(0.25, 0.75) * side, 0, mask.shape[1] - side))
        part = torch.from_numpy(labelled[y : y + side, x : x + side])
        yield pixels[:, y : y + side, x : x + side], part == int(index), (part > 0) & (part != int(index))


def corrupted(objects: Objects, seed: int) -> Tensor:
    """Mask prompts `(N, h, w)` of mean IoU about `GIVEN_IOU` at the size of the images."""
    side = objects.truth.shape[-1] // 2
    small = F.adaptive_avg_pool2d(objects.truth[:, None], side)[:, 0]
    other = F.adaptive_avg_pool2d(objects.other[:, None], side)[:, 0]
    low, high, logits = 0.0, 1.0, small
    for _ in range(8):
        severity = (low + high) / 2
        logits = corrupt(small, other, torch.Generator().manual_seed(seed), (0.5 * severity, severity))
        iou = mean_iou(enlarge(logits, objects.truth) > 0, objects.truth > 0.5)
        low, high = (low, severity) if iou < GIVEN_IOU else (severity, high)
    return logits


def refine(model: PromptableSam, objects: Objects, logits: Tensor, side: int = 0) -> dict[str, Tensor]:
    """IoU `(N,)` of the given masks, and of SAM's answers to them; `side` as in `ask`."""
    truth = objects.truth > 0.5
    answers = {"given": enlarge(logits, objects.truth), "mask": ask(model, objects, MASK, logits, side)}
    return {name: intersection_over_union(answer > 0, truth) for name, answer in answers.items()}


def smooth(objects: Objects, logits: Tensor) -> dict[str, float]:
    """Mean IoU of the given masks, smoothed at the width that suits them best."""
    truth, hard = objects.truth > 0.5, (enlarge(logits, objects.truth) > 0).numpy().astype(np.float32)
    found = []
    for width in WIDTHS:
        soft = ndimage.gaussian_filter(hard, (0, width, width))
        found.append(mean_iou(torch.from_numpy(soft > 0.5), truth))
    return {"smoothed": max(found), "smoothed_at_px": WIDTHS[int(np.argmax(found))]}


def boxes(model: PromptableSam, objects: Objects, side: int = 0) -> dict[str, Tensor]:
    """IoU `(N,)` of the tight box, of its inscribed ellipse, and of SAM's answer to it; `side` as in `ask`."""
    truth, corners = objects.truth > 0.5, boxes_of(objects.truth)
    y = (torch.arange(truth.shape[-2]) + 0.5).view(1, -1, 1)
    x = (torch.arange(truth.shape[-1]) + 0.5).view(1, 1, -1)
    x0, y0, x1, y1 = (corners[:, i].view(-1, 1, 1) for i in range(4))
    across, down = (2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)
    answers = {
        "box": (across.abs() <= 1) & (down.abs() <= 1),
        "ellipse": across.square() + down.square() <= 1,
        "from_box": ask(model, objects, BOX, side=side) > 0,
    }
    return {name: intersection_over_union(answer, truth) for name, answer in answers.items()}


@torch.no_grad()
def ask(model: PromptableSam, objects: Objects, kind: int, logits: Tensor | None = None, side: int = 0) -> Tensor:
    """SAM's answer `(N, H, W)` to a mask prompt or the tight box, on the CPU.

    Args:
        model: On its device.
        objects: Images and objects.
        kind: `MASK` or `BOX`.
        logits: Mask prompts `(N, h, w)`.
        side: At which SAM sees the images, in px; 0: as they are.
    """
    answers = []
    device = next(model.parameters()).device
    for part in torch.arange(len(objects.truth)).split(16):
        image = objects.image[part].to(device)
        encoded = model.encode(resize(image, (side, side)) if side else image)
        size = [MASK_PROMPT_SCALE * length for length in encoded[0].shape[-2:]]
        prompt = torch.zeros(len(part), *size)
        if logits is not None:
            prompt = F.interpolate(logits[part, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        box = boxes_of(objects.truth[part]) / objects.truth.shape[-1]
        inside = torch.ones(len(part), dtype=torch.bool, device=device)
        kinds, nowhere = torch.full((len(part),), kind, device=device), torch.zeros(len(part), 2, device=device)
        answer, _ = model.answer(encoded, kinds, prompt.to(device), nowhere, inside, box.to(device))
        answers.append(enlarge(answer.cpu(), objects.truth))
    return torch.cat(answers)


def picture(model: PromptableSam, objects: Objects, logits: Tensor) -> np.ndarray:
    """Ten objects: image, truth, given mask, SAM's answer to it, SAM's answer to the box."""
    some, logits = objects.part(slice(10)), logits[:10]
    masks = [
        some.truth,
        enlarge(logits, some.truth) > 0,
        ask(model, some, MASK, logits) > 0,
        ask(model, some, BOX) > 0,
    ]
    rows = []
    for index, image in enumerate(some.image):
        pixels = image.permute(1, 2, 0).numpy()
        bare = (255 * pixels).round().astype(np.uint8)
        rows.append([bare, *[overlay(pixels, mask[index].numpy().astype(np.int64)) for mask in masks]])
    halves = [left + right for left, right in zip(rows[:5], rows[5:], strict=False)] or rows
    return contact_sheet(halves, ["image", "truth", "given", "SAM", "SAM, box"] * (len(halves[0]) // 5))


def mean_iou(answer: Tensor, truth: Tensor) -> float:
    """Mean IoU of boolean masks `(N, H, W)`."""
    return float(intersection_over_union(answer, truth).mean())


def enlarge(logits: Tensor, like: Tensor) -> Tensor:
    """Logits `(N, h, w)` at the size of `like`."""
    return F.interpolate(logits[:, None], size=like.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


if __name__ == "__main__":
    main()

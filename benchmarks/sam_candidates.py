"""Is a new small SAM better than the bundled one? Several SAMs on the same objects of several folders, side by side.

Objects, spoilt masks and tight boxes are those of `sam_prompts.py`. The first SAM is the candidate; it is compared with
the second (mask prompts), and with the better of the filled box and its ellipse (boxes).

    python benchmarks/sam_candidates.py my-sam tiny lite_medsam --data ACDC KVASIR --components DSB2018 --out DIR

To measure on a machine that has no data, the objects can be written as small PNG folders first, and read there:

    python benchmarks/sam_candidates.py --data ACDC KVASIR --components DSB2018 --write OBJECTS
    python benchmarks/sam_candidates.py my-sam tiny lite_medsam --sets OBJECTS/* --out DIR
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from knowsam.presentation.pictures import write_png
from knowsam.runs.device import resolve_device
from knowsam.sam.backbone.interface import interface_of
from knowsam.sam.loading.build import load_sam
from knowsam.sam.loading.resize import resize_input
from knowsam.sam.pretrain.promptable import PromptableSam
from knowsam.storage import write_csv, write_json
from sam_prompts import Objects, boxes, corrupted, draw_objects, each_folder, refine

SIDE = 128
"""At which SAMs see images that were not made for one scale, where none is given."""
MASK_AIM, BOX_AIM = 0.02, 0.05


@dataclass
class Candidate:
    """A SAM, and at which side in px it sees the images."""

    name: str
    model: PromptableSam
    side: int


def main() -> None:
    """Write objects, or measure."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("sam", nargs="*", help="as in sam=, also NAME@SIDE; the first is the candidate")
    options.add_argument("--data", type=Path, nargs="*", default=[], help="folders whose objects are whole classes")
    options.add_argument("--joined", type=Path, nargs="*", default=[], help="folders whose classes are one object")
    options.add_argument("--components", type=Path, nargs="*", default=[], help="folders whose objects are components")
    options.add_argument("--sets", type=Path, nargs="*", default=[], help="folders that --write has written")
    options.add_argument("--write", type=Path, help="write the objects there and end")
    options.add_argument("--out", type=Path, help="for candidates.json and objects.csv")
    options.add_argument("--size", type=int, default=256, help="side of the images in pixels (%(default)s)")
    options.add_argument("--objects", type=int, default=40, help="per folder (%(default)s)")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    sets = {folder.name: read_objects(folder) for folder in arguments.sets if (folder / "masks").is_dir()}
    sets |= {name: draw_objects(folder, kind, arguments) for name, folder, kind in each_folder(arguments)}
    if arguments.write:
        for name, objects in sets.items():
            write_objects(objects, arguments.write / name.replace(", ", "_"))
    else:
        measure(arguments, sets)


def measure(arguments: argparse.Namespace, sets: dict[str, Objects]) -> list[dict[str, Any]]:
    """All SAMs on all sets; prints the table and what was reached."""
    device = resolve_device()
    candidates = [load(name, device) for name in arguments.sam]
    rows: list[dict[str, Any]] = []
    each: list[dict[str, Any]] = []
    for name, objects in sets.items():
        logits = corrupted(objects, arguments.seed)
        found: dict[str, Tensor] = {}
        for number, one in enumerate(candidates):
            values = refine(one.model, objects, logits, one.side) | boxes(one.model, objects, one.side)
            found |= {key: values[key] for key in ("given", "box", "ellipse")}
            found |= {f"mask_{number}": values["mask"], f"box_{number}": values["from_box"]}
        rows.append({"set": name, "objects": len(objects.truth)} | {key: float(v.mean()) for key, v in found.items()})
        each += [{"set": name, **{key: float(v[i]) for key, v in found.items()}} for i in range(len(objects.truth))]
    names = [Path(one.name).name for one in candidates]
    show(rows, names)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / "candidates.json", {"sams": names, "size": arguments.size, "sets": rows})
        write_csv(arguments.out / "objects.csv", list(each[0]), each)
    return rows


def load(text: str, device: str) -> Candidate:
    """A SAM by `NAME` or `NAME@SIDE`."""
    name, _, side = text.rpartition("@") if text.rpartition("@")[2].isdigit() else (text, "", "")
    sam, report = load_sam(name)
    chosen = int(side) if side else (report.made_for if interface_of(sam).keeps_scale else SIDE)
    resize_input(sam, (chosen, chosen))
    return Candidate(name, PromptableSam(sam, report.pixels).eval().to(device), chosen)


def show(rows: list[dict[str, Any]], names: list[str]) -> None:
    """The table, and on how many sets the candidate reaches the aims."""
    table = Table(
        Column("set", no_wrap=True), "n", "given", *(f"mask: {name}" for name in names), "gain", "box", "ellipse"
    )
    for name in names:
        table.add_column(f"box: {name}")
    table.add_column("gain")
    masks = boxed = 0
    for row in rows:
        mask_gain = row["mask_0"] - row["mask_1"] if len(names) > 1 else 0.0
        box_gain = row["box_0"] - max(row["box"], row["ellipse"])
        masks, boxed = masks + (mask_gain >= MASK_AIM), boxed + (box_gain >= BOX_AIM)
        values = [row["given"], *(row[f"mask_{i}"] for i in range(len(names))), mask_gain, row["box"], row["ellipse"]]
        values += [*(row[f"box_{i}"] for i in range(len(names))), box_gain]
        table.add_row(row["set"][:14], str(row["objects"]), *[f"{value:.3f}" for value in values])
    console = Console(highlight=False, width=60 + 30 * len(names))
    console.print(table)
    if len(names) > 1:
        console.print(f"masks: {names[0]} at least {MASK_AIM:.2f} above {names[1]} on {masks} of {len(rows)} sets")
    console.print(f"boxes: {names[0]} at least {BOX_AIM:.2f} above box and ellipse on {boxed} of {len(rows)} sets")


def write_objects(objects: Objects, folder: Path) -> None:
    """`images/` and `masks/` as PNG; in the masks 1 is the object, 2 what else is annotated."""
    for index in range(len(objects.truth)):
        name = f"{int(objects.case[index]):04d}_{index:03d}.png"
        pixels = (objects.image[index].permute(1, 2, 0) * 255).round().byte().numpy()
        write_png(folder / "images" / name, pixels)
        mask = torch.where(objects.truth[index] > 0.5, 1, torch.where(objects.other[index] > 0.5, 2, 0))
        write_png(folder / "masks" / name, mask.byte().numpy())


def read_objects(folder: Path) -> Objects:
    """What `write_objects` wrote."""
    paths = sorted((folder / "masks").glob("*.png"))
    masks = torch.stack([torch.from_numpy(np.asarray(Image.open(path)).copy()) for path in paths])
    images = [torch.from_numpy(np.asarray(Image.open(folder / "images" / path.name)).copy()) for path in paths]
    image = torch.stack(images).permute(0, 3, 1, 2).float() / 255
    case = torch.tensor([int(path.stem.split("_")[0]) for path in paths])
    return Objects(image, (masks == 1).float(), (masks == 2).float(), case)


if __name__ == "__main__":
    main()

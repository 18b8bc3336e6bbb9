"""What a pretraining of the small SAM learned from and how it went: two pictures of a folder of `knowsam sam pretrain`.

`curve.png` shows the mean IoU on held-out drawings and the losses over the steps; `drawn.png` shows held-out drawings
with the object asked for, the prompt and the answer.

    python benchmarks/sam_pretraining.py RUN --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from knowsam.presentation.pictures import contact_sheet, overlay, write_png
from knowsam.runs.folder import RunFolder
from knowsam.sam.backbone.tiny import draw_boxes, draw_points
from knowsam.sam.loading.build import build_sam
from knowsam.sam.pretrain.loop import HELD_OUT_SEED
from knowsam.sam.pretrain.promptable import PromptableSam
from knowsam.sam.pretrain.steps import BOX, POINT, PretrainConfig, draw_step

SIDE, PATCH = 128, 8
"""Of the drawings shown, and of a token, in pixels."""
MEASURED = {
    "iou_mask": "answer to a corrupted mask",
    "iou_given_mask": "the corrupted mask",
    "iou_first": "first answer, all prompts",
    "iou_second": "second answer",
}
LOSSES = {
    "outline_coarse": "outlines from the embedding",
    "outline_fine": "outlines from the finer map",
    "first": "first answer, all prompts",
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("run", type=Path, help="folder of knowsam sam pretrain")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seed", type=int, default=0, help="of the drawings shown (%(default)s)")
    arguments = options.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    curve(RunFolder(arguments.run).read_metrics(), arguments.out / "curve.png")
    write_png(arguments.out / "drawn.png", drawn(str(arguments.run), arguments.seed))


def curve(records: list[dict[str, Any]], path: Path) -> None:
    """Held-out IoU and training losses of the records of a run."""
    figure = Figure(figsize=(7.2, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [record["step"] for record in records]
    for axes, part, names in ((left, "held_out", MEASURED), (right, "terms", LOSSES)):
        for name, label in names.items():
            style = "--" if name == "iou_given_mask" else "-"
            axes.plot(steps, [record[part][name] for record in records], style, label=label)
        axes.set_xlabel("step")
        axes.legend(fontsize=7)
    left.set_ylabel("mean IoU, held-out drawings")
    right.set_ylabel("training loss")
    figure.savefig(path, dpi=100)


@torch.no_grad()
def drawn(sam: str, seed: int) -> np.ndarray:
    """Ten held-out drawings: image, object, prompt (of a mask with a point the mask), answer."""
    model = PromptableSam(build_sam(sam, (SIDE, SIDE))[0]).eval()
    config = PretrainConfig(images=10, prompts=1, sizes=(SIDE,))
    data = draw_step(config, PATCH, seed, HELD_OUT_SEED, (0.0, 1.0))
    inside = torch.ones(len(data.kind), dtype=torch.bool)
    answer, _ = model.answer(model.encode(data.image), data.kind, data.logits, data.point, inside, data.box)
    size = (data.logits.shape[-2], data.logits.shape[-1])
    kind = data.kind[:, None, None]
    prompts = torch.where(kind == BOX, draw_boxes(data.box, size), data.logits)
    prompts = torch.where(kind == POINT, draw_points(data.point, inside, size), prompts).sigmoid()
    rows = []
    for index in range(len(data.image)):
        pixels = data.image[index].permute(1, 2, 0).numpy()
        shown = [
            overlay(pixels, mask.numpy().astype(np.int64)) for mask in (data.target[index], enlarge(answer[index]) > 0)
        ]
        rows.append(
            [to_bytes(pixels), shown[0], to_bytes(enlarge(prompts[index])[..., None].repeat(1, 1, 3)), shown[1]]
        )
    return contact_sheet(
        [left + right for left, right in zip(rows[:5], rows[5:], strict=True)],
        ["image", "object", "prompt", "answer"] * 2,
    )


def enlarge(values: Tensor) -> Tensor:
    """`(h, w)` at the size of the drawings."""
    return F.interpolate(values[None, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]


def to_bytes(pixels: Tensor | np.ndarray) -> np.ndarray:
    """[0, 1] as uint8."""
    return (255 * np.asarray(pixels)).round().astype(np.uint8)


if __name__ == "__main__":
    main()

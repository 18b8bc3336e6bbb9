"""The page at the end of a distillation: what was learned in numbers, and answers on held-out images as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.presentation import html
from knowsam.presentation.pictures import contact_sheet, data_uri, overlay
from knowsam.runs.folder import RunFolder
from knowsam.sam.distil.measure import HeldOut, answered
from knowsam.sam.pretrain.promptable import PromptableSam
from knowsam.storage import read_json, write_text

SHOWN = 10
"""Objects with pictures, of as many images as there are."""
COLUMNS = ("image", "target", "answer to its box", "spoilt mask", "answer to it")
MOST_ROWS = 12


def write_report(
    folder: RunFolder, settings: dict[str, Any], line: str, held_out: HeldOut, model: PromptableSam, device: str
) -> None:
    """Write `report.html`: one file, nothing outside it is needed.

    Args:
        folder: Of the distillation.
        settings: Its settings as plain values.
        line: Number of weights.
        held_out: What is measured on.
        model: The student, in evaluation mode.
        device: Where it computes.
    """
    records = folder.read_metrics()
    chosen = np.unique(np.linspace(0, len(records) - 1, MOST_ROWS).round().astype(int))
    sheet = pictures(held_out, model, device)
    page = html.render(
        "sam/distil/report.html.j2",
        name=folder.path.name,
        settings=settings,
        parameters=line,
        records=[records[index] for index in chosen],
        teacher_sha256=read_json(folder.path / "distil.json", "restore it").get("teacher_sha256"),
        sheet=None if sheet is None else data_uri(sheet),
        columns=COLUMNS,
    )
    write_text(folder.report, page)


def pictures(held_out: HeldOut, model: PromptableSam, device: str) -> np.ndarray | None:
    """Objects of held-out images with the student's answers; None where there is none."""
    rows = []
    for boxes, masks in zip(held_out.boxes, held_out.masks, strict=True):
        of_boxes, of_masks = (answered(model, views.to(device)) for views in (boxes, masks))
        per_image = len(boxes.kind) // len(boxes.image)
        for index, image in enumerate(boxes.image):
            # One object an image, the first that counts; both kinds of prompt ask for the same ones.
            counts = torch.nonzero(boxes.weight[index * per_image : (index + 1) * per_image])
            if len(counts) == 0:
                continue
            number = index * per_image + int(counts[0])
            seen = [boxes.target[number] - 0.5, of_boxes[number], masks.logits[number], of_masks[number]]
            rows.append(_row(image, seen))
    if not rows:
        return None
    chosen = np.unique(np.linspace(0, len(rows) - 1, SHOWN).round().astype(int))
    return contact_sheet([rows[index] for index in chosen], COLUMNS)


def _row(image: Tensor, seen: list[Tensor]) -> list[np.ndarray]:
    """An image `(3, H, W)`, and logits `(h, w)` over it."""
    pixels = image.permute(1, 2, 0).numpy()
    size = (pixels.shape[0], pixels.shape[1])
    masks = [F.interpolate(one[None, None].float(), size, mode="bilinear")[0, 0] > 0 for one in seen]
    bare = (255 * pixels).round().astype(np.uint8)
    return [bare, *(overlay(pixels, mask.numpy().astype(np.int64)) for mask in masks)]

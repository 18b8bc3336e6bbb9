"""The objects that phase B asks for: from masks where there are any, else what the teacher answers to boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from knowsam.sam.pretrain.promptable import PromptableSam, intersection_over_union
from knowsam.sam.pretrain.steps import BOX
from knowsam.sam.pretrain.targets import LARGEST, boxes_of

BOX_SIDE = (0.06, 0.8)
"""Range of the sides of drawn boxes, as shares of the image."""
SMALLEST_PIECE = 0.0005
"""Share of the image from which a piece is an object; views come so near that it is not too small there."""
STEADY = 0.7
"""IoU of the teacher's answers to a drawn box and to the tight box of that answer from which it has seen an object."""

LEAST_CONTRAST = 0.3
"""In standard deviations of brightness; below it the teacher has filled its box with what goes on outside."""
RING_PX = 7
"""What is around a mask: half of this in pixels of the mask."""


@dataclass
class Objects:
    """Up to M objects of each of N images.

    Attributes:
        mask: `(N, M, m, m)` uint8, 255 times the probability.
        box: `(N, M, 4)` float32 x0, y0, x1, y1, the tight box as shares of the image.
        chance: `(N, M)` float32, relative chance to be asked for; 0 where there is no object.
        one_piece: `(N, M)` bool: what a box or a point can mean.
    """

    mask: Tensor
    box: Tensor
    chance: Tensor
    one_piece: Tensor

    @classmethod
    def empty(cls, images: int, most: int, side: int) -> Objects:
        """None anywhere."""
        return cls(
            torch.zeros(images, most, side, side, dtype=torch.uint8),
            torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(images, most, 1),
            torch.zeros(images, most),
            torch.ones(images, most, dtype=torch.bool),
        )

    def part(self, chosen: Tensor) -> Objects:
        """Those of some images."""
        return Objects(self.mask[chosen], self.box[chosen], self.chance[chosen], self.one_piece[chosen])

    def put(self, index: int, mask: Tensor, chance: Tensor, one_piece: Tensor) -> None:
        """Set the objects of image `index`: masks `(n, m, m)` uint8, `(n,)`, `(n,)`; n <= M."""
        count = len(mask)
        self.mask[index, :count] = mask
        self.box[index, :count] = boxes_of(mask.float() / 255) / mask.shape[-1]
        self.chance[index, :count] = chance
        self.one_piece[index, :count] = one_piece


def objects_of_label(label: Tensor, most: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The objects in a label map: every class as a whole, and its pieces where there are several.

    Args:
        label: `(S, S)` class indices.
        most: At most so many, the wholes first, then the largest pieces.
        side: m, of the masks.

    Returns:
        As `Objects.put` takes them.
    """
    wholes, pieces = [], []
    values = label.numpy()
    for k in np.unique(values[values > 0]):
        labelled, count = ndimage.label(values == k)
        wholes.append((values == k, count == 1))
        if count > 1:
            sizes = np.bincount(labelled.ravel())[1:]
            large = [index for index in np.argsort(-sizes) if sizes[index] >= SMALLEST_PIECE * labelled.size]
            pieces += [(int(sizes[index]), labelled == index + 1) for index in large[:most]]
    pieces.sort(key=lambda piece: -piece[0])
    found = [*wholes, *((piece, True) for _, piece in pieces)][:most]
    masks = torch.from_numpy(np.stack([mask for mask, _ in found])).float()
    small = (F.adaptive_avg_pool2d(masks, side) * 255).round().byte()
    one_piece = torch.tensor([bool(single) for _, single in found])
    # All pieces together are asked for as often as all wholes.
    chance = torch.ones(len(found))
    chance[len(wholes) :] *= max(1.0, 2 * len(wholes) / max(1, len(found) - len(wholes)))
    return small, chance, one_piece


def draw_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Random boxes `(count, 4)` x0, y0, x1, y1 as shares of the image; small ones are as frequent as large ones."""
    low, high = BOX_SIDE
    side = low * (high / low) ** torch.rand(count, 1, generator=generator)
    aspect = 2 ** torch.empty(count, 1).uniform_(-0.5, 0.5, generator=generator)
    sides = torch.cat([side * aspect, side / aspect], dim=1).clamp(max=0.95)
    start = torch.rand(count, 2, generator=generator) * (1 - sides)
    return torch.cat([start, start + sides], dim=1)


def answer_boxes(model: PromptableSam, encoded: Any, box: Tensor) -> Tensor:
    """Logits `(B * P, 4 g_h, 4 g_w)` of a SAM's answers to boxes `(B * P, 4)` as shares of the image."""
    count, grid = len(box), encoded[0].shape[-2:]
    nothing = torch.zeros(count, 4 * grid[0], 4 * grid[1], device=box.device)
    kinds = torch.full((count,), BOX, device=box.device)
    inside = torch.ones(count, dtype=torch.bool, device=box.device)
    return model.answer(encoded, kinds, nothing, box[:, :2], inside, box)[0]


def seen_objects(model: PromptableSam, encoded: Any, image: Tensor, box: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """What a SAM sees in boxes: its answer to the tight box of its answer.

    Args:
        model: The teacher.
        encoded: What its `encode` gave for B images.
        image: The images `(B, 3, S, S)`.
        box: Drawn boxes `(B * P, 4)` as shares of the image.
        side: m, of the masks.

    Returns:
        Masks `(B * P, m, m)` uint8, 255 times the probability; and how much of an object each is `(B * P,)`: the IoU of
        both answers times their contrast up to 1, and 0 below `STEADY`, below `LEAST_CONTRAST`, and for answers that
        are next to nothing or nearly everything.
    """
    first = answer_boxes(model, encoded, box) > 0
    again = boxes_of(first.float()) / first.shape[-1]
    second = answer_boxes(model, encoded, again).float()
    agreement = intersection_over_union(first, second > 0)
    share = (second > 0).float().mean(dim=(1, 2))
    probability = F.adaptive_avg_pool2d(second.sigmoid()[:, None], side)[:, 0]
    grey = F.adaptive_avg_pool2d(image.mean(dim=1, keepdim=True), side)[:, 0]
    contrast = contrast_of((probability > 0.5).float(), grey.repeat_interleave(len(box) // len(image), dim=0))
    sound = (agreement >= STEADY) & (contrast >= LEAST_CONTRAST) & first.flatten(1).any(dim=1)
    sound &= (share >= SMALLEST_PIECE) & (share <= LARGEST)
    return (probability * 255).round().byte(), torch.where(sound, agreement * contrast.clamp(max=1), 0.0)


def contrast_of(mask: Tensor, grey: Tensor) -> Tensor:
    """Difference of brightness inside and around, in standard deviations: `(N,)`, 0 for an empty mask.

    Args:
        mask: `(N, m, m)`, 0 or 1.
        grey: `(N, m, m)`.
    """
    ring = F.max_pool2d(mask[:, None], RING_PX, stride=1, padding=RING_PX // 2)[:, 0] - mask

    def moments(weight: Tensor) -> tuple[Tensor, Tensor]:
        total = weight.sum(dim=(1, 2)).clamp(min=1)
        mean = (grey * weight).sum(dim=(1, 2)) / total
        return mean, ((grey - mean[:, None, None]).square() * weight).sum(dim=(1, 2)) / total

    (inside, varying), (around, other) = moments(mask), moments(ring)
    found = (inside - around).abs() / ((varying + other) / 2 + 1e-4).sqrt()
    return torch.where(mask.flatten(1).any(dim=1), found, 0.0)

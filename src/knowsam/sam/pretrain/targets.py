"""Which object of a drawn scene is asked for: its mask, a box, points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from knowsam.sam.pretrain.scenes import LAYERS, REGIONS, Scenes

SMALLEST, LARGEST = 0.004, 0.75
"""Share of the image that an object may cover to be asked for."""
OBJECTS = (0.6, 0.12, 0.2, 0.04, 0.04)
"""How often one layer is asked for, a filled ring, all of a kind, two layers, the background."""
REGION_CHANCE = 0.3
"""Relative chance of an amorphous region to be asked for; a shape has 1."""
RING_CHANCE = 2.0
"""Relative chance of a layer with another drawn into it to be asked for; others have 1."""
LARGE_FIRST = 0.3
"""Power of the visible area in the chance of being asked for."""


@dataclass
class Targets:
    """Objects to segment, P of each image.

    Attributes:
        mask: `(B, P, H, W)` float32, 0 or 1.
        neighbour: `(B, P, H, W)` float32, another object of the image, for prompts that are joined with it.
        weight: `(B, P)` float32, 1, or 0 where there was no object of a sensible size.
    """

    mask: Tensor
    neighbour: Tensor
    weight: Tensor


def choose_targets(scenes: Scenes, one_piece: Tensor, generator: torch.Generator) -> Targets:
    """Draw what is asked for in each scene.

    One object, a filled ring, all of a kind, two objects or the background; or, as a box or a point means it, one
    piece: what is connected and of one look. A region asked for alone is one piece, too.

    Args:
        scenes: B scenes.
        one_piece: `(B, P)` bool, which of the objects are the largest piece of one shape.
        generator: All that is random.
    """
    count, per_image = one_piece.shape
    area = F.one_hot(scenes.layer.flatten(1), LAYERS).float().mean(dim=1)  # (B, LAYERS), visible share
    # Only visible layers are drawn, unless there is none.
    chance = (area >= SMALLEST) * area.pow(LARGE_FIRST) * torch.where(_has_hole(scenes), RING_CHANCE, 1.0) + 1e-6
    chance[:, 0] = 1e-6
    chance[:, 1 : 1 + REGIONS] *= REGION_CHANCE
    picked, other = (_pick(chance, per_image, generator) for _ in range(2))
    layers = torch.arange(LAYERS).view(1, 1, -1)
    single = layers == picked[..., None]
    filled = single | (scenes.outer[:, None] == picked[..., None])
    alike = scenes.kind[:, None] == scenes.kind.gather(1, picked)[..., None]
    pair = single | (layers == other[..., None])
    background = (layers == 0).expand_as(single)
    options = torch.stack([single, filled, alike, pair, background])
    which = _pick(torch.tensor([OBJECTS]), count * per_image, generator).view(count, per_image)
    one_piece = one_piece | ((which == 0) & (picked <= REGIONS))
    which = torch.where(one_piece, 0, which).view(1, count, per_image, 1)
    member = options.gather(0, which.expand(1, -1, -1, LAYERS))[0]
    mask = _pixels(member, scenes.layer)
    mask[one_piece] = largest_piece(mask[one_piece])
    neighbour = _pixels(layers == other[..., None], scenes.layer)
    share = mask.mean(dim=(2, 3))
    return Targets(mask, neighbour, ((share >= SMALLEST) & (share <= LARGEST)).float())


def largest_piece(mask: Tensor) -> Tensor:
    """The largest 4-connected piece of each mask `(N, H, W)`, 0 or 1; an empty mask stays empty."""
    pieces = torch.zeros_like(mask)
    for index, one in enumerate(mask.numpy()):
        labelled, count = ndimage.label(one)
        if count:
            sizes = ndimage.sum_labels(one, labelled, range(1, count + 1))
            pieces[index] = torch.from_numpy(labelled == 1 + int(sizes.argmax()))
    return pieces


def boxes_of(mask: Tensor) -> Tensor:
    """The tight box of each mask: `(N, H, W)` -> `(N, 4)` x0, y0, x1, y1 in pixel edges; the whole image if empty."""
    height, width = mask.shape[-2:]
    columns, rows = mask.amax(dim=1) > 0.5, mask.amax(dim=2) > 0.5

    def edges(line: Tensor, length: int) -> tuple[Tensor, Tensor]:
        some = line.any(dim=1)
        first = line.float().argmax(dim=1)
        last = length - line.flip(1).float().argmax(dim=1)
        return torch.where(some, first, 0).float(), torch.where(some, last, length).float()

    x0, x1 = edges(columns, width)
    y0, y1 = edges(rows, height)
    return torch.stack([x0, y0, x1, y1], dim=1)


def jitter_boxes(boxes: Tensor, generator: torch.Generator, share: float = 0.05) -> Tensor:
    """Move the edges of boxes by up to this share of their own side, as when a person draws them."""
    side = torch.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]] * 2, dim=1)
    drawn = torch.rand(boxes.shape, generator=generator) < 0.5
    return boxes + drawn * side * share * (2 * torch.rand(boxes.shape, generator=generator) - 1)


def points_in(region: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a pixel of each region.

    Args:
        region: `(N, H, W)` bool, or 0 and 1; where it is empty, any pixel is drawn.
        generator: Of the CPU, where the pixels are drawn whatever the device of the region.

    Returns:
        `(N, 2)` float32: the centre of the pixel as x, y in pixels, on the device of the region.
    """
    width = region.shape[-1]
    chance = region.flatten(1).float().cpu() + 1e-6
    chosen = torch.multinomial(chance, 1, generator=generator)[:, 0].to(region.device)
    return torch.stack([chosen % width, chosen // width], dim=1).float() + 0.5


def _has_hole(scenes: Scenes) -> Tensor:
    """Which layers another one was drawn into: `(B, LAYERS)` bool."""
    own = torch.arange(LAYERS)
    return ((scenes.outer != own)[..., None] & (scenes.outer[..., None] == own)).any(dim=1)


def _pick(chance: Tensor, number: int, generator: torch.Generator) -> Tensor:
    return torch.multinomial(chance, number, replacement=True, generator=generator)


def _pixels(member: Tensor, layer: Tensor) -> Tensor:
    """Which pixels show one of the layers: `(B, P, LAYERS)` and `(B, H, W)` -> `(B, P, H, W)` float."""
    count, number = member.shape[:2]
    seen = layer.flatten(1)[:, None].expand(count, number, -1)
    return member.float().gather(2, seen).view(count, number, *layer.shape[-2:])

"""Which object of a drawn scene is asked for, and with which prompt: a spoilt mask, a box, points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.sam.pretrain.scenes import LAYERS, Scenes

SMALLEST, LARGEST = 0.004, 0.75
"""Share of the image that an object may cover to be asked for."""


@dataclass
class Targets:
    """Objects to segment, P of each image.

    Attributes:
        mask: `(B, P, H, W)` float32, 0 or 1.
        neighbour: `(B, P, H, W)` float32, another object of the image, for prompts that swallow it.
        weight: `(B, P)` float32, 1, or 0 where there was no object of a sensible size.
    """

    mask: Tensor
    neighbour: Tensor
    weight: Tensor


def choose_targets(scenes: Scenes, per_image: int, generator: torch.Generator) -> Targets:
    """Draw what is asked for in each scene: one object, a filled ring, all of a kind, two objects, the background."""
    count, (height, width) = scenes.layer.shape[0], scenes.layer.shape[-2:]
    area = F.one_hot(scenes.layer.flatten(1), LAYERS).float().mean(dim=1)  # (B, LAYERS), visible share
    seen = area >= SMALLEST
    # A layer that is seen; the others have no chance unless there is none.
    chance = seen.float() + 1e-6
    chance[:, 0] = 1e-6
    picked, other = (_pick(chance, per_image, generator) for _ in range(2))
    layers = torch.arange(LAYERS).view(1, 1, -1)
    single = layers == picked[..., None]
    filled = single | (scenes.outer[:, None] == picked[..., None])
    alike = scenes.kind[:, None] == scenes.kind.gather(1, picked)[..., None]
    pair = single | (layers == other[..., None])
    background = (layers == 0).expand_as(single)
    options = torch.stack([single, filled, alike, pair, background])
    which = torch.multinomial(
        torch.tensor([0.5, 0.15, 0.2, 0.08, 0.07]), count * per_image, replacement=True, generator=generator
    ).view(1, count, per_image, 1)
    member = options.gather(0, which.expand(1, -1, -1, LAYERS))[0]
    mask = _pixels(member, scenes.layer)
    share = mask.mean(dim=(2, 3))
    weight = ((share >= SMALLEST) & (share <= LARGEST)).float()
    neighbour = _pixels(layers == other[..., None], scenes.layer)
    return Targets(mask.view(count, per_image, height, width), neighbour, weight)


def spoil(
    mask: Tensor, neighbour: Tensor, generator: torch.Generator, severity: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Mask logits with the errors that students make.

    Boundaries move in and out, the mask is shifted and warped, gets holes and islands, swallows a neighbour, loses a
    half or nearly everything; then it is softened and made over- or under-confident.

    Args:
        mask: `(N, h, w)` float in [0, 1], the truth at the size of the mask prompt.
        neighbour: `(N, h, w)` float in [0, 1], what may be swallowed.
        generator: All that is random.
        severity: Range from which each mask's own severity is drawn, in [0, 1]: how far boundaries move and how often
            parts go wrong.

    Returns:
        Logits `(N, h, w)`, roughly in [-20, 20].
    """
    count, height, width = mask.shape
    noise = _Noise(count, (height, width), generator)
    truth = mask
    extent = mask.mean(dim=(1, 2), keepdim=True).sqrt() * math.sqrt(height * width)  # px, about the object's size
    severe = noise.uniform(*severity)
    reach = severe * extent.clamp(2, 0.35 * max(height, width))

    mask = torch.maximum(mask, neighbour * noise.chance(0.2 * severe))
    mask = _warp(mask, noise, reach)
    mask = _move_boundary(mask, noise, reach, severe)
    # Holes inside, islands around: blobs of the object's scale.
    blobs = noise.smooth((6, 12))
    mask = mask * (1 - noise.chance(0.5 * severe) * (blobs > noise.uniform(0.8, 1.8)).float())
    near = (_blur(truth, 9) > 0.02).float()
    islands = (noise.smooth((8, 16)) > noise.uniform(1.3, 2.2)).float() * torch.maximum(near, noise.chance(0.2))
    mask = torch.maximum(mask, noise.chance(0.4 * severe) * islands)
    # Half missing, or nearly all: a straight or wavy cut through the object.
    keep = (noise.plane(truth, extent) + 0.15 * noise.smooth((3, 5)) > noise.uniform(-0.4, 0.2)).float()
    mask = torch.where(noise.chance(0.3 * severe) > 0, mask * keep, mask)
    little = (noise.plane(truth, extent) > noise.uniform(0.2, 0.4)).float()
    mask = torch.where(noise.chance(0.08 * severe) > 0, mask * little, mask)

    softness = noise.uniform(0.0, 1.0)
    soft = mask + softness * (_blur(mask, 5) - mask)
    soft = torch.where(noise.chance(0.3) > 0, _blur(soft, 5), soft)
    logits = noise.logarithmic(1.0, 12.0) * (2 * soft - 1)
    logits = logits + noise.chance(0.3) * severe * noise.uniform(-0.8, 0.8) * logits.abs().amax(
        dim=(1, 2), keepdim=True
    )
    return logits + noise.chance(0.5) * severe.sqrt() * noise.logarithmic(0.1, 1.5) * noise.smooth((6, 14))


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


def jitter_boxes(boxes: Tensor, generator: torch.Generator, share: float = 0.1) -> Tensor:
    """Boxes whose edges moved by up to this share of their own side, as a hand draws them."""
    side = torch.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]] * 2, dim=1)
    drawn = torch.rand(boxes.shape, generator=generator) < 0.5
    return boxes + drawn * side * share * (2 * torch.rand(boxes.shape, generator=generator) - 1)


def points_in(region: Tensor, generator: torch.Generator) -> Tensor:
    """A pixel of each region `(N, H, W)`, its centre as x, y in pixels `(N, 2)`; any pixel where it is empty."""
    width = region.shape[-1]
    chosen = torch.multinomial(region.flatten(1).float() + 1e-6, 1, generator=generator)[:, 0]
    return torch.stack([chosen % width, chosen // width], dim=1).float() + 0.5


class _Noise:
    """Random quantities per mask, shaped `(N, 1, 1)` or `(N, h, w)`."""

    def __init__(self, count: int, size: tuple[int, int], generator: torch.Generator) -> None:
        self.count, self.size, self.generator = count, size, generator

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)

    def logarithmic(self, low: float, high: float) -> Tensor:
        return self.uniform(math.log(low), math.log(high)).exp()

    def chance(self, share: float | Tensor) -> Tensor:
        """1 with this probability, else 0."""
        return (torch.rand(self.count, 1, 1, generator=self.generator) < share).float()

    def smooth(self, cells: tuple[int, int]) -> Tensor:
        """Noise of about unit deviation, `cells` of it along a side."""
        number = int(torch.randint(cells[0], cells[1] + 1, (), generator=self.generator))
        coarse = torch.randn(self.count, 1, number, number, generator=self.generator)
        return F.interpolate(coarse, size=self.size, mode="bicubic", align_corners=True)[:, 0] * 1.4

    def plane(self, mask: Tensor, extent: Tensor) -> Tensor:
        """Signed distance to a line through each mask's centre of mass, in units of its extent."""
        y, x = (torch.arange(side, dtype=torch.float32) for side in self.size)
        total = mask.sum(dim=(1, 2)).clamp(min=1e-3)
        centre_y, centre_x = (mask.sum(dim=2) @ y) / total, (mask.sum(dim=1) @ x) / total
        turn = self.uniform(0, 2 * math.pi)
        dx = x.view(1, 1, -1) - centre_x.view(-1, 1, 1)
        dy = y.view(1, -1, 1) - centre_y.view(-1, 1, 1)
        return (turn.cos() * dx + turn.sin() * dy) / extent.clamp(min=1)


def _warp(mask: Tensor, noise: _Noise, reach: Tensor) -> Tensor:
    """Shift each mask, and displace its pixels smoothly, by a share of its reach in pixels."""
    height, width = noise.size
    y = torch.linspace(-1, 1, height).view(1, -1, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, -1)
    shift = noise.chance(0.5) * reach * 0.25
    bend = noise.chance(0.6) * reach * noise.uniform(0.0, 0.15)
    moved_x = x + 2 / width * (shift * noise.uniform(-1, 1) + bend * noise.smooth((3, 7)))
    moved_y = y + 2 / height * (shift * noise.uniform(-1, 1) + bend * noise.smooth((3, 7)))
    grid = torch.stack([moved_x.expand_as(moved_y), moved_y], dim=-1)
    return F.grid_sample(mask[:, None], grid, padding_mode="border", align_corners=True)[:, 0]


def _move_boundary(mask: Tensor, noise: _Noise, reach: Tensor, severe: Tensor) -> Tensor:
    """Erode or dilate, differently along the outline: the blurred mask against a level that varies."""
    widths = (3, 5, 9, 15)
    wanted = reach * noise.uniform(0.1, 0.6)
    blurred = mask
    for width in widths:
        blurred = torch.where(wanted >= width / 2, _blur(mask, width), blurred)
    level = 0.5 + severe.sqrt() * (noise.uniform(-0.4, 0.4) + noise.uniform(0.0, 0.2) * noise.smooth((3, 8)))
    return (blurred > level.clamp(0.03, 0.97)).float()


def _blur(mask: Tensor, width: int) -> Tensor:
    """Two passes of a box filter, a triangle `2 width - 1` pixels wide; `(N, h, w)`."""
    for _ in range(2):
        mask = F.avg_pool2d(mask[:, None], width, stride=1, padding=width // 2, count_include_pad=False)[:, 0]
    return mask


def _pick(chance: Tensor, number: int, generator: torch.Generator) -> Tensor:
    return torch.multinomial(chance, number, replacement=True, generator=generator)


def _pixels(member: Tensor, layer: Tensor) -> Tensor:
    """Which pixels show one of the layers: `(B, P, LAYERS)` and `(B, H, W)` -> `(B, P, H, W)` float."""
    count, number = member.shape[:2]
    seen = layer.flatten(1)[:, None].expand(count, number, -1)
    return member.float().gather(2, seen).view(count, number, *layer.shape[-2:])

"""Mask prompts with the errors that students make, so that a SAM learns to correct them.

The prompt that SAM gets on an unlabelled image is wrong in places. On labelled images the students are right after a
few epochs, and a SAM that learns from these prompts alone learns to repeat its prompt. With the corrupted truth as
prompt it has to use the image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.functional.probabilities import resize_logits
from knowsam.types import IGNORE


def corrupt_prompts(prompt: Tensor, label: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Replace the mask prompt by the corrupted truth on some of the labelled images.

    Args:
        prompt: Logits `(B, K, H, W)`, detached.
        label: `(B, H, W)` int64, `IGNORE` where there is no ground truth; an image without any keeps its prompt.
        share: How probable it is for a labelled image, in [0, 1]; 0 draws no random number.

    Returns:
        Logits `(B, K, H, W)`, `prompt` itself where nothing was replaced, and on which images it was, `(B,)` bool. All
        that is random comes from torch's generator of their device.
    """
    if share == 0:
        return prompt, torch.zeros(len(label), dtype=torch.bool, device=label.device)
    known = (label != IGNORE).flatten(1).any(dim=1)
    replaced = known & (torch.rand(len(label), device=label.device) < share)
    generator: torch.Generator | None = None
    chosen: Tensor | slice = slice(None)  # a GPU corrupts all rather than wait to be told how many
    if label.device.type == "cpu":
        chosen = torch.nonzero(replaced)[:, 0]
        if len(chosen) == 0:
            return prompt, replaced
    classes, size = prompt.shape[1], prompt.shape[-2:]
    truth = torch.stack([label[chosen] == k for k in range(classes)], dim=1).float()
    truth = F.interpolate(truth, size=(size[0] // 2, size[1] // 2), mode="area")
    neighbour = truth[:, torch.randperm(classes, device=truth.device)]
    if label.device.type == "cpu":
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    logits = corrupt(truth.flatten(0, 1), neighbour.flatten(0, 1), generator).view_as(truth)
    logits = resize_logits(logits, (size[0], size[1])).to(prompt.dtype)
    if isinstance(chosen, slice):
        return torch.where(replaced.view(-1, 1, 1, 1), logits, prompt), replaced
    return prompt.index_copy(0, chosen, logits), replaced


def corrupt(
    mask: Tensor, neighbour: Tensor, generator: torch.Generator | None, severity: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Make mask logits with the errors that students make.

    Boundaries move in and out, the mask is shifted and warped, gets holes and islands, is joined with a neighbour,
    loses a half or nearly everything; then it is softened and made over- or under-confident.

    Args:
        mask: `(N, h, w)` float in [0, 1], the truth at the size of the mask prompt.
        neighbour: `(N, h, w)` float in [0, 1], another object that may be joined with it.
        generator: A CPU generator for all that is random, so that it is the same on every device; None: the global one
            of the masks' device, which then waits for nothing.
        severity: Range from which each mask's own severity is drawn, in [0, 1]: how far boundaries move and how often
            each error occurs.

    Returns:
        Logits `(N, h, w)`, roughly in [-20, 20].
    """
    count, height, width = mask.shape
    noise = _Noise(count, (height, width), generator, mask.device)
    truth = mask
    severe = noise.uniform(*severity)
    reach = severe * extent_of(truth).clamp(2, 0.35 * max(height, width))

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
    keep = (across_line(truth, noise.turn()) + 0.15 * noise.smooth((3, 5)) > noise.uniform(-0.4, 0.2)).float()
    mask = torch.where(noise.chance(0.3 * severe) > 0, mask * keep, mask)
    little = (across_line(truth, noise.turn()) > noise.uniform(0.2, 0.4)).float()
    mask = torch.where(noise.chance(0.08 * severe) > 0, mask * little, mask)

    softness = noise.uniform(0.0, 1.0)
    soft = mask + softness * (_blur(mask, 5) - mask)
    soft = torch.where(noise.chance(0.3) > 0, _blur(soft, 5), soft)
    logits = noise.logarithmic(1.0, 12.0) * (2 * soft - 1)
    logits = logits + noise.chance(0.3) * severe * noise.uniform(-0.8, 0.8) * logits.abs().amax(
        dim=(1, 2), keepdim=True
    )
    return logits + noise.chance(0.5) * severe.sqrt() * noise.logarithmic(0.1, 1.5) * noise.smooth((6, 14))


class _Noise:
    """Random quantities per mask, shaped `(N, 1, 1)` or `(N, h, w)`."""

    def __init__(
        self, count: int, size: tuple[int, int], generator: torch.Generator | None, device: torch.device
    ) -> None:
        self.count, self.size, self.generator, self.device = count, size, generator, device

    def _drawn(self) -> Tensor:
        if self.generator is None:
            return torch.rand(self.count, 1, 1, device=self.device)
        return torch.rand(self.count, 1, 1, generator=self.generator).to(self.device)

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * self._drawn()

    def logarithmic(self, low: float, high: float) -> Tensor:
        return self.uniform(math.log(low), math.log(high)).exp()

    def turn(self) -> Tensor:
        """A direction in radians."""
        return self.uniform(0, 2 * math.pi)

    def chance(self, share: float | Tensor) -> Tensor:
        """1 with this probability, else 0."""
        return (self._drawn() < share).float()

    def smooth(self, cells: tuple[int, int]) -> Tensor:
        """Noise of about unit deviation, `cells` of it along a side."""
        if self.generator is None:
            return self._smooth_anywhere(cells)
        number = int(torch.randint(cells[0], cells[1] + 1, (), generator=self.generator))
        coarse = torch.randn(self.count, 1, number, number, generator=self.generator).to(self.device)
        return F.interpolate(coarse, size=self.size, mode="bicubic", align_corners=True)[:, 0] * 1.4

    def _smooth_anywhere(self, cells: tuple[int, int]) -> Tensor:
        """The same with a number of cells, one for each mask, that nobody but the device knows."""
        number = torch.randint(cells[0], cells[1] + 1, (self.count, 1, 1, 1), device=self.device)
        coarse = torch.randn(self.count, 1, cells[1], cells[1], device=self.device)
        y, x = (torch.linspace(0, 1, side, device=self.device) for side in self.size)
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1) * (2 * (number - 1) / (cells[1] - 1)) - 1
        return F.grid_sample(coarse, places, mode="bicubic", padding_mode="border", align_corners=True)[:, 0] * 1.4


def extent_of(mask: Tensor) -> Tensor:
    """About the size of each object in pixels: the side of a square of its area; `(N, h, w)` -> `(N, 1, 1)`."""
    return mask.mean(dim=(1, 2), keepdim=True).sqrt() * math.sqrt(mask.shape[-2] * mask.shape[-1])


def across_line(mask: Tensor, turn: Tensor) -> Tensor:
    """Signed distance to a line through each mask's centre of mass, in units of its extent.

    Args:
        mask: `(N, h, w)` float in [0, 1].
        turn: `(N, 1, 1)`, the direction across the line in radians.

    Returns:
        `(N, h, w)`.
    """
    y, x = (torch.arange(side, dtype=torch.float32, device=mask.device) for side in mask.shape[-2:])
    total = mask.sum(dim=(1, 2)).clamp(min=1e-3)
    centre_y, centre_x = (mask.sum(dim=2) @ y) / total, (mask.sum(dim=1) @ x) / total
    dx = x.view(1, 1, -1) - centre_x.view(-1, 1, 1)
    dy = y.view(1, -1, 1) - centre_y.view(-1, 1, 1)
    return (turn.cos() * dx + turn.sin() * dy) / extent_of(mask).clamp(min=1)


def _warp(mask: Tensor, noise: _Noise, reach: Tensor) -> Tensor:
    """Shift each mask, and displace its pixels smoothly, by a share of its reach in pixels."""
    height, width = noise.size
    y = torch.linspace(-1, 1, height, device=noise.device).view(1, -1, 1)
    x = torch.linspace(-1, 1, width, device=noise.device).view(1, 1, -1)
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

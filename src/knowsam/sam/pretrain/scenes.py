"""Drawn images with the objects in them: what the small SAM learns to segment before it sees any real image.

A scene is a stack of layers. The lowest are up to two textured regions over a background, or six side by side without
any, as tissues are; shapes lie over them and hide each other. Every layer has a brightness (or colour) and a texture,
shapes of one kind share them. What a camera or a scanner does comes last: bias field, shadow, blur, noise, speckle,
coarse pixels, inversion. All of it is arithmetic on whole batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

REGIONS = 5
"""Amorphous layers below the shapes, of which scenes that are no tissue use `SPARSE_REGIONS`."""
SPARSE_REGIONS = 2
TISSUE = 0.3
"""Share of the scenes whose regions lie side by side, with few shapes over them."""
SHAPES = 14
"""Shape layers, of which a scene uses some."""
LAYERS = 1 + REGIONS + SHAPES


@dataclass
class Scenes:
    """A batch of drawn images.

    Attributes:
        image: `(B, 3, H, W)` float32 in [0, 1].
        layer: `(B, H, W)` int64, the layer that is visible at each pixel, 0 the background.
        kind: `(B, LAYERS)` int64; layers of one kind look alike.
        outer: `(B, LAYERS)` int64, the layer a shape was drawn into (its own number where there is none): with it, a
            ring becomes a filled shape.
    """

    image: Tensor
    layer: Tensor
    kind: Tensor
    outer: Tensor


def draw_scenes(count: int, size: tuple[int, int], generator: torch.Generator) -> Scenes:
    """Draw `count` images of `size` (H, W); the same generator state gives the same images."""
    draw = _Draw(count, size, generator)
    shapes, kind, outer = draw.shapes()
    layer = torch.zeros((count, *size), dtype=torch.int64)
    for index in range(SPARSE_REGIONS):
        region = draw.smooth(1, draw.integer(2, 6))[:, 0] > draw.uniform(count, 1, 1, low=0.1, high=1.2)
        layer[region] = 1 + index
    tissue = draw.chance(TISSUE, count, 1, 1)
    side_by_side = draw.smooth(1 + REGIONS, draw.integer(2, 6)).argmax(dim=1)
    layer = torch.where(tissue, side_by_side, layer)
    shapes &= ~tissue[:, None] | draw.chance(0.4, count, SHAPES, 1, 1)
    # Later shapes lie over earlier ones.
    numbers = torch.arange(1 + REGIONS, LAYERS).view(1, -1, 1, 1)
    top = (shapes * numbers).amax(dim=1)
    layer = torch.where(top > 0, top, layer)
    own = torch.arange(LAYERS).expand(count, -1)
    kind = torch.cat([own[:, : 1 + REGIONS], kind + 1 + REGIONS], dim=1)
    outer = torch.cat([own[:, : 1 + REGIONS], outer + 1 + REGIONS], dim=1)
    return Scenes(draw.picture(draw.paint(layer, kind)), layer, kind, outer)


class _Draw:
    """Random quantities for one batch, all from one generator."""

    def __init__(self, count: int, size: tuple[int, int], generator: torch.Generator) -> None:
        self.count, self.size, self.generator = count, size, generator

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def logarithmic(self, *shape: int, low: float, high: float) -> Tensor:
        return self.uniform(*shape, low=math.log(low), high=math.log(high)).exp()

    def chance(self, share: float, *shape: int) -> Tensor:
        """True with this probability."""
        return torch.rand(*shape, generator=self.generator) < share

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def smooth(self, channels: int, cells: int) -> Tensor:
        """Noise of about unit deviation that varies over `size / cells`: `(B, channels, H, W)`."""
        coarse = torch.randn(self.count, channels, cells + 3, cells + 3, generator=self.generator)
        fine = F.interpolate(coarse, size=self.size, mode="bicubic", align_corners=True)
        return fine * 1.4

    def shapes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Masks `(B, SHAPES, H, W)` bool, kinds and outer shapes `(B, SHAPES)`."""
        count, shapes = self.count, SHAPES
        # Many small alike, such as cells; one or two large ones, such as a lesion; else a few of any size.
        crowd, large = self.chance(0.35, count, 1), self.chance(0.3, count, 1)
        few = torch.where(large, self.uniform(count, 1, low=0.06, high=0.2), self.uniform(count, 1, low=0.1, high=0.45))
        present = torch.rand(count, shapes, generator=self.generator) < torch.where(
            crowd, self.uniform(count, 1, low=0.4, high=1.0), few
        )
        any_size = torch.where(
            large,
            self.logarithmic(count, shapes, low=0.15, high=0.5),
            self.logarithmic(count, shapes, low=0.06, high=0.42),
        )
        radius = torch.where(
            crowd,
            self.logarithmic(count, 1, low=0.05, high=0.14) * self.uniform(count, shapes, low=0.7, high=1.4),
            any_size,
        )
        centre = self.uniform(count, shapes, 2, low=0.06, high=0.94)
        kind = torch.where(
            crowd,
            torch.randint(0, 2, (count, shapes), generator=self.generator),
            torch.randint(0, shapes, (count, shapes), generator=self.generator),
        )
        outer = torch.arange(shapes).expand(count, -1).clone()
        form = {
            "radius": radius,
            "x": centre[..., 0],
            "y": centre[..., 1],
            "angle": self.uniform(count, shapes, high=math.pi),
            "aspect": self.logarithmic(count, shapes, low=0.45, high=1.0),
            "power": torch.where(self.chance(0.75, count, shapes), 2.0, self.logarithmic(count, shapes, low=1, high=6)),
            "bend": torch.where(self.chance(0.3, count, shapes), self.uniform(count, shapes, low=-1.5, high=1.5), 0.0),
        }
        thin = self.chance(0.12, count, shapes)
        form["aspect"] = torch.where(thin, self.uniform(count, shapes, low=0.06, high=0.2), form["aspect"])
        # A shape inside the one before it: what is left of the outer one is a ring.
        inside = self.chance(0.4, count, shapes) & ~thin
        inside[:, ::2] = False
        shrink = self.uniform(count, shapes, low=0.45, high=0.88)
        before = {name: values.roll(1, dims=1) for name, values in form.items()}
        offset = (1 - shrink) * before["radius"] * before["aspect"]
        before["x"] = before["x"] + offset * self.uniform(count, shapes, low=-0.7, high=0.7)
        before["y"] = before["y"] + offset * self.uniform(count, shapes, low=-0.7, high=0.7)
        before["radius"] = before["radius"] * shrink
        form = {name: torch.where(inside, before[name], values) for name, values in form.items()}
        outer = torch.where(inside, outer - 1, outer)
        present = torch.where(inside, present.roll(1, dims=1), present)
        kind = torch.where(inside & (kind == kind.roll(1, dims=1)), (kind + 1) % shapes, kind)
        return self.fill(form) & present[..., None, None], kind, outer

    def fill(self, form: dict[str, Tensor]) -> Tensor:
        """The pixels of shapes given by their parameters `(B, SHAPES)`: `(B, SHAPES, H, W)` bool."""
        height, width = self.size
        side = max(height, width)
        y = ((torch.arange(height) + 0.5) / side).view(1, 1, height, 1)
        x = ((torch.arange(width) + 0.5) / side).view(1, 1, 1, width)
        # One smooth displacement per scene makes outlines organic, and bends what is long.
        warp = self.smooth(2, self.integer(2, 8)) * self.logarithmic(self.count, 1, 1, 1, low=0.002, high=0.04)
        form = {name: values[..., None, None] for name, values in form.items()}
        dx = x + warp[:, :1] - form["x"] * (width / side)
        dy = y + warp[:, 1:] - form["y"] * (height / side)
        cos, sin = form["angle"].cos(), form["angle"].sin()
        along, across = (cos * dx + sin * dy) / form["radius"], (cos * dy - sin * dx) / form["radius"]
        across = (across - form["bend"] * (along.square() - 0.3)) / form["aspect"]
        theta = torch.atan2(across, along)
        outline = torch.ones_like(along)
        for wave in (2, 3, 5):
            strength = self.uniform(self.count, SHAPES, 1, 1, low=-0.35, high=0.35) / wave
            strength = torch.where(self.chance(0.5, self.count, SHAPES, 1, 1), strength, 0.0)
            outline += strength * (wave * theta + self.uniform(self.count, SHAPES, 1, 1, high=2 * math.pi)).cos()
        power = form["power"]
        inside = along.abs().pow(power) + across.abs().pow(power) < outline.pow(power)
        # Some are cut straight: half discs, crescents' ends, organs at the edge of the field.
        cut = torch.where(self.chance(0.15, self.count, SHAPES, 1, 1), 0.0, 9.0)
        cut = cut + self.uniform(self.count, SHAPES, 1, 1, low=-0.3, high=0.5)
        turn = self.uniform(self.count, SHAPES, 1, 1, high=2 * math.pi)
        return inside & (turn.cos() * along + turn.sin() * across < cut)

    def paint(self, layer: Tensor, kind: Tensor) -> Tensor:
        """Brightness and texture by kind: `(B, 3, H, W)` about [0, 1]."""
        count = self.count
        look_of = kind.gather(1, layer.flatten(1)).view_as(layer)
        # Each kind differs from the background by at least .05 on a scale that wraps round, so that contrast is never
        # nil, often low, and of either sign.
        base = self.uniform(count, 1)
        step = torch.where(
            self.chance(0.4, count, LAYERS),
            self.uniform(count, LAYERS, low=0.05, high=0.25),
            self.uniform(count, LAYERS, low=0.05, high=0.95),
        )
        step = torch.where(self.chance(0.5, count, LAYERS), step, 1 - step)
        step[:, 0] = 0
        grey = (base + step).remainder(1.0)
        tint = self.uniform(count, LAYERS, 3, low=-0.35, high=0.35) * self.chance(0.4, count, 1, 1)
        colour = (grey[..., None] + tint).transpose(1, 2)  # (B, 3, LAYERS)
        seen = look_of.flatten(1)
        image = colour.gather(2, seen[:, None].expand(-1, 3, -1)).view(count, 3, *self.size)
        textures = torch.cat([self.smooth(1, max(self.size) // pixels) for pixels in (24, 8, 3)], dim=1)
        strength = self.logarithmic(count, 3, LAYERS, low=0.004, high=0.12) * self.chance(0.6, count, 3, LAYERS)
        strength = strength.gather(2, seen[:, None].expand(-1, 3, -1)).view_as(image)
        return image + (strength * textures).sum(dim=1, keepdim=True)

    def picture(self, image: Tensor) -> Tensor:
        """What happens between an object and its image: from shading and blur to coarse pixels and inversion."""
        count = self.count

        def some(share: float, low: float, high: float) -> Tensor:
            strength = self.logarithmic(count, 1, 1, 1, low=low, high=high)
            return torch.where(self.chance(share, count, 1, 1, 1), strength, 0.0)

        image = image * (1 + some(0.6, 0.05, 0.35) * self.smooth(1, 2))
        shadow = (self.smooth(1, 5).mean(dim=2, keepdim=True) * 6).sigmoid()
        image = image * (1 - some(0.15, 0.2, 0.7) * shadow)
        white = torch.randn(count, 1, *self.size, generator=self.generator)
        grain = F.avg_pool2d(white, 3, stride=1, padding=1) * 2.5
        image = image * (1 + some(0.3, 0.05, 0.35) * grain)
        soft = F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
        softer = F.avg_pool2d(soft, 5, stride=1, padding=2, count_include_pad=False)
        much = self.uniform(count, 1, 1, 1)
        little = self.chance(0.5, count, 1, 1, 1)
        image = torch.where(little, image + much * (soft - image), soft + much * (softer - soft))
        # One noise for all channels; the mean of three has a deviation of 1 / sqrt(3).
        noise = torch.randn(count, 3, *self.size, generator=self.generator).mean(dim=1, keepdim=True) * 1.7
        image = image + some(0.6, 0.004, 0.09) * noise
        # Taken with pixels of two to four of these, and enlarged: their noise and blur are as coarse.
        coarse = F.avg_pool2d(image, self.integer(2, 4), ceil_mode=True, count_include_pad=False)
        coarse = coarse + some(0.6, 0.004, 0.09) * torch.randn(coarse[:, :1].shape, generator=self.generator)
        coarse = F.interpolate(coarse, size=self.size, mode="bicubic", align_corners=False)
        image = torch.where(self.chance(0.45, count, 1, 1, 1), coarse, image)
        image = torch.where(self.chance(0.3, count, 1, 1, 1), 1 - image, image)
        low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
        image = (image - low) / (high - low).clamp(min=1e-3)
        gamma = self.logarithmic(count, 1, 1, 1, low=0.6, high=1.7)
        shown = self.uniform(count, 1, 1, 1, low=0.6, high=1.0)  # many images do not use their whole range
        return (image.pow(gamma) * shown + self.uniform(count, 1, 1, 1) * (1 - shown)).clamp(0, 1)

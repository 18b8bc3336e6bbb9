"""The data of a distillation's step: views of images with one prompt for each object asked for, and drawn images.

All of it is made on the CPU, in loader processes, as whole batches; a step is a function of seed and step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from knowsam.sam.backbone.decode import MASK_PROMPT_SCALE
from knowsam.sam.corruption import corrupt
from knowsam.sam.distil.objects import Objects
from knowsam.sam.pretrain.steps import BOX, MASK, POINT, SEVERITY, SHARES, DrawnStep, PretrainConfig, draw_step
from knowsam.sam.pretrain.targets import LARGEST, SMALLEST, boxes_of, jitter_boxes, points_in

NEAREST = 0.25
"""Smallest side of a view as a share of the image."""
WHOLE = 0.25
"""Share of the views that show the whole image."""
VISIBLE = 0.8
"""Share of an object's box that must lie in a view for the object to be asked for there."""
BRIGHTNESS, CONTRAST, GAMMA = 0.15, (0.7, 1.3), (0.7, 1.4)
GREY = 0.2
"""Share of the views without colour."""


@dataclass
class DistilStep:
    """The data of one step.

    Attributes:
        views: Images with prompts; `drawn` of them, the first ones, are drawn. None in phase A of a student whose
            encoder learns alone.
        drawn: How many of the views are drawn.
        outline: `(drawn, 1, h, w)`, as in `DrawnStep`.
        image: Whole images `(B, 3, H, W)` in [0, 1] for the embedding's loss; None in phase B.
        chosen: `(B,)`, which images these are.
    """

    views: DrawnStep | None
    drawn: int
    outline: Tensor | None
    image: Tensor | None
    chosen: Tensor

    def to(self, device: str | torch.device) -> DistilStep:
        """The same step on another device."""
        return DistilStep(
            None if self.views is None else self.views.to(device),
            self.drawn,
            None if self.outline is None else self.outline.to(device),
            None if self.image is None else self.image.to(device),
            self.chosen,
        )


@dataclass
class StepPlan:
    """What steps are made of.

    Attributes:
        images: `(N, 3, S, S)` uint8, those that are learned from.
        objects: In them.
        imitated: Whether the teacher's embedding is imitated in phase A.
        patch: Of the student, in px.
        side: At which the student sees views and whole images, in px.
        batch: Images per step.
        prompts: Objects per image.
        drawings: Drawn images per step.
        seed: Of everything.
        encoder_steps: Steps of phase A.
        alone: In phase A the encoder learns alone.
    """

    images: Tensor
    objects: Objects
    imitated: bool
    patch: int
    side: int
    batch: int
    prompts: int
    drawings: int
    seed: int
    encoder_steps: int
    alone: bool


class DistilSteps(Dataset[DistilStep]):
    """Steps by number."""

    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan
        # Images without any object have no view to learn from.
        self.with_object = torch.nonzero(plan.objects.chance.amax(dim=1) > 0)[:, 0]

    def __getitem__(self, step: int) -> DistilStep:
        plan = self.plan
        generator = step_generator(plan.seed, step)
        whole = torch.randint(len(plan.images), (plan.batch,), generator=generator)
        image = None
        if step < plan.encoder_steps and plan.imitated:
            image = resized(plan.images[whole].float() / 255, plan.side)
        if step < plan.encoder_steps and plan.alone:
            return DistilStep(None, 0, None, image, whole)
        parts, outline = [], None
        if plan.drawings:
            config = PretrainConfig(images=plan.drawings, prompts=plan.prompts, sizes=(plan.side,))
            drawn = draw_step(config, plan.patch, step, plan.seed, SEVERITY)
            outline = drawn.outline
            parts.append(pooled(drawn))
        if len(self.with_object):
            chosen = self.with_object[torch.randint(len(self.with_object), (plan.batch,), generator=generator)]
            parts.append(draw_views(plan, chosen, generator, SHARES))
        return DistilStep(joined(parts), plan.drawings, outline, image, whole)


def step_generator(seed: int, step: int, purpose: int = 1) -> torch.Generator:
    """Of everything that is random in a step, for each purpose another."""
    words = np.random.SeedSequence((seed, step, purpose)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def draw_views(
    plan: StepPlan, chosen: Tensor, generator: torch.Generator, shares: tuple[float, ...], change: bool = True
) -> DrawnStep:
    """Views of images, P objects of each with a prompt.

    Args:
        plan: Images, objects and sizes.
        chosen: `(B,)`, which images; each has an object.
        generator: All that is random.
        shares: How often each kind of prompt is drawn; what is no single piece gets a mask instead of a box or point.
        change: Whether views are cut out, turned and changed in brightness; else they are the images as they are.

    Returns:
        The step; its targets `(B * P, h, w)` are probabilities at the size of the mask prompt, its outlines are empty.
    """
    count, per_image = len(chosen), plan.prompts
    box, chance = plan.objects.box[chosen], plan.objects.chance[chosen]
    window = _windows(box, chance, generator) if change else torch.tensor([[0.0, 0.0, 1.0]]).repeat(count, 1)
    picked = torch.multinomial(_chance_within(box, chance, window), per_image, replacement=True, generator=generator)
    theta = _transform(window, generator if change else None)
    image = _seen(plan.images[chosen].float() / 255, theta, plan.side)
    image = _changed(image, generator) if change else image
    grid = plan.side // plan.patch * MASK_PROMPT_SCALE
    masks = plan.objects.mask[chosen[:, None], picked].float() / 255
    target = _seen(masks, theta, grid).flatten(0, 1)
    share = (target > 0.5).float().mean(dim=(1, 2))
    sound = (share >= SMALLEST) & (share <= LARGEST)
    sound &= chance.gather(1, picked).flatten() > 0
    kind = torch.multinomial(torch.tensor(shares), count * per_image, replacement=True, generator=generator)
    one_piece = plan.objects.one_piece[chosen].gather(1, picked).flatten()
    kind = torch.where(((kind == BOX) | (kind == POINT)) & ~one_piece, MASK, kind)
    neighbour = target.view(count, per_image, grid, grid).roll(1, dims=1).flatten(0, 1)
    return DrawnStep(
        image,
        target,
        sound.float(),
        torch.zeros(count, 1, grid, grid),
        corrupt(target, neighbour, generator, SEVERITY),
        kind,
        jitter_boxes(boxes_of(target), generator) / grid,
        points_in(target > 0.5, generator) / grid,
    )


def _windows(box: Tensor, chance: Tensor, generator: torch.Generator) -> Tensor:
    """Where views are cut out: around an object of each image, from near to the whole image.

    Args:
        box: `(B, M, 4)`.
        chance: `(B, M)`.
        generator: All that is random.

    Returns:
        `(B, 3)`: x0, y0 and side as shares of the image.
    """
    anchor = torch.multinomial(chance, 1, generator=generator)
    around = box.gather(1, anchor[..., None].expand(-1, -1, 4))[:, 0]
    sides = around[:, 2:] - around[:, :2]
    least = (1.1 * sides.amax(dim=1)).clamp(NEAREST, 1)
    # So near that it is not too small to be asked for.
    most = (sides.prod(dim=1) / (2 * SMALLEST)).sqrt().clamp(max=1).maximum(least)
    side = least + (most - least) * torch.rand(len(box), generator=generator)
    whole = torch.rand(len(box), generator=generator) < WHOLE
    side = torch.where(whole & (most == 1), 1.0, side)[:, None]
    low = (around[:, 2:] - side).clamp(min=0).minimum(1 - side)
    high = around[:, :2].minimum(1 - side).maximum(low)
    start = low + (high - low) * torch.rand(len(box), 2, generator=generator)
    return torch.cat([start, side], dim=1)


def _chance_within(box: Tensor, chance: Tensor, window: Tensor) -> Tensor:
    """Chance of each object `(B, M)` in a view: nearly none where most of it lies outside, or it is too small there."""
    start, side = window[:, None, :2], window[:, None, 2:]
    inside = torch.minimum(box[..., 2:], start + side) - torch.maximum(box[..., :2], start)
    seen, whole = inside.clamp(min=0).prod(dim=-1), (box[..., 2:] - box[..., :2]).prod(dim=-1)
    enough = (seen >= VISIBLE * whole) & (seen >= SMALLEST * side[..., 0].square())
    return chance * enough + 1e-6 * (chance > 0)


def _transform(window: Tensor, generator: torch.Generator | None) -> Tensor:
    """Affine maps `(B, 2, 3)` of views to their images: the window, mirrored and transposed at random."""
    side, centre = window[:, 2], 2 * (window[:, :2] + window[:, 2:] / 2) - 1
    matrix = torch.eye(2).repeat(len(window), 1, 1)
    if generator is not None:
        flips = 1 - 2 * torch.randint(0, 2, (len(window), 2, 1), generator=generator).float()
        transposed = torch.randint(0, 2, (len(window), 1, 1), generator=generator).bool()
        matrix = torch.where(transposed, matrix.flip(1), matrix) * flips
    return torch.cat([matrix * side[:, None, None], centre[..., None]], dim=2)


def _seen(pixels: Tensor, theta: Tensor, side: int) -> Tensor:
    """What `(B, C, S, S)` looks like through `theta`, `(B, C, side, side)`."""
    # Bilinear sampling averages over two pixels at most; what shrinks more is averaged before.
    if (factor := pixels.shape[-1] // (2 * side)) > 1:
        pixels = F.avg_pool2d(pixels, factor)
    grid = F.affine_grid(theta, [len(pixels), 1, side, side], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _changed(image: Tensor, generator: torch.Generator) -> Tensor:
    """Another brightness, contrast and gamma for each image `(B, 3, H, W)` in [0, 1]; some without colour."""

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(image), 1, 1, 1, generator=generator)

    grey = (torch.rand(len(image), 1, 1, 1, generator=generator) < GREY).float()
    image = torch.lerp(image, image.mean(dim=1, keepdim=True).expand_as(image), grey)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    image = mean + (image - mean) * drawn(*CONTRAST) + drawn(-BRIGHTNESS, BRIGHTNESS)
    return image.clamp(0, 1).pow(drawn(*GAMMA))


def resized(image: Tensor, side: int) -> Tensor:
    """Images `(B, 3, S, S)` at another side."""
    if image.shape[-1] == side:
        return image
    return F.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=True)


def pooled(step: DrawnStep) -> DrawnStep:
    """The same step with its targets at the size of the mask prompts."""
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    size = (step.logits.shape[-2], step.logits.shape[-1])
    return DrawnStep(**values | {"target": F.adaptive_avg_pool2d(step.target[:, None], size)[:, 0]})


def joined(steps: list[DrawnStep]) -> DrawnStep:
    """Steps of equal sizes one behind the other."""
    if len(steps) == 1:
        return steps[0]
    return DrawnStep(
        **{field.name: torch.cat([getattr(step, field.name) for step in steps]) for field in fields(DrawnStep)}
    )

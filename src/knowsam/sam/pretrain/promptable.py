"""A SAM that answers mixed prompts, and the loss of its answers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.sam.backbone.decode import MASK_PROMPT_SCALE, decode_masks
from knowsam.sam.backbone.prompting import encode_prompts
from knowsam.sam.backbone.tiny import HALF, Encoded
from knowsam.sam.loading.report import PixelNormalisation
from knowsam.sam.pretrain.steps import BOX, MASK, MASK_AND_POINT, POINT, DrawnStep
from knowsam.sam.pretrain.targets import points_in
from knowsam.sam.teacher import pixel_statistics

EDGE_WEIGHT = 4.0
"""Weight of a pixel on an outline; the others have 1. About a fifth of the pixels are on one."""


class PromptableSam(nn.Module):
    """A SAM with what its pretraining needs beside it: answers to mixed prompts, and a head for outlines.

    Args:
        sam: A `SamModel`, a `SamHQModel` or a SAM of this package.
        normalise: In which pixel values it sees images, see `SamTeacher`.
    """

    def __init__(self, sam: Any, normalise: PixelNormalisation = "sam") -> None:
        super().__init__()
        self.sam = sam
        # The random frequencies of the positional encoding stay as they are, as in SAM.
        sam.shared_image_embedding.requires_grad_(False)
        self.outline_heads = nn.ModuleList(
            [
                nn.Conv2d(sam.config.vision_config.output_channels, MASK_PROMPT_SCALE**2, 1),
                nn.Conv2d(HALF, 1, 3, padding=1),
            ]
        )
        self.mean: Tensor
        self.deviation: Tensor
        mean, deviation = pixel_statistics(normalise)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def encode(self, image: Tensor) -> Any:
        """Images `(B, 3, H, W)` in [0, 1] -> what SAM's encoder gives, the embedding `(B, dim, g_h, g_w)` first."""
        return self.sam.vision_encoder((image - self.mean) / self.deviation)

    def outlines(self, encoded: Encoded) -> list[Tensor]:
        """Logits `(B, 1, 4 g_h, 4 g_w)` of `DrawnStep.outline`, from the embedding and from the map at half size."""
        coarse, fine = self.outline_heads
        return [F.pixel_shuffle(coarse(encoded.embedding), MASK_PROMPT_SCALE), fine(encoded.half)]

    def answer(
        self, encoded: Any, kind: Tensor, logits: Tensor, point: Tensor, inside: Tensor, box: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One answer per prompt, encoded by `encode_prompts`.

        Args:
            encoded: What `encode` gave for B images.
            kind: `(N,)`, N = B * P.
            logits: Mask prompts `(N, 4 g_h, 4 g_w)`, used where the kind has a mask.
            point: `(N, 2)` x, y in [0, 1].
            inside: `(N,)` bool, whether the point belongs to the object.
            box: `(N, 4)` in [0, 1].

        Returns:
            Logits `(N, 4 g_h, 4 g_w)` and the estimated IoU `(N,)`.
        """
        has_point = (kind == POINT) | (kind == MASK_AND_POINT)
        has_mask = (kind == MASK) | (kind == MASK_AND_POINT)
        prompts = encode_prompts(self.sam, logits, has_mask, box, kind == BOX, point, inside, has_point)
        masks, quality = decode_masks(self.sam, encoded, *prompts)
        return masks[:, 0].float(), quality[:, 0].float()


def mask_loss(logits: Tensor, quality: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`BCE + Dice + (IoU - estimate)^2`, averaged over the prompts that count; and their mean IoU, detached.

    Args:
        logits: `(N, h, w)`.
        quality: Estimated IoU `(N,)`.
        target: `(N, h, w)` in [0, 1].
        weight: `(N,)`.
    """
    probs = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2))
    overlap, total = (probs * target).sum(dim=(1, 2)), (probs + target).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    iou = intersection_over_union(logits.detach() > 0, target > 0.5)
    loss = cross_entropy + dice + (quality - iou).square()
    count = weight.sum().clamp(min=1)
    return (loss * weight).sum() / count, (iou * weight).sum() / count


def intersection_over_union(answer: Tensor, truth: Tensor) -> Tensor:
    """IoU of boolean masks `(N, h, w)`: `(N,)`, 1 where both are empty."""
    overlap, either = (answer & truth).sum(dim=(1, 2)), (answer | truth).sum(dim=(1, 2))
    return torch.where(either > 0, overlap / either.clamp(min=1), 1.0)


def step_losses(model: PromptableSam, data: DrawnStep, generator: torch.Generator) -> dict[str, Tensor]:
    """Terms of one step: both answers, their IoU, the IoU of the given masks and of the answers to them, the outlines.

    Args:
        model: The SAM that learns.
        data: A step's data, on the model's device.
        generator: All that is random; drawn on the CPU, so that it is the same on every device.
    """
    encoded = model.encode(data.image)
    return answer_losses(model, encoded, data, generator) | outline_losses(model, encoded, data.outline)


def answer_losses(model: PromptableSam, encoded: Any, data: DrawnStep, generator: torch.Generator) -> dict[str, Tensor]:
    """Terms of the answers: losses and IoU of both, the IoU of the given masks and of the answers to them.

    Every prompt is answered; the first of each image a second time, with the model's own answer as mask and, for half
    of them, a point where it is wrong.

    Args:
        model: The SAM that learns.
        encoded: What `encode` gave for the images of the step.
        data: A step's data, on the model's device.
        generator: As in `step_losses`.
    """
    height, width = data.logits.shape[-2:]
    small = F.adaptive_avg_pool2d(data.target[:, None], (height, width))[:, 0]
    device = small.device
    inside = torch.ones(len(small), dtype=torch.bool, device=device)
    first, quality = model.answer(encoded, data.kind, data.logits, data.point, inside, data.box)
    first_loss, first_iou = mask_loss(first, quality, small, data.weight)

    again = slice(None, None, len(small) // len(data.image))
    own, truth = first[again].detach().clamp(-32, 32), small[again]
    place = points_in((own > 0) != (truth > 0.5), generator)
    index = (place[:, 1].long() * width + place[:, 0].long())[:, None]
    inside = truth.flatten(1).gather(1, index)[:, 0] > 0.5
    pointed = (torch.rand(len(own), generator=generator) < 0.5).to(device)
    kind = torch.where(pointed, MASK_AND_POINT, MASK)
    point = place / torch.tensor([width, height], device=device)
    second, quality = model.answer(encoded, kind, own, point, inside, data.box[again])
    second_loss, second_iou = mask_loss(second, quality, truth, data.weight[again])
    given, answered = (
        mean_iou_of(logits.detach(), small, data.weight * (data.kind == MASK)) for logits in (data.logits, first)
    )
    return {
        "first": first_loss, "second": second_loss,
        "iou_first": first_iou, "iou_second": second_iou, "iou_given_mask": given, "iou_mask": answered,
    }  # fmt: skip


def outline_losses(model: PromptableSam, encoded: Encoded, outline: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of all outlines, from the embedding and from the map at half size; edges weigh `EDGE_WEIGHT`.

    Args:
        model: The SAM that learns.
        encoded: What `encode` gave.
        outline: `(B, 1, h, w)`, see `DrawnStep`.
    """
    edges = torch.tensor(EDGE_WEIGHT, device=outline.device)
    coarse, fine = (
        F.binary_cross_entropy_with_logits(z.float(), outline, pos_weight=edges) for z in model.outlines(encoded)
    )
    return {"outline_coarse": coarse, "outline_fine": fine}


def mean_iou_of(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean IoU of logits `(N, h, w)` with masks in [0, 1], over the prompts that count `(N,)`; 0 if none does."""
    iou = intersection_over_union(logits > 0, truth > 0.5)
    return (iou * weight).sum() / weight.sum().clamp(min=1)

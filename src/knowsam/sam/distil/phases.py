"""The two phases of KD SAM as losses: the encoder on embeddings, then the decoder on answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.sam.corruption import corrupt
from knowsam.sam.pretrain.promptable import PromptableSam, mask_loss
from knowsam.sam.pretrain.steps import BOX, MASK

BOX_SIDE = (0.1, 0.7)
"""Range of the sides of drawn boxes, as shares of the image."""


def encoder_parameters(student: PromptableSam) -> list[nn.Parameter]:
    """What phase A teaches."""
    return list(student.sam.vision_encoder.parameters())


def decoder_parameters(student: PromptableSam) -> list[nn.Parameter]:
    """What phase B teaches: decoder and prompts but for the frequencies of positions."""
    sam = student.sam
    parts = [*sam.mask_decoder.parameters(), *sam.prompt_encoder.parameters()]
    fixed = {id(weight) for weight in sam.shared_image_embedding.parameters()}
    return [weight for weight in parts if id(weight) not in fixed]


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean (F_S - F_T)^2`, phase A of KD SAM (arXiv 2501.16740); in [0, inf), 0 for equal embeddings.

    Args:
        student: `(B, D, h, w)`, learns.
        teacher: The same shape; detached here.
    """
    return F.mse_loss(student.float(), teacher.detach().float())


def encoder_loss(student: PromptableSam, image: Tensor, target: Tensor, variance: float) -> Tensor:
    """`mean (F_S - F_T)^2 / Var(F_T)`: 1 for the mean embedding, 0 for the teacher's; 1 less it is R^2.

    Args:
        student: Learns.
        image: `(B, 3, H, W)` in [0, 1].
        target: The teacher's embeddings `(B, dim, g, g)`.
        variance: Of the teacher's embeddings around their mean over images and places.
    """
    return embedding_loss(student.encode(image)[0], target) / variance


def draw_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Random boxes `(count, 4)` x0, y0, x1, y1 as shares of the image."""
    low, high = BOX_SIDE
    side = low + (high - low) * torch.rand(count, 2, generator=generator)
    start = torch.rand(count, 2, generator=generator) * (1 - side)
    return torch.cat([start, start + side], dim=1)


def answers(model: PromptableSam, embedding: Tensor, kind: int, box: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Answer boxes or masks, see `PromptableSam.answer`.

    Args:
        model: A SAM.
        embedding: Of B images.
        kind: `BOX` or `MASK`, of all prompts.
        box: `(B * P, 4)` as shares of the image.
        mask: Mask prompts `(B * P, 4 g, 4 g)`.
    """
    kinds = torch.full((len(box),), kind, device=box.device)
    inside = torch.ones(len(box), dtype=torch.bool, device=box.device)
    return model.answer((embedding,), kinds, mask, box[:, :2], inside, box)


def decoder_loss(
    teacher: PromptableSam, student: PromptableSam, image: Tensor, target: Tensor, prompts: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Answers of the student's decoder against the teacher's to the same boxes, and to spoilt masks of them.

    The encoder gets no gradient: its embedding is computed without one.

    Returns:
        The mean of `mask_loss` over both kinds of prompts; the mean IoU with the teacher's answers to boxes.
    """
    box = draw_boxes(len(image) * prompts, generator).to(image.device)
    grid = target.shape[-1]
    nothing = torch.zeros(len(box), 4 * grid, 4 * grid, device=image.device)
    with torch.no_grad():
        student.sam.vision_encoder.eval()
        embedding = student.encode(image)[0]
        wanted = answers(teacher, target, BOX, box, nothing)[0].sigmoid()
        hard = (wanted > 0.5).float()
        spoilt = corrupt(hard, hard.roll(1, dims=0), generator)
    weight = torch.ones(len(box), device=image.device)
    boxed, agreement = mask_loss(*answers(student, embedding, BOX, box, nothing), wanted, weight)
    refined, _ = mask_loss(*answers(student, embedding, MASK, box, spoilt), wanted, weight)
    return (boxed + refined) / 2, agreement

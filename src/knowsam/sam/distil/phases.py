"""The losses of KD SAM: the encoder's on embeddings (phase A), the decoder's on answers (phase B)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.sam.backbone.tiny import QUARTER, Encoded
from knowsam.sam.distil.cache import Embeddings, maps_of
from knowsam.sam.pretrain.promptable import PromptableSam, answer_losses
from knowsam.sam.pretrain.steps import DrawnStep

MOST_MEASURED = 64
"""Images from which mean and deviation of the teacher's maps are taken."""


def encoder_parameters(student: PromptableSam) -> list[nn.Parameter]:
    """What phase A teaches."""
    return list(student.sam.vision_encoder.parameters())


def decoder_parameters(student: PromptableSam) -> list[nn.Parameter]:
    """What phase B teaches: decoder and prompts but for the frequencies of positions."""
    sam = student.sam
    parts = [*sam.mask_decoder.parameters(), *sam.prompt_encoder.parameters()]
    fixed = {id(weight) for weight in sam.shared_image_embedding.parameters()}
    return [weight for weight in parts if id(weight) not in fixed]


def map_statistics(embeddings: Embeddings) -> list[tuple[Tensor, Tensor]]:
    """Mean and deviation `(dim,)` of each of the teacher's maps over images and places."""
    count = len(embeddings.paths)
    some = torch.linspace(0, count - 1, min(count, MOST_MEASURED)).long()
    found = []
    for level in embeddings.take(some):
        deviation, mean = torch.std_mean(level.float(), dim=(0, 2, 3))
        found.append((mean, deviation))
    return found


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean (F_S - F_T)^2`, phase A of KD SAM (arXiv 2501.16740); in [0, inf), 0 for equal embeddings.

    Args:
        student: `(B, D, h, w)`, learns.
        teacher: The same shape; detached here.
    """
    return F.mse_loss(student.float(), teacher.detach().float())


def encoder_loss(
    student: PromptableSam, image: Tensor, maps: Sequence[Tensor], statistics: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """`mean (F_S - F_T)^2 / Var(F_T)`, the mean over maps: 1 for mean maps, 0 for the teacher's; 1 less it is R^2.

    Args:
        student: Learns.
        image: `(B, 3, H, W)` in [0, 1].
        maps: All that the teacher's decoder reads: the embedding `(B, dim, g_h, g_w)`, and finer maps of a small SAM.
        statistics: Mean and deviation of each, `map_statistics`.
    """
    found = maps_of(student.encode(image))
    errors = [
        embedding_loss(one, other) / deviation.square().mean()
        for one, other, (_, deviation) in zip(found, maps, statistics, strict=True)
    ]
    return torch.stack(errors).mean()


class Projection(nn.Module):
    """From a small SAM's maps to the scale and channels of a teacher's embedding; thrown away after distillation.

    Args:
        dim: Channels of the small SAM's embedding.
        mean: Of the teacher's embedding by channel, `(D,)`.
        deviation: `(D,)`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.linear = nn.Conv2d(dim + QUARTER, len(mean), 1)
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("deviation", deviation.clamp(min=1e-6).view(1, -1, 1, 1))

    def loss(self, encoded: Encoded, target: Tensor) -> Tensor:
        """`mean (P(F_S) - (F_T - mean) / deviation)^2`; 1 less it is R^2.

        Args:
            encoded: Of B images.
            target: The teacher's embedding of them `(B, D, g_h, g_w)`.
        """
        size = (encoded.quarter.shape[-2], encoded.quarter.shape[-1])
        coarse = F.interpolate(encoded.embedding, size, mode="bilinear", align_corners=False)
        found = self.linear(torch.cat([coarse, encoded.quarter], dim=1))
        wanted = F.adaptive_avg_pool2d((target.float() - self.mean) / self.deviation, size)
        return embedding_loss(found, wanted)


def decoder_terms(student: PromptableSam, views: DrawnStep, generator: torch.Generator) -> dict[str, Tensor]:
    """`answer_losses` of a student whose encoder stays as it is: its maps are computed without a gradient."""
    student.sam.vision_encoder.eval()
    with torch.no_grad():
        encoded = student.encode(views.image)
    return answer_losses(student, encoded, views, generator)

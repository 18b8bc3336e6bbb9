"""SAM-induced knowledge distillation as one object that any semi-supervised method can hold (KnowSAM, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.functional.losses import distillation_loss, segmentation_loss
from knowsam.functional.schedules import gaussian_rampup
from knowsam.sam.corruption import corrupt_prompts
from knowsam.sam.loading.resize import resize_logits
from knowsam.sam.teacher import SamTeacher
from knowsam.types import Progress

Resolution = Literal["image", "sam"]


@dataclass
class SamStep:
    """What SAM gives to one training step.

    Attributes:
        logits: SAM's answer `(B, K, H, W)`, detached: a target, never a path for gradients. On labelled images it may
            be the answer to a spoilt prompt.
        loss: `L_sam + w_kd(t) * mean_k L_kd(k)`, to be added to the method's own loss.
        terms: The unweighted terms `"sam_sup"` and `"sam_kd"`, for logs and tests.
    """

    logits: Tensor
    loss: Tensor
    terms: dict[str, Tensor]


class SamDistillation(nn.Module):
    """The plug-in: trains SAM on the ground truth and distils it into the students. Knows no method.

    The graph of SAM and the graph of the students are disjoint, because the mask prompt and the distillation target are
    both detached: one `backward()` on the method's total serves both.

    Args:
        teacher: The adapted SAM.
        temperature: T of the distillation loss.
        kd_weight: Weight of the distillation loss; 0 leaves the students' gradients as if there were no SAM.
        prompt_spoil: Share of the labelled images on which SAM learns from the spoilt truth as its mask prompt
            (`corrupt_prompts`) and the students do not learn from its answer; 0, the paper's, always prompts it with
            the students' mask.
        kd_resolution: Where students and SAM are compared. `"image"`, the paper's: SAM's answer is enlarged, and its
            blurred outlines are taught too. `"sam"`: the students' logits are averaged over the pixels of each of
            SAM's, so that finer detail is left to them.
        kd_ramp: Whether `w_kd(t) = kd_weight exp(-5 (1 - t)^2)`, so that SAM teaches once it and the students know
            something; else, the paper's, it is constant.
    """

    def __init__(
        self,
        teacher: SamTeacher,
        temperature: float = 10.0,
        kd_weight: float = 1.0,
        prompt_spoil: float = 0.0,
        kd_resolution: Resolution = "image",
        kd_ramp: bool = False,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.temperature = temperature
        self.kd_weight = kd_weight
        self.prompt_spoil = prompt_spoil
        self.kd_resolution = kd_resolution
        self.kd_ramp = kd_ramp

    def forward(
        self,
        image: Tensor,
        student_logits: Sequence[Tensor],
        label: Tensor,
        progress: Progress,
        mask_prompt: Tensor | None = None,
    ) -> SamStep:
        """One distillation step.

        Args:
            image: `(B, C, H, W)` float in [0, 1].
            student_logits: Each student's logits `(B, K, H, W)` for those very images.
            label: `(B, H, W)` int64, `IGNORE` where there is no ground truth.
            progress: Where the run stands, for the ramp.
            mask_prompt: Logits `(B, K, H, W)` that prompt SAM, always detached here; the students' mean by default.

        Returns:
            The detached SAM logits, the weighted loss and the unweighted terms.
        """
        if mask_prompt is None:
            mask_prompt = torch.stack(list(student_logits)).mean(dim=0)
        prompt, spoilt = corrupt_prompts(mask_prompt.detach(), label, self.prompt_spoil)
        masks = self.teacher.masks(image, prompt)
        logits = resize_logits(masks, (image.shape[-2], image.shape[-1]))
        supervised = segmentation_loss(logits, label)
        students, target = list(student_logits), logits.detach()
        if self.kd_resolution == "sam":
            target = masks.detach()
            students = [F.interpolate(z, size=target.shape[-2:], mode="area") for z in students]
        # SAM's answer to a spoilt prompt is a lesson for SAM alone: the students know better.
        weight = (~spoilt).float().view(-1, 1, 1).expand(target[:, 0].shape) if self.prompt_spoil > 0 else None
        distilled = torch.stack([distillation_loss(z, target, self.temperature, weight) for z in students]).mean()
        kd_weight = self.kd_weight * (gaussian_rampup(progress.fraction) if self.kd_ramp else 1.0)
        loss = supervised + kd_weight * distilled
        return SamStep(logits.detach(), loss, {"sam_sup": supervised, "sam_kd": distilled})

    @torch.no_grad()
    def predict(self, image: Tensor, mask_prompt: Tensor) -> Tensor:
        """SAM's own logits `(B, K, H, W)`, for validation."""
        return self.teacher(image, mask_prompt)

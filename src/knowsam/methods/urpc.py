"""URPC: one network agrees with itself across scales (Luo et al., MICCAI 2021; Medical Image Analysis 2022).

Every stage of the decoder gets a prediction head. On unlabelled images all of them are pulled to their mean, with a
smaller weight where a scale is far from it, which counts as uncertain; a second term keeps that distance small. There
is no second network and no second pass. After training the side heads are dropped: what is kept is the network with its
main head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from knowsam.errors import InputError
from knowsam.functional.losses import pyramid_consistency, segmentation_loss
from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, join_halves
from knowsam.networks import SideHeads
from knowsam.types import Batch, Progress, StepOutput

SIDE_DROPOUT = (0.5, 0.3, 0.2)
"""Share of channels dropped before each side head, coarsest first, as in the authors' 3-D network."""


class PyramidConsistencyOptions(StudentOptions):
    """Settings of `urpc`; the defaults are the paper's."""

    consistency_weight: float = Field(0.1, ge=0)
    """Final weight of both terms of the consistency, reached along `exp(-5 (1 - t)^2)`."""
    ramp_end: float = Field(1.0, gt=0, le=1)
    """Share of the run after which the ramp is complete."""


class PyramidConsistency(StudentMethod):
    """One network with heads at four scales; the network with its main head is kept."""

    Options = PyramidConsistencyOptions
    replayable = True
    term_names: ClassVar[Mapping[str, str]] = {
        "student_scales": "Network: agreement of the scales",
        "student_divergence": "Network: divergence of the scales",
    }

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """A larger weight, reached sooner."""
        return {"consistency_weight": 0.3, "ramp_end": 0.6}

    def __init__(self, options: PyramidConsistencyOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        channels = getattr(self.network, "feature_channels", ())
        if len(channels) != len(SIDE_DROPOUT) + 1:
            raise InputError(
                f"options.network: '{options.network}' was found, but urpc expected a network with"
                f" {len(SIDE_DROPOUT) + 1} decoder stages to put heads on; choose unet or vnet with their own widths."
            )
        self.side_heads = SideHeads(channels[:-1], context.classes, SIDE_DROPOUT)

    def term_modules(self) -> dict[str, tuple[nn.Module, ...]]:
        """Every scale takes part in the method's own terms; SAM teaches the finest one alone."""
        return {"student": (self.network, self.side_heads), "sam_kd": (self.network,)}

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of the network and its side heads.

            L = 1/S sum_s seg(z_s^l, y^l) + lam(t) [ consistency(z_1^un .. z_S^un) + divergence(z_1^un .. z_S^un) ]
            lam(t) = lam_max exp(-5 (1 - t)^2)

        `z_s` are the logits of scale s = 1..S at the size of the image; for both terms see `pyramid_consistency`.
        """
        options = self.options
        lam = progress.weight(lambda t: options.consistency_weight * gaussian_rampup(t / options.ramp_end))
        image, label = join_halves(batch)
        *coarse, finest = self.network.features(image)
        logits = self.network.head(finest)
        pyramid = [logits, *self.side_heads(coarse, (image.shape[-2], image.shape[-1]))]
        loss = segmentation_loss(torch.stack(pyramid), label).mean()
        terms = {"student_sup": loss}
        if batch.unlabelled_image is not None:
            count = batch.labelled_image.shape[0]
            consistency, divergence = pyramid_consistency([z[count:] for z in pyramid])
            loss = loss + lam * (consistency + divergence)
            terms |= {"student_scales": consistency, "student_divergence": divergence}
        if self.sam is not None:
            sam = self.sam(image, [logits], label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

"""CPS, cross pseudo supervision: two networks label the images for each other (Chen et al., CVPR 2021).

Two networks of the same kind start from different random weights. On every image, labelled or not, each learns the
class that the other finds most probable, as if it were the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from knowsam.functional.losses import cross_entropy, segmentation_loss
from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, join_halves
from knowsam.networks.registry import build_network
from knowsam.types import Batch, Progress, StepOutput


class CrossPseudoSupervisionOptions(StudentOptions):
    """Settings of `cps`; the defaults are the paper's."""

    pseudo_weight: float = Field(1.5, ge=0)
    """Weight of the cross pseudo supervision; the paper has 1.5 for one data set, 6 for the other."""
    ramp: bool = False
    """Let that weight rise along `exp(-5 (1 - t)^2)`; false: constant."""


class CrossPseudoSupervision(StudentMethod):
    """Two networks; the first is kept, as in the paper, so that what predicts is no larger than a baseline."""

    Options = CrossPseudoSupervisionOptions
    replayable = True
    term_names: ClassVar[Mapping[str, str]] = {
        "first_sup": "First network: against the truth",
        "second_sup": "Second network: against the truth",
        "first_pseudo": "First network: the other's pseudo-labels",
        "second_pseudo": "Second network: the other's pseudo-labels",
    }

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """The ramp, because pseudo-labels of networks that have seen nothing yet are noise."""
        return {"ramp": True}

    def __init__(self, options: CrossPseudoSupervisionOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.second: Any = build_network(**self.spec)  # the generator has moved on: other weights than the first's

    def term_modules(self) -> dict[str, tuple[nn.Module, ...]]:
        """Each network has terms of its own; SAM teaches both."""
        return {"first": (self.network,), "second": (self.second,), "sam_kd": (self.network, self.second)}

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of both networks, `k in {1, 2}`.

            L = sum_k seg(z_k^l, y^l) + lam [ CE(z_1, argmax z_2) + CE(z_2, argmax z_1) ]

        The pseudo-labels are those of all images, labelled and unlabelled.
        """
        options = self.options
        lam = progress.weight(lambda t: options.pseudo_weight * (gaussian_rampup(t) if options.ramp else 1.0))
        image, label = join_halves(batch)
        first, second = self.network(image), self.second(image)
        # argmax has no gradient: each network is taught, none is changed for the sake of its pseudo-label.
        supervised = segmentation_loss(torch.stack([first, second]), label)
        terms = {
            "first_sup": supervised[0],
            "second_sup": supervised[1],
            "first_pseudo": cross_entropy(first, second.argmax(dim=1)),
            "second_pseudo": cross_entropy(second, first.argmax(dim=1)),
        }
        loss = terms["first_sup"] + terms["second_sup"] + lam * (terms["first_pseudo"] + terms["second_pseudo"])
        if self.sam is not None:
            sam = self.sam(image, [first, second], label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

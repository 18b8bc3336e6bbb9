"""Supervised training on the labelled images alone: the baseline that stands beside every result."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import nn

from knowsam.losses import segmentation_loss
from knowsam.methods.base import Method, MethodContext
from knowsam.networks import build_network
from knowsam.types import Batch, Progress, StepOutput


class SupervisedOptions(BaseModel):
    """Settings of `supervised`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Literal["unet", "vnet"] = "unet"
    standardise: bool = False
    """Remove each image's own brightness and contrast before the network."""


class Supervised(Method):
    """One network, cross-entropy + Dice on the labelled images."""

    Options = SupervisedOptions
    uses_unlabelled = False
    footnote = "its labelled images fill the unlabelled half of every batch too"

    def __init__(self, options: SupervisedOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.spec: dict[str, Any] = {
            "name": options.network,
            "in_channels": context.in_channels,
            "classes": context.classes,
            "standardise": options.standardise,
        }
        self.network = build_network(**self.spec)

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """`L = CE + Dice` on `(B_l, K, H, W)`."""
        logits = self.network(batch.labelled_image)
        loss = segmentation_loss(logits, batch.label)
        terms = {"unet_sup" if self.spec["name"] == "unet" else "vnet_sup": loss}
        if self.sam is not None:
            sam = self.sam(batch.labelled_image, [logits], batch.label)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

    def student(self) -> nn.Module:
        """The network."""
        return self.network

    def student_spec(self) -> dict[str, Any]:
        """Name and arguments for `build_network`."""
        return self.spec

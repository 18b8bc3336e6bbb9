"""KD SAM: a small SAM, distilled beforehand, as the network itself (Patil et al., arXiv 2501.16740; phase B).

Its encoder has learned from a large SAM on images without masks (`knowsam sam distil`, phase A of the paper); here its
decoder and learnable prompts learn the classes from the labelled images. The first pages of the paper alone could be
read: docs/methods/kd_sam.md says what is ours.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import nn

from knowsam.functional.losses import dice_loss
from knowsam.methods.base import Method, MethodContext
from knowsam.networks.registry import build_network
from knowsam.types import Batch, Progress, StepOutput


class KdSamOptions(BaseModel):
    """Settings of `kd_sam`; the defaults are the paper's, as far as they are known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weights: str = "tiny"
    """The distilled SAM: a folder that `knowsam sam distil` wrote, or `tiny`, the bundled one."""
    train: Literal["decoder", "all"] = "decoder"
    """What learns: decoder and prompts, the encoder staying as it was distilled; or everything."""
    dice: Literal["plain", "squared"] = "plain"
    """Denominator of the Dice loss: the paper's, or that of the other methods here."""
    standardise: bool = False
    """Remove each image's own brightness and contrast before the network."""


class KdSam(Method):
    """One distilled SAM without prompts from outside, plain Dice on the labelled images."""

    Options = KdSamOptions
    uses_unlabelled = False
    footnote = (
        "a SAM distilled beforehand is the network; its labelled images fill the unlabelled half of every batch too"
    )

    def __init__(self, options: KdSamOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        own: dict[str, Any] = {
            "name": "sam_student",
            "in_channels": context.in_channels,
            "classes": context.classes,
            "standardise": options.standardise,
        }
        self.network: Any = build_network(**own, sam=options.weights)
        # Whoever builds it again needs no folder: the student's file has the weights.
        self.spec = own | {"sam": self.network.specification}
        if options.train == "decoder":
            self.encoder().requires_grad_(False)
        self.train()

    def encoder(self) -> nn.Module:
        """What was distilled, and stays so by default."""
        return self.network.sam.vision_encoder

    def train(self, mode: bool = True) -> KdSam:
        """Training mode for what learns: a frozen encoder keeps the statistics of its distillation."""
        super().train(mode)
        if self.options.train == "decoder":
            self.encoder().eval()
        return self

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """`L = 1 - 2 sum_i p_i g_i / (sum_i p_i + sum_i g_i)`, the mean over classes, on `(B_l, K, H, W)`."""
        logits = self.network(batch.labelled_image)
        loss = dice_loss(logits, batch.label, squared=self.options.dice == "squared")
        terms = {"student_sup": loss}
        if self.sam is not None:
            sam = self.sam(batch.labelled_image, [logits], batch.label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

    def student(self) -> nn.Module:
        """The distilled SAM."""
        return self.network

    def student_spec(self) -> dict[str, Any]:
        """Name and arguments for `build_network`."""
        return self.spec

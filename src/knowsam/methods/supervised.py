"""Supervised training on the labelled images alone: the baseline of every comparison."""

from __future__ import annotations

from knowsam.functional.losses import segmentation_loss
from knowsam.methods.base import StudentMethod, StudentOptions
from knowsam.types import Batch, Progress, StepOutput


class SupervisedOptions(StudentOptions):
    """Settings of `supervised`: the network, and nothing else."""


class Supervised(StudentMethod):
    """One network, cross-entropy + Dice on the labelled images."""

    Options = SupervisedOptions
    replayable = True
    uses_unlabelled = False
    footnote = "its labelled images fill the unlabelled half of every batch too"

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """`L = seg(z, y) = CE + Dice` on `(B_l, K, H, W)`."""
        logits = self.network(batch.labelled_image)
        loss = segmentation_loss(logits, batch.label)
        terms = {"student_sup": loss}
        if self.sam is not None:
            sam = self.sam(batch.labelled_image, [logits], batch.label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

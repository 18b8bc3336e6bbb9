"""A semi-supervised method of one's own: the network teaches itself where it is certain.

    knowsam train DATA --out RUN --method examples/own_method.py:SelfTraining sam=none
    knowsam compare DATA --out DIR --methods supervised,examples/own_method.py:SelfTraining

`predict`, `evaluate`, `report` and `export` then need neither this file nor the method. In a package of yours, an entry
point gives it a name of its own wherever that package is installed (in its pyproject.toml):

    [project.entry-points."knowsam.methods"]
    self_training = "my_package.own_method:SelfTraining"
"""

from __future__ import annotations

from pydantic import Field

from knowsam.functional.losses import cross_entropy, segmentation_loss
from knowsam.functional.pseudo_labels import confident_label
from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods import StudentMethod, StudentOptions, join_halves
from knowsam.types import Batch, Progress, StepOutput


class SelfTrainingOptions(StudentOptions):
    """What `options.NAME=VALUE` sets; the network and its arguments are inherited."""

    confidence: float = Field(0.9, ge=0, lt=1)
    weight: float = Field(1.0, ge=0)


class SelfTraining(StudentMethod):
    """One network, `self.network`, built and kept by `StudentMethod`."""

    Options = SelfTrainingOptions
    replayable = True  # nothing but operations on tensors: on a GPU a step is recorded once and replayed

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """`L = seg(z^l, y^l) + lam(t) CE(z^un, argmax z^un where its probability is at least the confidence)`."""
        image, label = join_halves(batch)  # labelled images first; the label of the others is IGNORE
        logits = self.network(image)
        loss = segmentation_loss(logits, label)
        terms = {"student_sup": loss}
        if batch.unlabelled_image is not None:
            own = logits[batch.labelled_image.shape[0] :]
            pseudo_label = confident_label(own.detach().softmax(dim=1), self.options.confidence)
            terms["student_pseudo"] = cross_entropy(own, pseudo_label)
            weight = progress.weight(lambda t: self.options.weight * gaussian_rampup(t))
            loss = loss + weight * terms["student_pseudo"]
        if self.sam is not None:  # SAM as a second teacher
            sam = self.sam(image, [logits], label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

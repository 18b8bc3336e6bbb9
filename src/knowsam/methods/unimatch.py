"""UniMatch: confident labels of a weak view teach two strong views of it (Yang et al., CVPR 2023).

One network labels the weak view of an unlabelled image; where it is certain, it must give the same answer for two views
with other intensities and a box of another image in them (CutMix), and for the weak view with half of the channels of
its features dropped. No second network, no running average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from knowsam.data.augment import IntensityAugmentation, strong_view
from knowsam.functional.losses import dice_loss, segmentation_loss
from knowsam.functional.pseudo_labels import confident_label
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, join_halves, require_features
from knowsam.types import IGNORE, Batch, Progress, StepOutput


class UniMatchOptions(StudentOptions):
    """Settings of `unimatch`; the defaults are the paper's, and those of its authors' code for ACDC."""

    confidence: float = Field(0.95, ge=0, lt=1)
    """tau: pixels whose most probable class has less are left out."""
    image_weight: float = Field(0.5, ge=0)
    """mu: weight of the two strong views together."""
    feature_weight: float = Field(0.5, ge=0)
    """lambda: weight of the view with dropped features; at 0 there is none, and any network will do."""
    feature_dropout: float = Field(0.5, ge=0, lt=1)
    """Probability of dropping a channel of the encoder's features."""
    cutmix: float = Field(0.5, ge=0, le=1)
    """Probability that a strong view gets a box of another image."""


class UniMatch(StudentMethod):
    """One network. For any B_l and B_u; CutMix needs B_u >= 2 to have another image."""

    Options = UniMatchOptions
    replayable = True
    unlabelled_view = "weak"
    footnote = "its unlabelled images are augmented weakly; it makes two strong views of them itself"
    term_names: ClassVar[Mapping[str, str]] = {
        "student_strong": "Network: strong views against the weak one's labels",
        "student_features": "Network: dropped features against the weak view's labels",
        "share_certain": "Share of pixels of which the weak view is certain",
    }

    def __init__(self, options: UniMatchOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        if options.feature_weight > 0:
            remedy = "leave the features alone with options.feature_weight=0"
            require_features(self.network, options.network, "unimatch", remedy)
        self.strong = IntensityAugmentation(context.in_channels, context.slices)

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of the network.

        `w` is the weak view, `s1`, `s2` the strong ones, `fp` the weak one with dropped features; `y'` the weak view's
        most probable class where its probability is at least tau (other pixels are left out):

            L   = 1/2 (L_x + L_u)
            L_x = (CE + Dice)(z^l, y^l) / 2
            L_u = lambda H(z^fp, y') + mu/2 [ H(z^s1, y'_1) + H(z^s2, y'_2) ]     (unified dual-stream perturbations)

        `y'_1`, `y'_2` are `y'` with the same boxes of other images as the views. H is the Dice loss over the certain
        pixels, as in the authors' code for ACDC; the paper's natural images have cross-entropy.
        """
        options = self.options
        image, label = join_halves(batch)
        unlabelled = batch.unlabelled_image
        count = len(batch.labelled_image)
        logits, feature_logits = self.clean_and_perturbed(image, count)
        terms = {"student_sup": segmentation_loss(logits, label) / 2}
        loss = terms["student_sup"] / 2
        if unlabelled is not None:
            # Detached: the weak view teaches, and is not moved towards what it teaches.
            pseudo_label = confident_label(logits[count:].detach().softmax(dim=1), options.confidence)
            views, view_labels = zip(*(self.strong_view(unlabelled, pseudo_label) for _ in range(2)), strict=True)
            first, second = self.network(torch.cat(views)).chunk(2)
            strong = (dice_loss(first, view_labels[0]) + dice_loss(second, view_labels[1])) / 2
            consistency = options.image_weight * strong
            terms["student_strong"] = strong
            if feature_logits is not None:
                terms["student_features"] = dice_loss(feature_logits, pseudo_label)
                consistency = consistency + options.feature_weight * terms["student_features"]
            loss = loss + consistency / 2
            terms["share_certain"] = (pseudo_label != IGNORE).float().mean()
        if self.sam is not None:
            sam = self.sam(image, [logits], label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

    def clean_and_perturbed(self, image: Tensor, first: int) -> tuple[Tensor, Tensor | None]:
        """Logits of all images, and of those from `first` on with channels of their features dropped.

        The decoder sees both in one batch, as in the authors' code. The second is None without such images, or where
        `feature_weight` is 0.
        """
        if first == len(image) or self.options.feature_weight == 0:
            return self.network(image), None
        encoded = self.network.encode(image)
        both = [torch.cat([stage, F.dropout2d(stage[first:], self.options.feature_dropout)]) for stage in encoded]
        logits = self.network.head(self.network.decode(both)[-1])
        return logits[: len(image)], logits[len(image) :]

    def strong_view(self, image: Tensor, pseudo_label: Tensor) -> tuple[Tensor, Tensor]:
        """A strong view `(B_u, C, H, W)` of the weak one, and its label `(B_u, H, W)`."""
        return strong_view(self.strong, image, pseudo_label, self.options.cutmix)

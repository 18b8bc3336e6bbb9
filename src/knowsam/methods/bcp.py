"""BCP: labelled and unlabelled images are pasted into each other, both ways (Bai et al., CVPR 2023).

A box of a labelled image is pasted into an unlabelled one, and a box of an unlabelled image into a labelled one. The
student segments both mixtures. Their label is the truth at labelled pixels, and elsewhere the pseudo-label of the EMA
teacher, its running average, of which the largest piece of each class is kept. Before there are unlabelled images, in
the pre-training phase (`train.pretrain`), labelled images are pasted into each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from knowsam.functional.losses import region_loss
from knowsam.functional.mixing import copy_paste_box, cycled, exchange, halves
from knowsam.functional.pseudo_labels import largest_components
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions
from knowsam.networks import ema_copy, teacher_decay, update_ema
from knowsam.types import IGNORE, Batch, Progress, StepOutput


class BidirectionalCopyPasteOptions(StudentOptions):
    """Settings of `bcp`; the defaults are the paper's. The length of its first phase is `train.pretrain`."""

    box: float = Field(2 / 3, gt=0, le=1)
    """beta: height and width of the pasted box as a share of the image's."""
    unlabelled_weight: float = Field(0.5, ge=0)
    """alpha: weight of the region that has a pseudo-label."""
    ema_decay: float = Field(0.99, ge=0, le=1)
    """Decay of the EMA teacher; at first it is the plain mean of all students so far."""
    largest_component: bool = True
    """Keep the largest connected piece of each class of a pseudo-label, slice by slice; off for nuclei and the like."""


class BidirectionalCopyPaste(StudentMethod):
    """One network and its running average; the student is kept. For any B_l, B_u >= 1 and any H and W."""

    Options = BidirectionalCopyPasteOptions
    replayable = True
    unlabelled_view = "weak"  # the paper flips and rotates all images alike; the teacher labels what the student sees
    paper_train: ClassVar[Mapping[str, Any]] = {"pretrain": 0.25}  # 10,000 of 40,000 iterations, on ACDC
    footnote = "its unlabelled images are augmented weakly, and it pre-trains on labelled images pasted into each other"
    term_names: ClassVar[Mapping[str, str]] = {
        "student_in": "Network: unlabelled pasted into labelled",
        "student_out": "Network: labelled pasted into unlabelled",
        "share_removed": "Share of the pseudo-labels' foreground outside the largest pieces",
    }

    def __init__(self, options: BidirectionalCopyPasteOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.classes = context.classes
        self.ema_teacher = ema_copy(self.network)

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of the student.

        With the mask M, 0 in the box and 1 elsewhere, labelled images i, j, unlabelled images p, q and the EMA
        teacher's pseudo-labels y'_p, y'_q:

            x^in  = x_j M + x_p (1 - M)                          unlabelled into labelled
            x^out = x_q M + x_i (1 - M)                          labelled into unlabelled
            L_in  = seg(z^in, y_j; M) + alpha seg(z^in, y'_p; 1 - M)
            L_out = alpha seg(z^out, y'_q; M) + seg(z^out, y_i; 1 - M)
            L     = L_in + L_out,   seg = (CE + Dice) / 2        each over its region

        and while there are no unlabelled images (pre-training), for x = x_i M + x_j (1 - M):

            L     = seg(z, y_i; M) + seg(z, y_j; 1 - M)
        """
        alpha = self.options.unlabelled_weight
        height, width = batch.label.shape[-2:]
        box = copy_paste_box((height, width), self.options.box, batch.label.device)
        if batch.unlabelled_image is None:
            (image, other), (label, other_label) = halves(batch.labelled_image), halves(batch.label)
            image, truth = paste(image, other, box), paste(label, other_label, box)
            logits = self.network(image)
            loss = region_loss(logits, truth, box, 1, 1) / 2
            terms = {"student_sup": loss}
        else:
            pseudo_label, removed = self.pseudo_label(batch.unlabelled_image)
            (x_i, x_j), (y_i, y_j) = halves(batch.labelled_image), halves(batch.label)
            (x_q, x_p), (y_q, y_p) = halves(batch.unlabelled_image), halves(pseudo_label)
            x_in, y_in = paste(x_j, x_p, box), paste(y_j, y_p, box)
            x_out, y_out = paste(x_q, x_i, box), paste(y_q, y_i, box)
            image = torch.cat([x_in, x_out])
            truth = torch.cat([y_in.masked_fill(box, IGNORE), y_out.masked_fill(~box, IGNORE)])
            logits = self.network(image)
            terms = {
                "student_in": region_loss(logits[: len(x_in)], y_in, box, alpha, 1) / 2,
                "student_out": region_loss(logits[len(x_in) :], y_out, box, 1, alpha) / 2,
            }
            loss = terms["student_in"] + terms["student_out"]
            terms["share_removed"] = removed
        if self.sam is not None:
            sam = self.sam(image, [logits], truth, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

    @torch.no_grad()
    def pseudo_label(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The EMA teacher's most probable classes, without their smaller pieces.

        Args:
            image: `(B_u, C, H, W)`.

        Returns:
            `(B_u, H, W)` int64, and the share of its foreground that was removed, in [0, 1].
        """
        label = self.ema_teacher(image).argmax(dim=1)
        kept = largest_components(label, self.classes) if self.options.largest_component else label
        return kept, (label != kept).sum() / (label != 0).sum().clamp(min=1)

    def after_step(self, progress: Progress) -> None:
        """`theta' = a theta' + (1 - a) theta`, batch-norm statistics included; while pre-training too."""
        update_ema(self.ema_teacher, self.network, teacher_decay(progress.step, self.options.ema_decay))


def paste(background: Tensor, foreground: Tensor, box: Tensor) -> Tensor:
    """The box of one image in another; the smaller of two batches starts again where it ends.

    Args:
        background: `(A, ..., H, W)`: images or labels.
        foreground: `(B, ..., H, W)`.
        box: `(H, W)` bool.

    Returns:
        `(max(A, B), ..., H, W)`.
    """
    count = max(len(background), len(foreground))
    return exchange(cycled(background, count), foreground, box.expand(count, -1, -1))

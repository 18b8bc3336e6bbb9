"""Mean teacher: the student agrees with the running average of itself (Tarvainen and Valpola, NeurIPS 2017).

The EMA teacher is the exponential moving average of the student's weights. Both see the same unlabelled images, the
teacher with a little noise added and each with its own dropout; where they differ, the student moves. The constants are
those with which the method is used for medical images (UA-MT; SSL4MIS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from knowsam.functional.losses import segmentation_loss, softmax_mse_loss
from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, add_noise, join_halves
from knowsam.networks import ema_copy, teacher_decay, update_ema
from knowsam.types import Batch, Progress, StepOutput


class MeanTeacherOptions(StudentOptions):
    """Settings of `mean_teacher`; the defaults are those of the field."""

    ema_decay: float = Field(0.99, ge=0, le=1)
    """Decay of the EMA teacher; at first it is the plain mean of all students so far."""
    consistency_weight: float = Field(0.1, ge=0)
    """Final weight of the consistency, reached along `exp(-5 (1 - t)^2)`."""
    ramp_end: float = Field(1.0, gt=0, le=1)
    """Share of the run after which the ramp is complete."""
    noise: float = Field(0.1, ge=0)
    """Standard deviation of the noise on the teacher's images, whose range is [0, 1]."""
    noise_limit: float = Field(0.2, ge=0)
    """Largest noise of a pixel."""


class MeanTeacher(StudentMethod):
    """One network and its running average; the student is kept."""

    Options = MeanTeacherOptions
    replayable = True
    term_names: ClassVar[Mapping[str, str]] = {"student_cons": "Network: agreement with the EMA teacher"}

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """A larger weight, reached sooner: the squared difference of two probabilities is small.

        With the paper's .1, reached at the last step, it would weigh a thousandth of the supervised loss over most of
        so short a run.
        """
        return {"consistency_weight": 1.0, "ramp_end": 0.6}

    def __init__(self, options: MeanTeacherOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.ema_teacher = ema_copy(self.network)

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of the student.

            L = seg(z^l, y^l) + lam(t) mean_{un} || softmax(z^un) - softmax(f(x^un + xi; theta')) ||^2 / K
            lam(t) = lam_max exp(-5 (1 - t)^2)

        `x + xi` is the noisy image, `theta'` the EMA teacher.
        """
        options = self.options
        lam = progress.weight(lambda t: options.consistency_weight * gaussian_rampup(t / options.ramp_end))
        image, label = join_halves(batch)
        logits = self.network(image)
        loss = segmentation_loss(logits, label)
        terms = {"student_sup": loss}
        if batch.unlabelled_image is not None:
            unlabelled_logits = logits[batch.labelled_image.shape[0] :]
            with torch.no_grad():
                target = self.ema_teacher(add_noise(batch.unlabelled_image, options.noise, options.noise_limit))
            consistency = softmax_mse_loss(unlabelled_logits, target)
            loss = loss + lam * consistency
            terms["student_cons"] = consistency
        if self.sam is not None:
            sam = self.sam(image, [logits], label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

    def after_step(self, progress: Progress) -> None:
        """`theta' = a theta' + (1 - a) theta`, batch-norm statistics included."""
        update_ema(self.ema_teacher, self.network, teacher_decay(progress.step, self.options.ema_decay))

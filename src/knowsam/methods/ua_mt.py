"""UA-MT: the mean teacher teaches only where it is certain (Yu et al., MICCAI 2019).

The EMA teacher predicts several times, each time with other noise and other dropout; the entropy of its mean prediction
is its uncertainty. The student is asked to agree only where that is below a threshold, which rises until hardly a pixel
is left out. With a network without dropout (the V-Net) the predictions differ by the noise on the image alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from knowsam.functional.losses import entropy_map, segmentation_loss, softmax_mse_loss
from knowsam.functional.schedules import gaussian_rampup, uncertainty_threshold
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, add_noise, join_halves
from knowsam.networks import ema_copy, teacher_decay, update_ema
from knowsam.types import Batch, Progress, StepOutput


class UncertaintyAwareMeanTeacherOptions(StudentOptions):
    """Settings of `ua_mt`; the defaults are the paper's."""

    passes: int = Field(8, ge=1)
    """T, the number of the teacher's predictions that are averaged; the threshold rises over the whole run."""
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


class UncertaintyAwareMeanTeacher(StudentMethod):
    """One network and its running average; the student is kept."""

    Options = UncertaintyAwareMeanTeacherOptions
    replayable = True
    term_names: ClassVar[Mapping[str, str]] = {
        "student_cons": "Network: agreement with the EMA teacher",
        "ema_certain": "Share of pixels of which the EMA teacher is certain",
    }

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """A larger weight, reached sooner: the squared difference of two probabilities is small.

        With the paper's .1, reached at the last step, it would weigh a thousandth of the supervised loss over most of
        so short a run.
        """
        return {"consistency_weight": 1.0, "ramp_end": 0.6}

    def __init__(self, options: UncertaintyAwareMeanTeacherOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.ema_teacher = ema_copy(self.network)

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of the student.

            p_T = 1/T sum_i softmax(f(x^un + xi_i; theta'))                      T stochastic answers
            M   = { pixels: H(p_T) < (3/4 + 1/4 exp(-5 (1 - t)^2)) log K }       where they are certain
            L   = seg(z^l, y^l) + lam(t) 1/|M| sum_M || softmax(z^un) - softmax(f(x^un + xi_0; theta')) ||^2 / K
            lam(t) = lam_max exp(-5 (1 - t)^2)

        `xi` is noise, `theta'` the EMA teacher, H the entropy, K the number of classes.
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
                target = self.noisy_answer(batch.unlabelled_image)
                uncertainty = self.teacher_uncertainty(batch.unlabelled_image)
            certain = uncertainty < progress.weight(lambda t: uncertainty_threshold(t, logits.shape[1]))
            consistency = softmax_mse_loss(unlabelled_logits, target, certain)
            loss = loss + lam * consistency
            terms |= {"student_cons": consistency, "ema_certain": certain.float().mean()}
        if self.sam is not None:
            sam = self.sam(image, [logits], label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
        return StepOutput(loss, terms)

    def noisy_answer(self, image: Tensor) -> Tensor:
        """The EMA teacher's logits `(B, K, H, W)` for its own noisy view of `(B, C, H, W)`."""
        return self.ema_teacher(add_noise(image, self.options.noise, self.options.noise_limit))

    def teacher_uncertainty(self, image: Tensor) -> Tensor:
        """Entropy of the EMA teacher's mean answer to `(B, C, H, W)`: `(B, H, W)` in [0, log K] nats."""
        answers = [self.noisy_answer(image).float().softmax(dim=1) for _ in range(self.options.passes)]
        mean_probs = torch.stack(answers).mean(dim=0)
        return entropy_map(mean_probs.log())  # it takes logits, and the softmax of log p is p

    def after_step(self, progress: Progress) -> None:
        """`theta' = a theta' + (1 - a) theta`, batch-norm statistics included."""
        update_ema(self.ema_teacher, self.network, teacher_decay(progress.step, self.options.ema_decay))

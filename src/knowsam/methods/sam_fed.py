"""SAM-Fed: SAM and a global network guide a site's network (after Nasirihaghighi et al., arXiv 2511.14302).

Made for a federation (`knowsam federate`): the global network is what several sites have in common, and SAM, trained on
a public labelled set, has answered once for every image of a site. Without one it is a site alone: its global network
is its own of the last round, and its SAM learns beside it. No formula of the agreement was published; ours is
`knowsam.functional.agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from knowsam.data.augment import IntensityAugmentation
from knowsam.functional.agreement import AgreementRule, agreement_loss, agreement_target, unpack_answer
from knowsam.functional.losses import distillation_loss, segmentation_loss
from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, join_halves
from knowsam.networks import ema_copy
from knowsam.networks.modes import kept_statistics
from knowsam.networks.registry import build_network
from knowsam.types import Batch, Progress, StepOutput


class SamFedOptions(StudentOptions):
    """Settings of `sam_fed`; the paper's are not known, these are ours."""

    agreement: AgreementRule = "adaptive"
    """Whose answer teaches an unlabelled pixel: SAM's (`teacher`), the network's (`local`), that of both, or where they
    differ the surer one's (`adaptive`) or nobody's (`intersection`)."""
    global_weight: float = Field(1.0, ge=0)
    """l_g: weight of the distillation from the global network."""
    agreement_weight: float = Field(1.0, ge=0)
    """l_s: weight of the agreement with SAM."""
    ramp_end: float = Field(1.0, gt=0, le=1)
    """Share of the run over which both weights rise along `exp(-5 (1 - t)^2)`: at first nobody can teach."""
    temperature: float = Field(2.0, gt=0)
    """T of the distillation from the global network."""
    rounds: int = Field(50, ge=1)
    """How often the global network is renewed over a run."""
    global_network: dict[str, Any] = Field(default_factory=dict)
    """The global network where it is another one; a federation sets it."""
    sam_start: float = Field(0.25, ge=0, le=1)
    """Share of the run after which a SAM that learns beside the network has a say."""


class SamFed(StudentMethod):
    """One network, its global copy, and SAM's answers."""

    Options = SamFedOptions
    unlabelled_view = "weak"
    answered_once = True
    stays_local = ("global_network.",)
    footnote = "its unlabelled images are augmented weakly, and it makes stronger views of them itself"
    term_names: ClassVar[Mapping[str, str]] = {
        "student_global": "Network: distillation from the global network",
        "student_strong": "Network: strong views against the agreement with SAM",
        "share_learned": "Weight of the mean unlabelled pixel",
    }

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """SAM has a say as soon as there are unlabelled images."""
        return {"sam_start": pretrain}

    def __init__(self, options: SamFedOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.classes = context.classes
        self.strong = IntensityAugmentation(context.in_channels, context.slices)
        other = options.global_network
        self.global_network: nn.Module = build_network(**other) if other else ema_copy(self.network)
        self.follow(self.global_network)

    def follow(self, network: nn.Module) -> None:
        """Learn from this global network from now on."""
        self.global_network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SamFed:
        """Training mode for all but the global network."""
        super().train(mode)
        self.global_network.eval()
        return self

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of the network.

            L = seg(z^l, y^l) + r(t) [ l_g T^2 KL(softmax(z_G / T) || softmax(z / T)) + l_s L_agree ]
            L_agree = sum_i w_i CE(p^strong_i, q_i) / max(sum_i w_i, 1)

        The global network's `z_G` teaches all images, the agreement `q`, `w` of SAM's answer and the network's own to
        the weak view the unlabelled ones alone. r rises over the run (`ramp_end`). What weighs nothing is not computed.
        """
        options, count = self.options, len(batch.labelled_image)
        alone = options.global_weight == options.agreement_weight == 0 and self.sam is None
        image, label = (batch.labelled_image, batch.label) if alone else join_halves(batch)
        logits = self.network(image)
        terms = {"student_sup": segmentation_loss(logits, label)}
        loss = terms["student_sup"]
        ramp = progress.weight(lambda t: gaussian_rampup(t / options.ramp_end))
        if options.global_weight > 0:
            with torch.no_grad():
                global_logits = self.global_network(image)
            terms["student_global"] = distillation_loss(logits, global_logits, options.temperature)
            loss = loss + ramp * options.global_weight * terms["student_global"]
        teacher = None if batch.unlabelled_map is None else unpack_answer(batch.unlabelled_map, self.classes)
        if self.sam is not None:
            sam = self.sam(image, [logits], label, progress)
            loss, terms = loss + sam.loss, terms | sam.terms
            if progress.reached(options.sam_start):
                probs = sam.logits[count:].float().softmax(dim=1)
                teacher = probs, torch.ones_like(probs[:, 0], dtype=torch.bool)
        if batch.unlabelled_image is not None and options.agreement_weight > 0:
            target, weight = self.agreement(logits[count:], teacher)
            # Statistics of strong views are not those of the images that are predicted.
            with kept_statistics(self.network):
                strong = self.network(self.strong(batch.unlabelled_image))
            terms["student_strong"] = agreement_loss(strong, target, weight)
            terms["share_learned"] = weight.mean()
            loss = loss + ramp * options.agreement_weight * terms["student_strong"]
        return StepOutput(loss, terms)

    def agreement(self, logits: Tensor, teacher: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Soft label `(B_u, K, H, W)` and weight `(B_u, H, W)` of the weak view.

        Args:
            logits: The network's own, `(B_u, K, H, W)`.
            teacher: SAM's probabilities of the same shape, and where it has answered, `(B_u, H, W)` bool; None where it
                has no say.
        """
        own = logits.detach().float().softmax(dim=1)
        if teacher is None:
            return agreement_target(own, own, "local")
        target, weight = agreement_target(teacher[0], own, self.options.agreement)
        return target, weight * teacher[1]

    def after_step(self, progress: Progress) -> None:
        """Renew the global network at the end of a round, which for a site alone is its own."""
        rounds = self.options.rounds
        ends = (progress.step + 1) * rounds // progress.total > progress.step * rounds // progress.total
        if ends and not self.options.global_network:
            self.global_network.load_state_dict(self.network.state_dict())

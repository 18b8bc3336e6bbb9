"""Preference alignment in two stages (SAM-DPO; Konwer et al., CVPR 2025, arXiv 2503.04639).

Stage 1 (`train.pretrain`) learns from the labelled images. What it ends with is frozen as the reference. In stage 2 the
reference's probability map of an unlabelled image is cut at several thresholds, a judge ranks these candidate masks,
and the network, or SAM's decoder, moves from the worse to the better ones by a loss in the manner of direct preference
optimisation. The paper's judge is the truth; the default here needs none.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.functional.losses import distillation_loss, preference_loss, segmentation_loss
from knowsam.functional.preference import (
    candidate_dice,
    candidate_masks,
    class_margins,
    disputed,
    rank_weights,
    rating_weights,
    swap_neighbours,
)
from knowsam.functional.probabilities import resize_logits
from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, add_noise, join_halves
from knowsam.networks import ema_copy, teacher_decay, update_ema
from knowsam.networks.modes import as_predicting, kept_statistics
from knowsam.networks.presence import PresenceClassifier
from knowsam.storage import reason_of
from knowsam.types import IGNORE, Batch, Progress, StepOutput

ORACLES = ("oracle_rank", "oracle_rating")
NOISE, NOISE_LIMIT = 0.1, 0.2
"""Deviation and limit of the noise in the other view of the judge `agreement`."""
TEXT = "text:"


class PreferenceOptions(StudentOptions):
    """Settings of `preference`; weights and thresholds are the paper's as far as they are known."""

    target: Literal["student", "sam"] = "student"
    """What is aligned: the network, or SAM's mask decoder, from whose answers the network then learns."""
    thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6)
    """Probabilities at which candidates are cut, increasing."""
    pair_weights: tuple[float, ...] = (1.0, 0.5)
    """Weights of the best and worst candidate, of the second and the last but one, ...: `b1, b2`."""
    judge: Literal["agreement", "iou_head", "confidence", "oracle_rank", "oracle_rating"] = "agreement"
    """Who ranks: the EMA teacher's expected Dice, on a noisy view; SAM's estimated IoU; the reference's expected Dice;
    the `oracle_` ones read the masks of the unlabelled images."""
    swap: float = Field(0.0, ge=0, le=1)
    """Share of the judgements in which two neighbours change places: noise, for measurements."""
    normalise: Literal["region", "sum", "mean"] = "region"
    """The likelihood of a mask: mean over the pixels in which candidates differ, sum, or mean over the image."""
    beta: float = Field(1.0, gt=0)
    """Factor on the likelihood ratio."""
    anchor_weight: float = Field(1.0, ge=0)
    """Weight of the supervised loss on labelled images in stage 2."""
    stay_weight: float = Field(0.1, ge=0)
    """Weight of the divergence from the reference where candidates agree."""
    ramp_end: float = Field(1.0, ge=0, le=1)
    """Share of stage 2 over which the weight of preference and divergence rises along `exp(-5 (1 - u)^2)`; 0: all of
    it at once."""
    prompts: str = "student"
    """What prompts SAM: `student`, its mask (`sam.prompt`); `saliency`, the map of a classifier that learns from labels
    of whole images; `text:FILE`, the student's mask and one vector per class."""
    ema_decay: float = Field(0.99, ge=0, le=1)
    """Decay of the EMA teacher of the judge `agreement`."""

    @field_validator("thresholds")
    @classmethod
    def _increasing(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        bounded = (0.0, *thresholds, 1.0)
        if len(thresholds) < 2 or any(low >= high for low, high in pairwise(bounded)):
            raise ValueError("two or more increasing probabilities between 0 and 1, e.g. [0.3, 0.4, 0.5, 0.6]")
        return thresholds

    @field_validator("pair_weights")
    @classmethod
    def _one_per_pair(cls, weights: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        pairs = len(info.data.get("thresholds", ())) // 2
        if pairs and len(weights) != pairs:
            raise ValueError(f"one weight per pair of thresholds, {pairs} here")
        return weights

    @field_validator("prompts")
    @classmethod
    def _known_prompts(cls, prompts: str) -> str:
        if prompts.startswith(TEXT) and len(prompts) > len(TEXT):
            # A full path lets the run be continued from any directory.
            return TEXT + str(Path(prompts.removeprefix(TEXT)).expanduser().resolve())
        if prompts not in ("student", "saliency"):
            raise ValueError("student, saliency or text:FILE")
        return prompts


class PreferenceAlignment(StudentMethod):
    """One network and the frozen reference; the network is kept. For any K >= 2, any B_l and B_u."""

    Options = PreferenceOptions
    unlabelled_view = "weak"
    paper_train: ClassVar[Mapping[str, Any]] = {"pretrain": 1 / 3}  # 15 of 45 epochs
    footnote = "after a first stage on labels alone it learns on unlabelled images, augmented weakly, from ranked masks"
    term_names: ClassVar[Mapping[str, str]] = {
        "student_pref": "Network: preference for better candidates",
        "student_stay": "Network: divergence from the reference elsewhere",
        "sam_pref": "SAM's decoder: preference for better candidates",
        "sam_stay": "SAM's decoder: divergence from the reference elsewhere",
        "saliency_sup": "Saliency: whether a class is in an image",
        "share_ring": "Share of pixels in which candidates differ",
        "share_judged": "Share of candidate sets with a preference",
    }

    @classmethod
    def opens_hidden_masks(cls, options: Any) -> str:
        """The judge, if it is an oracle."""
        return f"options.judge={options.judge}" if options.judge in ORACLES else ""

    def __init__(self, options: PreferenceOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self._check(options, context)
        self.classes = context.classes
        self._pretrain = context.pretrain or 0.0
        if options.target == "sam":
            self._teacher.learn_decoder()
        if options.prompts == "saliency":
            self._sam.prompter = PresenceClassifier(context.in_channels, context.classes)
        elif options.prompts.startswith(TEXT):
            self._teacher.read_texts(read_vectors(Path(options.prompts.removeprefix(TEXT)), context.classes))
        self.ema_teacher = ema_copy(self.network) if options.judge == "agreement" else None
        self.reference = copy.deepcopy(self._aligned).requires_grad_(False).eval()
        self._in_first_stage = self._told = False

    def _check(self, options: PreferenceOptions, context: MethodContext) -> None:
        needs_sam = {
            "options.target": (options.target, options.target == "sam"),
            "options.judge": (options.judge, options.judge == "iou_head"),
            "options.prompts": (options.prompts, options.prompts != "student"),
        }
        for name, (value, needed) in needs_sam.items():
            if needed and self.sam is None:
                raise InputError(
                    f"{name}: '{value}' was found, but expected a SAM beside it; choose one with sam=..., or leave"
                    f" {name} out."
                )
        if options.judge == "iou_head" and not self._teacher.estimates_iou:
            raise InputError(
                "options.judge: 'iou_head' was found, but expected a SAM whose decoder estimates the IoU of its"
                " answers; choose another SAM or another judge."
            )
        if context.pretrain == 0:
            raise InputError(
                "train.pretrain: 0 was found, but method preference expected a first stage on labelled images, at whose"
                " end the reference is taken; set e.g. train.pretrain=0.3."
            )

    @property
    def _sam(self) -> Any:
        """SAM, where the options need one."""
        return self.sam

    @property
    def _teacher(self) -> Any:
        return self._sam.teacher

    @property
    def _aligned(self) -> nn.Module:
        """What learns from preferences, and what the reference is a copy of."""
        aligned: nn.Module = self.network if self.options.target == "student" else self._teacher.sam.mask_decoder
        return aligned

    def term_modules(self) -> dict[str, tuple[nn.Module, ...]]:
        """Preferences on SAM teach its decoder alone."""
        modules = super().term_modules()
        if self.options.target == "sam":
            modules |= {"sam_pref": (self._aligned,), "sam_stay": (self._aligned,)}
        return modules

    def train(self, mode: bool = True) -> PreferenceAlignment:
        """Training mode for what learns; reference and EMA teacher answer as in prediction."""
        super().train(mode)
        for frozen in (self.reference, self.ema_teacher):
            if frozen is not None:
                frozen.eval()
        return self

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of either stage.

        Stage 1 is `L = seg(z^l, y^l)`. In stage 2, with the reference's logits `z_ref` of an unlabelled image, its
        margins `m_ref` (`class_margins`), candidates `Y_k = [sigmoid(m_ref) > t_k]`, the judge's weights w, which sum
        to 0, and Omega, where candidates differ:

            L      = w(u) [ L_pref + stay_weight mean_{not Omega} KL(p_ref || p) ] + anchor_weight seg(z^l, y^l)
            L_pref = mean -log sigmoid( beta / |Omega| sum_Omega c (m - m_ref) ),   c = sum_k w_k Y_k

        over images and foreground classes, w rising over the share u of stage 2. z is the network's, as it predicts: no
        dropout, and the running statistics of stage 1, so that it differs from the reference by what it has learnt
        alone. With `target: sam` it is SAM's, whose decoder alone then learns, and the network has its supervised loss
        and SAM's distillation.
        """
        unlabelled = batch.unlabelled_image
        first_stage = self._in_first_stage = unlabelled is None
        on_sam = self.options.target == "sam" and not first_stage
        image, label = join_halves(batch)
        count = len(batch.labelled_image)
        if unlabelled is None or on_sam:
            logits = self.network(image)
        else:
            with as_predicting(self.network):
                predicted = self.network(unlabelled)
            with kept_statistics(self.network):
                logits = torch.cat([self.network(batch.labelled_image), predicted])
        terms = {"student_sup": segmentation_loss(logits, label)}
        anchor = 1.0 if first_stage else self.options.anchor_weight
        loss = terms["student_sup"] if on_sam else anchor * terms["student_sup"]
        answer: Any = None
        if self.sam is not None:
            answer = self.sam(image, [logits], label, progress, decoder_only=on_sam)
            loss, terms = loss + answer.loss, terms | answer.terms
            if on_sam:
                loss = loss + (anchor - 1) * terms["sam_sup"]
            if self.options.prompts == "saliency" and first_stage:
                terms["saliency_sup"] = self._sam.prompter.loss(image, label)
                loss = loss + terms["saliency_sup"]
        if unlabelled is not None:
            self._tell_blind_prompts()
            size = (unlabelled.shape[-2], unlabelled.shape[-1])
            with torch.no_grad():
                if on_sam:
                    masks, _ = self._teacher.answer(answer.question, self.reference)
                    reference = resize_logits(masks, size)[count:]
                else:
                    reference = self.reference(unlabelled)
            policy = answer.attached[count:] if on_sam else logits[count:]
            preference, measured = self.align(policy, reference, unlabelled, batch.unlabelled_label)
            loss, terms = loss + progress.weight(self._ramp) * preference, terms | measured
        return StepOutput(loss, terms)

    def _ramp(self, t: float) -> float:
        """The ramp's value at the elapsed share t of the run."""
        stage, end = self._pretrain, self.options.ramp_end
        return gaussian_rampup((t - stage) / ((1 - stage) * end)) if end > 0 and stage < 1 else 1.0

    def align(
        self, policy: Tensor, reference: Tensor, image: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`L_pref + stay_weight stay` of unlabelled images, and the terms.

        Args:
            policy: Logits `(B_u, K, H, W)` of what learns.
            reference: The reference's, without gradient.
            image: `(B_u, C, H, W)`.
            hidden: `(B_u, H, W)`, for an oracle.
        """
        options, name = self.options, self.options.target
        margins, frozen = class_margins(policy)[:, 1:], class_margins(reference)[:, 1:]
        candidates = candidate_masks(frozen, options.thresholds)
        weights = self.weights(candidates, reference, image, hidden)
        region = disputed(candidates)
        preference = preference_loss(margins, frozen, candidates, weights, options.normalise, options.beta)
        stay = distillation_loss(policy, reference, 1.0, (~region.any(dim=1)).float())
        judged = region.any(dim=(2, 3)) & (weights != 0).any(dim=-1)
        measured = {
            f"{name}_pref": preference, f"{name}_stay": stay,
            "share_ring": region.float().mean(), "share_judged": judged.float().mean(),
        }  # fmt: skip
        return preference + options.stay_weight * stay, measured

    @torch.no_grad()
    def weights(self, candidates: Tensor, reference: Tensor, image: Tensor, hidden: Tensor | None) -> Tensor:
        """What the judge makes of candidates `(B_u, K - 1, M, H, W)`: weights `(B_u, K - 1, M)` that sum to 0."""
        options = self.options
        if options.judge in ORACLES:
            assert hidden is not None  # it was asked for
            dice = candidate_dice(candidates, self._foreground(hidden), hidden != IGNORE)
            scores = dice / (2 - dice)  # IoU
        elif options.judge == "iou_head":
            background = ~candidates.any(dim=1, keepdim=True)
            scores = self._teacher.rate(image, torch.cat([background, candidates], dim=1))[:, 1:]
        elif options.judge == "confidence":
            scores = candidate_dice(candidates, reference.float().softmax(dim=1)[:, 1:])
        else:
            assert self.ema_teacher is not None  # it is there for this judge
            with as_predicting(self.ema_teacher):
                answer = self.ema_teacher(add_noise(image, NOISE, NOISE_LIMIT))
            # Its probabilities, not its mask: two of four thresholds lie below a mask's, one above, so that beside it
            # the smaller candidates win on average, the network shrinks, and its teacher with it.
            scores = candidate_dice(candidates, answer.float().softmax(dim=1)[:, 1:])
        if options.swap > 0:
            scores = swap_neighbours(scores, options.swap)
        if options.judge == "oracle_rating":
            return rating_weights(scores)
        return rank_weights(scores, options.pair_weights)

    def _foreground(self, label: Tensor) -> Tensor:
        classes = torch.arange(1, self.classes, device=label.device).view(1, -1, 1, 1)
        return label[:, None] == classes

    def _tell_blind_prompts(self) -> None:
        """Say once where labels of whole images say nothing about places."""
        if self.options.prompts != "saliency" or self._told:
            return
        self._told = True
        if blind := self._sam.prompter.unlearnable():
            self._sam.warn(
                f"options.prompts: saliency needs images with and without a class, but every labelled image has class"
                f" {', '.join(map(str, blind))}, or none has; SAM's prompts for it mean nothing: use"
                " options.prompts=student."
            )

    def after_step(self, progress: Progress) -> None:
        """The reference follows in stage 1, to the last bit, and stays from then on; the EMA teacher follows always."""
        if self._in_first_stage:
            update_ema(self.reference, self._aligned, 0.0)
        if self.ema_teacher is not None:
            update_ema(self.ema_teacher, self.network, teacher_decay(progress.step, self.options.ema_decay))


def read_vectors(path: Path, classes: int) -> Tensor:
    """Read the texts' vectors `(K, D)` from a safetensors file with one matrix.

    Raises:
        InputError: If there is no such file, or it holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    expected = f"one matrix of finite numbers with {classes} rows, one per class, the background's first"
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: could not be read ({reason_of(error)}), but options.prompts expected a safetensors file with"
            f" {expected}; check the path."
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    vectors = next(iter(tensors.values()), torch.zeros(0))
    if len(tensors) != 1 or vectors.ndim != 2 or len(vectors) != classes or not bool(vectors.float().isfinite().all()):
        raise InputError(f"{path}: {shapes} was found, but options.prompts expected {expected}; correct the file.")
    return vectors.float()

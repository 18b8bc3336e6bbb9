"""KnowSAM: two students, a fusion head and an adapted SAM teach each other (IEEE TMI 2025, arXiv 2412.13742).

A U-Net and a V-Net see the same labelled and unlabelled images. A fusion head joins their predictions. SAM, prompted by
learnable prompts and by the detached fused map, is distilled into both students (SKD). After the first part of the run,
cells of labelled and unlabelled images change places where the fused map is least certain (UGDA). After training only
the students and the fusion head are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from knowsam.functional.losses import cross_consistency_loss, entropy_loss, entropy_map, segmentation_loss
from knowsam.functional.mixing import exchange, uncertain_cells
from knowsam.functional.pseudo_labels import confident_label
from knowsam.functional.schedules import gaussian_rampup
from knowsam.methods.base import Method, MethodContext, join_halves
from knowsam.networks import CoTrainedStudents
from knowsam.types import Batch, Progress, StepOutput

STUDENT_NAMES = {"unet": "U-Net", "vnet": "V-Net"}
STUDENT_TERMS = {
    "sup": "against the truth",
    "ent": "entropy",
    "cons": "agreement with the other student",
    "mix_sup": "mixed images, against their labels",
    "mix_ent": "mixed images, entropy",
    "mix_cons": "mixed images, agreement",
    "mix_pseudo": "mixed images, pseudo-labels",
}
"""The terms that each student has, in words."""


class KnowSAMOptions(BaseModel):
    """Settings of `knowsam`; the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    entropy_weight: float = Field(0.9, ge=0)
    """Weight of the students' entropy."""
    entropy_ramp: bool = False
    """Let the entropy weight follow the consistency ramp; false: constant."""
    consistency_weight: float = Field(1.0, ge=0)
    """Final weight of consistency and of the fused pseudo-label, reached along `exp(-5 (1 - t)^2)`."""
    ramp_end: float = Field(1.0, gt=0, le=1)
    """Share of the run after which the ramp is complete."""
    ugda_start: float = Field(0.24, ge=0, le=1)
    """Share of the run after which cells are exchanged; 1 switches UGDA off."""
    ugda_teacher: Literal["sam", "fused", "mean"] = "sam"
    """Whose answer is the pseudo-label: SAM's, the fused map's, or the mean of both."""
    ugda_confidence: float = Field(0.0, ge=0, lt=1)
    """Pseudo-labels less probable than this are ignored; 0 keeps all."""
    ugda_cells: int = Field(5, ge=1)
    """Number of exchanged cells per image."""
    ugda_grid: int = Field(4, ge=1)
    """The image is cut into grid x grid cells."""
    ugda_select: Literal["uncertain", "confident"] = "uncertain"
    """Which cells are replaced: those of highest or of lowest entropy."""
    vnet_normalisation: Literal["none", "batch"] = "none"
    """Normalisation in the V-Net."""
    residual_fusion: bool = False
    """Let the fusion head correct the students' mean instead of replacing it."""
    standardise: bool = False
    """Remove each image's own brightness and contrast before the network."""

    @model_validator(mode="after")
    def _cells_fit_the_grid(self) -> KnowSAMOptions:
        # Else the run would fail at its first exchange, a quarter of the way in.
        if self.ugda_cells > self.ugda_grid**2:
            raise ValueError(f"ugda_cells at most ugda_grid^2 = {self.ugda_grid**2}")
        return self


class KnowSAM(Method):
    """The method of the paper, for any K >= 2, any B_l and B_u, any H and W divisible by 16.

    Without SAM the same method trains alone: no distillation, and the pseudo-labels of UGDA come from the fused map.
    """

    Options = KnowSAMOptions
    replayable = True
    footnote = "two students (U-Net and V-Net) and a fusion head, whose fused map is what is scored"
    prediction_names: ClassVar[Mapping[str, str]] = {"fused": "fused", **STUDENT_NAMES}
    term_names: ClassVar[Mapping[str, str]] = {
        "fused_sup": "Fused: against the truth",
        "fused_mix": "Fused: mixed images, against their labels",
    } | {
        f"{student}_{term}": f"{name}: {words}"
        for student, name in STUDENT_NAMES.items()
        for term, words in STUDENT_TERMS.items()
    }

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """What lets students and fusion head learn in few steps, measured in docs/method.md.

        Cells are exchanged as soon as there are unlabelled images.
        """
        return {
            "vnet_normalisation": "batch",
            "residual_fusion": True,
            "entropy_weight": 0.0,
            "entropy_ramp": True,
            "ugda_start": pretrain,
            "ugda_teacher": "mean",
            "ugda_confidence": 0.8,
        }

    def __init__(self, options: KnowSAMOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.arguments: dict[str, Any] = {
            "in_channels": context.in_channels,
            "classes": context.classes,
            "vnet_normalisation": options.vnet_normalisation,
            "standardise": options.standardise,
            "residual_fusion": options.residual_fusion,
        }
        self.students = CoTrainedStudents(**self.arguments)

    def student(self) -> nn.Module:
        """U-Net, V-Net and fusion head; its forward pass gives the fused logits."""
        return self.students

    def student_spec(self) -> dict[str, Any]:
        """Name and arguments for `build_network`."""
        return {"name": "cotrained", **self.arguments}

    def term_modules(self) -> dict[str, tuple[nn.Module, ...]]:
        """The fusion head passes its gradient on to both students; SAM teaches the students alone."""
        both = (self.students.unet, self.students.vnet)
        return {"unet": both[:1], "vnet": both[1:], "fused": (*both, self.students.fusion), "sam_kd": both}

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step (docs/method.md, section 5).

        With `lam = lam_max exp(-5 (1 - t)^2)` and the sum over the students `k in {unet, vnet}`:

            L  = 1/2 sum_k [ seg(z_k^l, y) + w_ent L_ent(k) + lam L_cons(k) ] + seg(z_f^l, y)
               + 1/2 sum_k [ seg(z~_k, y~) + w_ent L_ent(z~_k) + lam (L_cons(z~_k) + seg(z~_k^un, argmax z~_f^un)) ]
               + seg(z~_f, y~)                                        (the last two lines once UGDA has started)
               + seg(z_s^l, y) + w_kd(t) 1/2 sum_k L_kd(k)            (SAM's part, `SamStep.loss`)
        """
        options = self.options

        def ramp(t: float) -> float:
            return gaussian_rampup(t / options.ramp_end)

        lam = progress.weight(lambda t: options.consistency_weight * ramp(t))
        entropy_weight = progress.weight(lambda t: options.entropy_weight * (ramp(t) if options.entropy_ramp else 1.0))

        image, label = join_halves(batch)
        z = self.students.outputs(image)
        maps = torch.stack([z["unet"], z["vnet"], z["fused"]])  # a loss of all three costs as many operations as of one
        students = maps[:2]

        sup, ent, cons = segmentation_loss(maps, label), entropy_loss(students), mutual_consistency(students)
        loss = (sup[:2] + entropy_weight * ent + lam * cons).mean() + sup[2]
        terms = {
            "unet_sup": sup[0], "vnet_sup": sup[1], "unet_ent": ent[0], "vnet_ent": ent[1],
            "unet_cons": cons[0], "vnet_cons": cons[1], "fused_sup": sup[2],
        }  # fmt: skip

        fused_logits = z["fused"].detach()
        teacher_probs = fused_logits.softmax(dim=1)
        if self.sam is not None:
            sam = self.sam(image, [z["unet"], z["vnet"]], label, progress, mask_prompt=z["fused"])
            loss, terms = loss + sam.loss, terms | sam.terms
            sam_probs = sam.logits.softmax(dim=1)
            candidates = {"sam": sam_probs, "fused": teacher_probs, "mean": (sam_probs + teacher_probs) / 2}
            teacher_probs = candidates[options.ugda_teacher]

        if batch.unlabelled_image is not None and options.ugda_start < 1 and progress.reached(options.ugda_start):
            mixed_image, mixed_label = self.exchange_cells(batch, fused_logits, teacher_probs)
            m = self.students.outputs(mixed_image)
            maps = torch.stack([m["unet"], m["vnet"], m["fused"]])
            mixed = maps[:2]
            # The unlabelled images' mixtures come last in the batch, as in `join_halves`.
            unlabelled = slice(batch.labelled_image.shape[0], None)
            pseudo_label = confident_label(m["fused"][unlabelled].detach().softmax(dim=1), options.ugda_confidence)

            mix_sup, mix_ent = segmentation_loss(maps, mixed_label), entropy_loss(mixed)
            mix_cons = mutual_consistency(mixed)
            mix_pseudo = segmentation_loss(mixed[:, unlabelled], pseudo_label)
            loss = loss + (mix_sup[:2] + entropy_weight * mix_ent + lam * (mix_cons + mix_pseudo)).mean() + mix_sup[2]
            terms |= {
                "unet_mix_sup": mix_sup[0], "vnet_mix_sup": mix_sup[1], "unet_mix_ent": mix_ent[0],
                "vnet_mix_ent": mix_ent[1], "unet_mix_cons": mix_cons[0], "vnet_mix_cons": mix_cons[1],
                "unet_mix_pseudo": mix_pseudo[0], "vnet_mix_pseudo": mix_pseudo[1], "fused_mix": mix_sup[2],
            }  # fmt: skip
        return StepOutput(loss, terms)

    def exchange_cells(self, batch: Batch, fused_logits: Tensor, teacher_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Uncertainty-guided data augmentation (docs/method.md, section 4), for any B_l and B_u.

        Args:
            batch: The images and labels.
            fused_logits: `(B_l + B_u, K, H, W)`, detached; their entropy says which cells change places.
            teacher_probs: `(B_l + B_u, K, H, W)`, detached; the most probable class is the pseudo-label of the
                unlabelled half.

        Returns:
            Mixed images `(B_l + B_u, C, H, W)`, labelled ones first, and their mixed labels `(B_l + B_u, H, W)`.
        """
        options = self.options
        cells = uncertain_cells(entropy_map(fused_logits), options.ugda_cells, options.ugda_grid, options.ugda_select)
        count = batch.labelled_image.shape[0]
        x_l, y_l, mask_l = batch.labelled_image, batch.label, cells[:count]
        x_un, mask_un = batch.unlabelled_image, cells[count:]
        y_un = confident_label(teacher_probs[count:], options.ugda_confidence)
        assert x_un is not None  # step() asks only when there is an unlabelled half
        image = torch.cat([exchange(x_l, x_un, mask_l), exchange(x_un, x_l, mask_un)])
        label = torch.cat([exchange(y_l, y_un, mask_l), exchange(y_un, y_l, mask_un)])
        return image, label


def mutual_consistency(students: Tensor) -> Tensor:
    """Consistency of each student `(2, B, K, H, W)` with the other, `(2,)`."""
    return cross_consistency_loss(students, students.flip(0))  # it detaches the second

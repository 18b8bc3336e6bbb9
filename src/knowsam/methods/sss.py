"""SSS: views enhance each other's features, and the object of a volume prompts SAM (after Zhu et al., 2025).

An EMA teacher labels the weak view of an unlabelled image; two strong views of it must give the same answer. Around
this consistency stand two modules. Discriminative feature enhancement (DFE) shows the decoder what the views have in
common and where they differ. The sliding window (PCSW) finds in the rough masks of a whole volume the object that goes
on from slice to slice: its boxes and points prompt SAM, and what does not belong to it is not learned from.

The student that is kept is the plain network: it needs neither module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from knowsam.data.augment import IntensityAugmentation, strong_view
from knowsam.functional.losses import cross_entropy, segmentation_loss
from knowsam.functional.probabilities import most_probable_class
from knowsam.functional.pseudo_labels import confident_label
from knowsam.functional.volume_objects import Window, accepted_label
from knowsam.methods.base import MethodContext, StudentMethod, StudentOptions, join_halves, require_features
from knowsam.networks import ema_copy, teacher_decay, update_ema
from knowsam.networks.enhance import FeatureEnhancement
from knowsam.networks.memory import MemoryAttention, MemoryBank
from knowsam.types import IGNORE, Batch, Progress, StepOutput

SLICES_AT_ONCE = 32
"""Slices of a volume that are predicted in one batch."""


class SSSOptions(StudentOptions):
    """Settings of `sss`; the defaults are those of the paper's release, where it says anything."""

    combine: Literal["add", "replace", "none"] = "add"
    """What DFE does with a view's features: `add` to them, `replace` a learned share of them; `none`: no DFE."""
    pair: Literal["weak_strong", "strong_strong"] = "weak_strong"
    """Which views DFE compares: each strong one with the weak one, or the two strong ones."""
    cutmix: float = Field(0.5, ge=0, le=1)
    """Probability that a strong view gets a box of another image."""
    confidence: float = Field(0.0, ge=0, lt=1)
    """Pixels whose most probable class has less are left out; 0: none, as released."""
    ema_decay: float = Field(0.996, ge=0, le=1)
    """Decay of the EMA teacher; at first it is the plain mean of all students so far."""
    prompt_every: int = Field(200, ge=1)
    """Steps after which the rough masks of all unlabelled volumes are made again."""
    window: Literal["best", "first"] = "best"
    """Which window of slices shows the object: that of the largest piece, or the first that is continuous enough."""
    continuity: float = Field(0.8, ge=0, le=1)
    """tau: smallest share of a window's pixels that its largest piece has."""
    teacher: Literal["student", "sam", "mean"] = "mean"
    """With a SAM: whose pseudo-labels; `student` is the EMA teacher."""
    sam_start: float = Field(0.25, ge=0, le=1)
    """Share of the run after which SAM has a say in them."""
    memory: int = Field(0, ge=0)
    """Entries of the memory bank that strong views look into (MedSAM-2: 16); 0: none."""


class SSS(StudentMethod):
    """One network, its running average, DFE and PCSW. For any B_l and B_u; CutMix needs B_u >= 2."""

    Options = SSSOptions
    unlabelled_view = "weak"
    labels_volumes = True
    paper_sam: ClassVar[Mapping[str, Any]] = {"prompt": "box+point"}
    prompted_at: Tensor
    footnote = "its unlabelled images are augmented weakly, and it looks at whole volumes of them"
    term_names: ClassVar[Mapping[str, str]] = {
        "student_strong": "Network: strong views against the weak one's labels",
        "share_learned": "Share of pixels with a pseudo-label",
    }

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """SAM has a say as soon as there are unlabelled images."""
        return {"sam_start": pretrain}

    def __init__(self, options: SSSOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.classes = context.classes
        self.strong = IntensityAugmentation(context.in_channels, context.slices)
        self.ema_teacher = ema_copy(self.network)
        self.prompter = ema_copy(self.network).eval()
        # The EMA teacher as it was when the rough masks were made: part of the state, for a run that is resumed.
        self.register_buffer("prompted_at", torch.tensor(-1))
        self.enhance: FeatureEnhancement | None = None
        self.bank: MemoryBank | None = None
        self.attend: MemoryAttention | None = None
        self._newcomers: tuple[Tensor, Tensor] | None = None
        if options.combine != "none" or options.memory:
            remedy = "do without with options.combine=none and options.memory=0"
            channels = require_features(self.network, options.network, "sss", remedy)
            if options.combine != "none":
                self.enhance = FeatureEnhancement(channels, options.combine)
            if options.memory:
                self.bank, self.attend = MemoryBank(options.memory, channels[-1]), MemoryAttention(channels[-1])

    def train(self, mode: bool = True) -> SSS:
        """Training mode for all but the network that makes rough masks."""
        super().train(mode)
        self.prompter.eval()
        return self

    def term_modules(self) -> dict[str, tuple[nn.Module, ...]]:
        """The consistency teaches what enhances the strong views' features, too."""
        modules = [module for module in (self.enhance, self.attend) if module is not None]
        return {**super().term_modules(), "student_strong": (self.network, *modules)}

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One step of the network.

            L   = seg(z^l, y^l) + 1/2 [ CE(z^s1, y'_1) + CE(z^s2, y'_2) ] + SAM's part
            y'  = argmax of the EMA teacher's p(x^w), of SAM's, or of their mean; detached

        `w` is the weak view, `s1`, `s2` the strong ones, whose features DFE has enhanced; `y'_1`, `y'_2` are `y'` with
        the same boxes of other images. Where the EMA teacher alone labels, pixels that PCSW rejects are left out.
        """
        image, label = join_halves(batch)
        unlabelled, count = batch.unlabelled_image, len(batch.labelled_image)
        logits, encoded = self.logits_and_features(image)
        terms = {"student_sup": segmentation_loss(logits, label)}
        loss = terms["student_sup"]
        teacher_logits, rough = None, label[:0]
        if unlabelled is not None:
            with torch.no_grad():
                teacher_logits = self.ema_teacher(unlabelled)
            # Without its volume an image is one of a single slice.
            given = batch.unlabelled_map
            rough = self.accepted_slices(teacher_logits) if given is None else given
        sam_logits = None
        if self.sam is not None:
            # Labelled images are prompted as the others are, never with the truth.
            regions = torch.cat([self.accepted_slices(logits[:count]), rough])
            sam = self.sam(image, [logits], label, progress, regions=regions)
            loss, terms = loss + sam.loss, terms | sam.terms
            sam_logits = sam.logits[count:] if progress.fraction >= self.options.sam_start else None
        if unlabelled is not None and teacher_logits is not None:
            pseudo_label = self.pseudo_label(teacher_logits, sam_logits, rough)
            terms["student_strong"] = self.consistency(unlabelled, pseudo_label, [map[count:] for map in encoded])
            terms["share_learned"] = (pseudo_label != IGNORE).float().mean()
            loss = loss + terms["student_strong"]
            if self.bank is not None:
                self._newcomers = encoded[-1][count:].detach().mean(dim=(2, 3)).float(), estimated_iou(teacher_logits)
        return StepOutput(loss, terms)

    def logits_and_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `(B, K, H, W)` and what the encoder gave for them; no features where nothing asks for them."""
        if self.enhance is None and self.bank is None:
            return self.network(image), []
        encoded = self.network.encode(image)
        return self.network.head(self.network.decode(encoded)[-1]), encoded

    def pseudo_label(self, teacher_logits: Tensor, sam_logits: Tensor | None, rough: Tensor) -> Tensor:
        """The label of the weak view, `(B_u, H, W)`, `IGNORE` where it is not known.

        Args:
            teacher_logits: `(B_u, K, H, W)` of the EMA teacher, detached.
            sam_logits: The same of SAM; None where it has no say.
            rough: `(B_u, H, W)`, what PCSW accepts, `IGNORE` where it rejects.
        """
        options, probs = self.options, teacher_logits.softmax(dim=1)
        if sam_logits is None or options.teacher == "student":
            return confident_label(probs, options.confidence).masked_fill(rough == IGNORE, IGNORE)
        sam_probs = sam_logits.softmax(dim=1)
        return confident_label(sam_probs if options.teacher == "sam" else (probs + sam_probs) / 2, options.confidence)

    def consistency(self, unlabelled: Tensor, pseudo_label: Tensor, weak: list[Tensor]) -> Tensor:
        """Cross-entropy of the two strong views against the weak one's label, their mean.

        Args:
            unlabelled: `(B_u, C, H, W)`, the weak view.
            pseudo_label: `(B_u, H, W)`.
            weak: The weak view's features; they are shown to DFE, and not moved.
        """
        made = [strong_view(self.strong, unlabelled, pseudo_label, self.options.cutmix) for _ in range(2)]
        views, labels = torch.cat([view for view, _ in made]), torch.cat([label for _, label in made])
        if not weak:
            return cross_entropy_of_halves(self.network(views), labels)
        own = self.network.encode(views)
        if self.enhance is not None:
            if self.options.pair == "weak_strong":
                other = [map.detach().repeat(2, 1, 1, 1) for map in weak]
            else:
                other = [map.roll(len(unlabelled), dims=0) for map in own]
            own = self.enhance(other, own)
        if self.bank is not None and self.attend is not None and len(self.bank):
            memory = self.bank.draw(own[-1].detach().mean(dim=(2, 3)), len(unlabelled))
            own = [*own[:-1], self.attend(own[-1], memory)]
        return cross_entropy_of_halves(self.network.head(self.network.decode(own)[-1]), labels)

    @torch.no_grad()
    def before_step(self, batch: Batch, progress: Progress) -> bool:
        """Take the EMA teacher of now for the rough masks of the next `prompt_every` steps."""
        if batch.unlabelled_image is None:
            return False
        last = int(self.prompted_at)
        if last >= 0 and progress.step - last < self.options.prompt_every:
            return False
        self.prompter.load_state_dict(self.ema_teacher.state_dict())
        self.prompted_at.fill_(progress.step)
        return True

    @torch.no_grad()
    def label_volume(self, image: Tensor) -> Tensor:
        """The rough masks of a volume without what PCSW rejects (`IGNORE`)."""
        rough = torch.cat([most_probable_class(self.prompter(part)) for part in image.split(SLICES_AT_ONCE)])
        return self.accepted(rough)

    def accepted(self, rough: Tensor) -> Tensor:
        """PCSW on a volume `(S, H, W)`: the same shape, `IGNORE` where it rejects; passes through the CPU."""
        window: Window = self.options.window
        cleaned = accepted_label(rough.cpu().numpy(), self.classes, self.options.continuity, window)
        return torch.from_numpy(cleaned).to(rough.device)

    def accepted_slices(self, logits: Tensor) -> Tensor:
        """PCSW on images of which each is a volume of one slice: logits `(B, K, H, W)` -> `(B, H, W)`."""
        return torch.cat([self.accepted(one[None]) for one in most_probable_class(logits.detach())])

    def after_step(self, progress: Progress) -> None:
        """Move the EMA teacher; offer the step's images to the memory bank."""
        update_ema(self.ema_teacher, self.network, teacher_decay(progress.step, self.options.ema_decay))
        if self.bank is not None and self._newcomers is not None:
            for embedding, quality in zip(*self._newcomers, strict=True):
                self.bank.offer(embedding, quality)
            self._newcomers = None


def cross_entropy_of_halves(logits: Tensor, label: Tensor) -> Tensor:
    """Mean of the cross-entropies of the two halves of a batch, each over its own labelled pixels."""
    halves = zip(logits.chunk(2), label.chunk(2), strict=True)
    return torch.stack([cross_entropy(z, y) for z, y in halves]).mean()


def estimated_iou(logits: Tensor) -> Tensor:
    """How good a prediction probably is, `(B,)` in [0, 1]: mean probability of what it calls foreground, else 0."""
    confidence, label = logits.softmax(dim=1).max(dim=1)
    foreground = (label > 0).float()
    return (confidence * foreground).sum(dim=(1, 2)) / foreground.sum(dim=(1, 2)).clamp(min=1)

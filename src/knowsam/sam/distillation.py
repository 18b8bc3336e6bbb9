"""SAM-induced knowledge distillation as one object for any semi-supervised method (docs/method.md, section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.functional.losses import distillation_loss, segmentation_loss
from knowsam.functional.probabilities import most_probable_class, resize_logits
from knowsam.functional.pseudo_labels import largest_components
from knowsam.functional.schedules import gaussian_rampup
from knowsam.networks.checkpointing import compute_again
from knowsam.runs.device import resolve_device
from knowsam.sam.adapters import AdapterInit
from knowsam.sam.backbone.interface import interface_of
from knowsam.sam.corruption import corrupt_prompts
from knowsam.sam.loading.build import load_sam
from knowsam.sam.loading.report import LoadReport, PixelNormalisation
from knowsam.sam.loading.resize import input_size, resize_input, smallest_side
from knowsam.sam.teacher import PromptKind, Question, SamTeacher, TrainMode
from knowsam.types import Progress

Resolution = Literal["image", "sam"]
EMPTY_STEPS = 20
"""After so many steps without an object in SAM's answers a person is told."""


@dataclass
class SamStep:
    """What SAM gives to one training step.

    Attributes:
        logits: SAM's answer `(B, K, H, W)`, detached: a target, never a path for gradients. On labelled images it may
            be the answer to a corrupted prompt.
        loss: `L_sam + w_kd(t) * mean_k L_kd(k)`, to be added to the method's own loss.
        terms: The unweighted terms `"sam_sup"` and `"sam_kd"`, for logs and tests.
        question: What SAM was asked, for another decoder to answer.
        attached: `logits` with their graph, for a loss that teaches SAM itself.
    """

    logits: Tensor
    loss: Tensor
    terms: dict[str, Tensor]
    question: Question
    attached: Tensor


class SamDistillation(nn.Module):
    """Train SAM on the ground truth and distil it into the students of any method.

    The graph of SAM and the graph of the students are disjoint, because the mask prompt and the distillation target are
    both detached: one `backward()` on the method's total loss gives the gradients of both. `from_name` builds it with
    everything it needs.

    Args:
        teacher: The adapted SAM.
        temperature: T of the distillation loss.
        kd_weight: Weight of the distillation loss; 0 leaves the students' gradients as if there were no SAM.
        prompt_spoil: Share of the labelled images, in [0, 1], on which SAM is prompted with the corrupted truth
            (`corrupt_prompts`) and the students do not learn from its answer; 0, the paper's, always prompts it with
            the students' mask.
        kd_resolution: Where students and SAM are compared. `"image"`, the paper's: SAM's logits are enlarged to the
            image, and their blurred outlines are distilled too. `"sam"`: the students' logits are averaged to the size
            of SAM's, so that only the students decide about finer detail.
        kd_ramp: Whether the weight rises as `w_kd(t) = kd_weight exp(-5 (1 - t)^2)`, because SAM and students have
            little to teach at first; else, the paper's, it is constant.

    Attributes:
        prompter: Images -> logits `(B, K, H, W)` that prompt SAM in place of the students' mask; None: there is none.
    """

    _empty_steps: Tensor

    def __init__(
        self,
        teacher: SamTeacher,
        temperature: float = 10.0,
        kd_weight: float = 1.0,
        prompt_spoil: float = 0.0,
        kd_resolution: Resolution = "image",
        kd_ramp: bool = False,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.temperature = temperature
        self.kd_weight = kd_weight
        self.prompt_spoil = prompt_spoil
        self.kd_resolution = kd_resolution
        self.kd_ramp = kd_ramp
        self._watches = True
        self.register_buffer("_empty_steps", torch.zeros((), dtype=torch.int64), persistent=False)
        self.prompter: nn.Module | None = None
        self._warning: str | None = None

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        size: tuple[int, int],
        classes: int,
        train: TrainMode | Literal["auto"] = "auto",
        temperature: float = 10.0,
        kd_weight: float = 1.0,
        kd_ramp: bool = False,
        prompt_spoil: float = 0.0,
        kd_resolution: Resolution = "image",
        adapter_init: AdapterInit = "zero",
        normalise: PixelNormalisation | Literal["auto"] = "auto",
        sam_size: int | Literal["auto", "image"] = "auto",
        prompt: PromptKind = "mask",
        checkpointing: bool = False,
        pretrained: bool = True,
        context: int = 1,
    ) -> SamDistillation:
        """Build a SAM, adapt it, and make it the teacher of a training loop.

        Args:
            name: `"auto"` (see `settled_name`), `"tiny"` (bundled), `"lite_medsam"` (installed), `"vit_b"`, `"vit_l"`,
                `"vit_h"`, `"sam2_tiny"` to `"sam2_large"`, a Hugging Face directory, or an original `.pth` file, see
                `load_sam`.
            size: Height and width of the images in pixels.
            classes: K, background included.
            train: What of SAM learns, see `SamTeacher`; `"auto"`: adapters and prompts of a pretrained SAM of the
                published sizes, every weight of the bundled or of a random one.
            temperature: See the class, as the next four.
            kd_weight: See the class.
            kd_ramp: See the class.
            prompt_spoil: See the class.
            kd_resolution: See the class.
            adapter_init: See `SamTeacher`.
            normalise: See `SamTeacher`; `"auto"`: as it was pretrained (`LoadReport.pixels`).
            sam_size: The longer side in pixels at which SAM sees the images; `"image"`: as they are, multiples of its
                patch (8 or 16; 4 with LiteMedSAM; of 32 with SAM 2); `"auto"`: see `default_size`.
            prompt: See `SamTeacher`.
            checkpointing: Compute the encoder's blocks again in the backward pass instead of keeping them.
            pretrained: False: random weights in place of those of a name, for measurements.
            context: See `SamTeacher`.

        Returns:
            On the CPU, in training mode; its initial weights come from torch's global generator.

        Raises:
            InputError: For a name that is no SAM, weights that cannot be had, or a size that does not fit.
        """
        if name == "none":
            raise InputError(
                "sam: 'none' was found, but expected the name of a SAM to distil from, e.g. tiny; train without a"
                " SamDistillation instead."
            )
        sam, base = load_sam(name, pretrained, max(size))
        if sam_size == "auto":
            sam_size = default_size(sam, base, size, on_gpu=resolve_device() != "cpu")
        own = size if sam_size == "image" else input_size(sam, size, sam_size)
        base = dataclasses.replace(base, resized=resize_input(sam, own))
        if train == "auto":
            train = "adapters" if base.pretrained and not interface_of(sam).learns_whole else "all"
        if normalise == "auto":
            normalise = base.pixels
        teacher = SamTeacher(sam, classes, train, adapter_init, normalise, own, prompt, base, context)
        if checkpointing:
            # Transformers' own switch works in training mode only, and a frozen SAM stays in evaluation mode.
            for block in interface_of(teacher.sam).encoder_blocks(teacher.sam):
                compute_again(block)
        return cls(teacher, temperature, kd_weight, prompt_spoil, kd_resolution, kd_ramp)

    def forward(
        self,
        image: Tensor,
        student_logits: Sequence[Tensor],
        label: Tensor,
        progress: Progress,
        mask_prompt: Tensor | None = None,
        decoder_only: bool = False,
        regions: Tensor | None = None,
    ) -> SamStep:
        """One distillation step.

        Args:
            image: `(B, C, H, W)` float in [0, 1].
            student_logits: Each student's logits `(B, K, H, W)` for these images.
            label: `(B, H, W)` int64, `IGNORE` where there is no ground truth.
            progress: Where the run stands, for the ramp.
            mask_prompt: Logits `(B, K, H, W)` that prompt SAM, always detached here; those of `prompter` by default,
                without one the students' mean.
            decoder_only: Nothing of SAM but its decoder learns in this step.
            regions: `(B, H, W)` int64, where each class lies for the boxes and points of `sam.prompt`; by default they
                are read off the mask prompt (`SamTeacher.masks`).

        Returns:
            The detached SAM logits, the weighted loss and the unweighted terms.
        """
        students = torch.stack(list(student_logits))
        if mask_prompt is None:
            mask_prompt = self._prompt(image, students.mean(dim=0))
        prompt, corrupted = corrupt_prompts(mask_prompt.detach(), label, self.prompt_spoil)
        if regions is not None and corrupted.any():
            own = largest_components(most_probable_class(prompt), prompt.shape[1])
            regions = torch.where(corrupted.view(-1, 1, 1), own, regions)
        question = self.teacher.ask(image, prompt, regions, frozen=decoder_only)
        masks, _ = self.teacher.answer(question)
        logits = resize_logits(masks, (image.shape[-2], image.shape[-1]))
        supervised = segmentation_loss(logits, label)
        target = logits.detach()
        if self.kd_resolution == "sam":
            target = masks.detach()
            resized = F.interpolate(students.flatten(0, 1), size=target.shape[-2:], mode="area")
            students = resized.unflatten(0, students.shape[:2])
        # SAM alone learns from a corrupted prompt: its answer may be worse than what the students predict.
        weight = (~corrupted).float().view(-1, 1, 1).expand(target[:, 0].shape) if self.prompt_spoil > 0 else None
        distilled = distillation_loss(students, target, self.temperature, weight).mean()
        kd_weight = progress.weight(lambda t: self.kd_weight * (gaussian_rampup(t) if self.kd_ramp else 1.0))
        loss = supervised + kd_weight * distilled
        self._watch(target, label)
        return SamStep(logits.detach(), loss, {"sam_sup": supervised, "sam_kd": distilled}, question, logits)

    @torch.no_grad()
    def _prompt(self, image: Tensor, student_logits: Tensor) -> Tensor:
        return student_logits if self.prompter is None else self.prompter(image)

    def warn(self, sentence: str) -> None:
        """Leave a sentence for a person, see `take_warning`."""
        self._warning = sentence

    def take_warning(self) -> str | None:
        """Return what a person should look at, once, or None; waits for the device while it watches."""
        warning, self._warning = self._warning, None
        if warning is not None or not self._watches:
            return warning
        empty_steps = int(self._empty_steps)
        self._watches = 0 <= empty_steps < EMPTY_STEPS
        if empty_steps < EMPTY_STEPS:
            return None
        return (
            f"in its first {EMPTY_STEPS} batches SAM answered nothing but background, although there are"
            " objects; check sam.normalise (unit for MedSAM and LiteMedSAM, sam for others), sam.size (not far"
            " below what it was made for) and that its weights are meant for such images."
        )

    @torch.no_grad()
    def _watch(self, logits: Tensor, label: Tensor) -> None:
        """Count steps without an answer although there are objects, on the device; -1: SAM has answered."""
        if not self._watches or not self.training:
            return
        answered = most_probable_class(logits).any() | (self._empty_steps < 0)
        self._empty_steps.copy_(torch.where(answered, -1, self._empty_steps + (label > 0).any()))

    @torch.no_grad()
    def predict(self, image: Tensor, mask_prompt: Tensor) -> Tensor:
        """SAM's own logits `(B, K, H, W)`, for validation; a `prompter` takes the place of the prompt."""
        return self.teacher(image, self._prompt(image, mask_prompt))


def default_size(sam: Any, base: LoadReport, image_size: tuple[int, int], on_gpu: bool) -> int | Literal["image"]:
    """Return the setting that `sam.size=auto` stands for.

    LiteMedSAM and MobileSAM know one scale and see images at the size they were made for: all of it on a GPU, half of
    it on a CPU, where it costs a fifth (docs/sam.md). The others adapt their positions and see images as they are; a
    SAM 2, whose sides are multiples of 32 px, sees them at the next larger size that it can take.
    """
    interface = interface_of(sam)
    if interface.keeps_scale:
        return base.made_for if on_gpu else base.made_for // 2
    step, smallest = interface.multiple(sam), smallest_side(sam)
    if interface.has_positions or all(side % step == 0 and side >= smallest for side in image_size):
        return "image"
    return max(smallest, -(-max(image_size) // step) * step)

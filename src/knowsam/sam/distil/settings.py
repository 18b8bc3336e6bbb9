"""What can be set of a distillation."""

from __future__ import annotations

from dataclasses import dataclass

from knowsam.errors import InputError

TINY = "tiny"
"""The student that is the bundled small SAM's own network."""
STUDENTS = (TINY, "unet", "resnet50")
NO_MASKS = "none"
RANDOM = "random"


@dataclass(frozen=True)
class DistilConfig:
    """Settings of `knowsam sam distil`.

    Attributes:
        teacher: A name or path as in `sam=`.
        student: `tiny`: the bundled small SAM's network;
            `unet` or `resnet50`: the teacher's decoder behind this encoder.
        images: Folders of images.
        labelled: Whose masks are read, as in `train`: a number or share of groups, or a list file, in every folder;
            empty: all that `train` would learn from, `none`: no mask. Masks of validation and test are never read.
        val_fraction: As in `train`, so that its validation masks stay unseen; 0 where nothing is trained afterwards.
        size: Side in pixels at which the teacher sees the images; 0: what it was made for, half of it on a CPU.
        view: Side in pixels at which a `tiny` student sees what is cut out of them; the others see them as the teacher.
        steps: In all; the first half is phase A (the embedding), the second phase B (answers).
        batch: Images per step.
        drawn: For a `tiny` student, drawn images per step beside them; -1: half as many.
        prompts: Objects asked for per image.
        answers: Objects that the teacher is asked for in each image without a mask.
        embedding: For a `tiny` student, weight of the embedding's loss at the start of phase A; 0: none.
        start: For a `tiny` student, first weights: `tiny` (the bundled ones), `random`, or a directory of such a SAM;
            empty: `tiny`.
        lr: Largest learning rate of AdamW.
        weight_decay: Of AdamW.
        ema: For a `tiny` student, decay of the running average that is kept.
        amp: `"bf16"` or `"no"`.
        check_every: Steps between measurements on held-out images.
        seed: Of initial weights and of everything drawn.
    """

    teacher: str = "lite_medsam"
    student: str = TINY
    images: tuple[str, ...] = ()
    labelled: str = ""
    val_fraction: float = 0.2
    size: int = 0
    view: int = 128
    steps: int = 2000
    batch: int = 4
    drawn: int = -1
    prompts: int = 4
    answers: int = 12
    embedding: float = 0.5
    start: str = ""
    lr: float = 1e-3
    weight_decay: float = 1e-4
    ema: float = 0.998
    amp: str = "no"
    check_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.student not in STUDENTS:
            raise InputError(f"--student: '{self.student}' was found, but expected {', '.join(STUDENTS)}; correct it.")
        if not self.images:
            raise InputError("--images: no folder was found, but expected one or more folders of images; add it.")
        if self.start and self.student != TINY:
            raise InputError(
                f"--start: '{self.start}' was found with --student {self.student}, which begins with the teacher's"
                " decoder and a random encoder; leave it out, or distil into --student tiny."
            )

    @property
    def encoder_steps(self) -> int:
        """Steps of phase A."""
        return self.steps // 2

    @property
    def drawings(self) -> int:
        """Drawn images per step."""
        if self.student != TINY:
            return 0
        return (self.batch + 1) // 2 if self.drawn < 0 else self.drawn

"""What can be set of a distillation."""

from __future__ import annotations

from dataclasses import dataclass

from knowsam.errors import InputError


@dataclass(frozen=True)
class DistilConfig:
    """Settings of `knowsam sam distil`.

    Attributes:
        teacher: A name or path as in `sam=`.
        student: Its encoder: `unet` or `resnet50`.
        images: Folders of images; masks in them are not read.
        size: Side in pixels at which both see the images; 0: what the teacher was made for, half of it on a CPU.
        steps: In all; the first half teaches the encoder (phase A), the second the decoder (phase B).
        batch: Images per step.
        prompts: Boxes asked for per image in phase B.
        lr: Largest learning rate of AdamW.
        weight_decay: Of AdamW.
        check_every: Steps between measurements on held-out images.
        seed: Of initial weights and of everything drawn.
    """

    teacher: str = "lite_medsam"
    student: str = "unet"
    images: tuple[str, ...] = ()
    size: int = 0
    steps: int = 2000
    batch: int = 4
    prompts: int = 4
    lr: float = 1e-3
    weight_decay: float = 1e-4
    check_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.student not in ("unet", "resnet50"):
            raise InputError(f"--student: '{self.student}' was found, but expected unet or resnet50; correct it.")
        if not self.images:
            raise InputError("--images: no folder was found, but expected one or more folders of images; add it.")

    @property
    def encoder_steps(self) -> int:
        """Steps of phase A."""
        return self.steps // 2

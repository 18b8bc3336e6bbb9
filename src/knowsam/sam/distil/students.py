"""How each kind of student learns in a step, and what is kept of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.functional.schedules import linear_decay
from knowsam.networks.ema import ema_copy, ema_decay, update_ema
from knowsam.sam.backbone.student import student_of
from knowsam.sam.backbone.tiny import MODEL_TYPE as TINY_TYPE
from knowsam.sam.backbone.tiny import Encoded, TinySam, read_config, tiny_sam
from knowsam.sam.distil.phases import (
    Projection,
    decoder_parameters,
    decoder_terms,
    encoder_loss,
    encoder_parameters,
)
from knowsam.sam.distil.settings import RANDOM, TINY, DistilConfig
from knowsam.sam.distil.views import DistilStep
from knowsam.sam.loading.build import TINY as BUNDLED
from knowsam.sam.loading.build import load_sam
from knowsam.sam.loading.hub import silent_transformers
from knowsam.sam.loading.report import LoadReport
from knowsam.sam.loading.write import write_sam
from knowsam.sam.pretrain.loop import build_optimiser
from knowsam.sam.pretrain.promptable import PromptableSam, answer_losses, outline_losses
from knowsam.sam.pretrain.steps import PretrainConfig

WARM_UP = 0.05
"""Share of a phase over which its learning rate rises."""
OUTLINES = 0.5
"""Weight of the outlines of drawn images at the start of phase A."""
Statistics = Sequence[tuple[Tensor, Tensor]]


class Student(ABC):
    """A student and its optimisers.

    Attributes:
        model: What learns.
        encoder_alone: Whether phase A teaches the encoder and nothing else.
    """

    model: PromptableSam
    encoder_alone: bool

    def __init__(self, config: DistilConfig, device: str) -> None:
        self.config, self.device = config, device

    @abstractmethod
    def learn(
        self, data: DistilStep, maps: Sequence[Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Do a step.

        Args:
            data: On the device.
            maps: The teacher's, of `data.image`; empty where that is None.
            step: Its number.
            generator: All that is random beside the data.

        Returns:
            Its loss and terms, detached.
        """

    @abstractmethod
    def kept(self) -> PromptableSam:
        """What is measured and written, in evaluation mode."""

    @abstractmethod
    def unexplained(self, image: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Share of the variance of the teacher's maps that `kept` does not give; 1 less it is R^2."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write a directory that the setting `sam` takes."""

    def half_precision(self) -> torch.autocast:
        """The context of a step's forward pass."""
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.config.amp == "bf16")


class ImitatingStudent(Student):
    """A convolutional encoder that gives the teacher's maps, and the teacher's decoder; one learns after the other."""

    encoder_alone = True

    def __init__(
        self, config: DistilConfig, teacher: Any, report: LoadReport, statistics: Statistics, device: str
    ) -> None:
        super().__init__(config, device)
        sam: Any = student_of(teacher, config.student, report.pixels)
        sam.vision_encoder.start_at(statistics)
        self.model = PromptableSam(sam, report.pixels).to(device)
        self.statistics = [(mean.to(device), deviation.to(device)) for mean, deviation in statistics]
        self.optimisers = [
            torch.optim.AdamW(parameters(self.model), lr=config.lr, weight_decay=config.weight_decay)
            for parameters in (encoder_parameters, decoder_parameters)
        ]

    def learn(
        self, data: DistilStep, maps: Sequence[Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Phase A moves the encoder alone, phase B the decoder alone."""
        config = self.config
        in_encoder = step < config.encoder_steps
        optimiser = self.optimisers[0 if in_encoder else 1]
        done = step if in_encoder else step - config.encoder_steps
        total = config.encoder_steps if in_encoder else config.steps - config.encoder_steps
        set_rate(optimiser, config.lr * linear_decay(done, total, round(WARM_UP * total)))
        self.model.train()
        with self.half_precision():
            if data.image is not None:
                loss = encoder_loss(self.model, data.image, maps, self.statistics)
                terms = {"embedding": loss}
            else:
                assert data.views is not None  # of phase B
                terms = decoder_terms(self.model, data.views, generator)
                loss = (terms["first"] + terms["second"]) / 2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return detached({"loss": loss, **terms})

    def kept(self) -> PromptableSam:
        """The model itself."""
        return self.model.eval()

    def unexplained(self, image: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """`encoder_loss`."""
        return encoder_loss(self.model.eval(), image, maps, self.statistics)

    def state(self) -> dict[str, Any]:
        """Model and optimisers."""
        return {
            "student": self.model.state_dict(), "optimisers": [one.state_dict() for one in self.optimisers],
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.model.load_state_dict(state["student"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)

    def write(self, folder: Path) -> None:
        """In single precision."""
        write_sam(self.model.sam, folder, self.model.sam.config.student_type, torch.float32)


class TinyStudent(Student):
    """The bundled small SAM's network: all of it learns from answers, and from drawn images what it knows of them.

    In phase A a projection of its maps imitates the teacher's embedding as well, with a weight that falls to 0.
    """

    encoder_alone = False

    def __init__(self, config: DistilConfig, sam: Any, statistics: Statistics, device: str) -> None:
        super().__init__(config, device)
        with silent_transformers():
            sam.set_attn_implementation("eager")
        self.model = PromptableSam(sam).to(device)
        dim = sam.config.vision_config.output_channels
        self.projection = Projection(dim, *statistics[0]).to(device) if statistics else None
        self.average = cast(PromptableSam, ema_copy(self.model))
        settings = PretrainConfig(lr=config.lr, weight_decay=config.weight_decay)
        self.optimiser = build_optimiser(self.learning(), settings)

    def learning(self) -> nn.Module:
        """All that learns as one module."""
        return nn.ModuleList([self.model, *([] if self.projection is None else [self.projection])])

    def learn(
        self, data: DistilStep, maps: Sequence[Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """`(L_first + L_second) / 2 + fade (w L_embedding + .5 L_outlines)`; `fade` falls from 1 to 0 in phase A."""
        config, views = self.config, data.views
        assert views is not None  # in every step of this student
        fade = max(0.0, 1 - step / max(1, config.encoder_steps))
        self.model.train()
        with self.half_precision():
            encoded = self.model.encode(views.image)
            terms = answer_losses(self.model, encoded, views, generator)
            loss = (terms["first"] + terms["second"]) / 2
            if data.outline is not None and fade:
                outlines = outline_losses(
                    self.model, Encoded(*(level[: data.drawn] for level in encoded)), data.outline
                )
                loss = loss + OUTLINES * fade * sum(outlines.values())
                terms |= outlines
            if data.image is not None and self.projection is not None:
                terms["embedding"] = self.projection.loss(self.model.encode(data.image), maps[0])
                loss = loss + config.embedding * fade * terms["embedding"]
        set_rate(self.optimiser, config.lr * linear_decay(step, config.steps, round(WARM_UP * config.steps)))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learning().parameters(), 1.0)
        self.optimiser.step()
        update_ema(self.average, self.model, ema_decay(step, config.ema))
        return detached({"loss": loss, **terms})

    def kept(self) -> PromptableSam:
        """The running average."""
        return self.average.eval()

    def unexplained(self, image: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Of the projection."""
        assert self.projection is not None  # where there are maps
        return self.projection.loss(self.average.eval().encode(image), maps[0])

    def state(self) -> dict[str, Any]:
        """Model, projection, running average and optimiser."""
        return {
            "student": self.learning().state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.learning().load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def write(self, folder: Path) -> None:
        """The running average in half precision, as the bundled weights are."""
        write_sam(self.average.sam, folder, TINY_TYPE, torch.float16)


def first_weights(start: str) -> TinySam:
    """The small SAM with the weights that `DistilConfig.start` names.

    Raises:
        InputError: It holds another SAM.
    """
    if start == RANDOM:
        return tiny_sam(read_config(BUNDLED))
    sam: Any = load_sam(start or TINY)[0]
    if type(sam) is not TinySam:
        raise InputError(
            f"--start: '{start}' holds a {type(sam).__name__}, but expected the small SAM of this package; give tiny,"
            " random, or a directory that `knowsam sam pretrain` or `knowsam sam distil --student tiny` wrote."
        )
    return sam


def make_student(
    config: DistilConfig, teacher: Any, report: LoadReport, first: Any, statistics: Statistics, device: str
) -> Student:
    """Build the student that the settings name, with first weights from torch's global generator.

    Args:
        config: The settings.
        teacher: A loaded SAM, resized to the size at which it sees the images.
        report: What was loaded.
        first: For a `tiny` student, the small SAM that it begins with.
        statistics: Mean and deviation of the teacher's maps; empty where no map is imitated.
        device: Where it computes.
    """
    if config.student == TINY:
        return TinyStudent(config, first, statistics, device)
    return ImitatingStudent(config, teacher, report, statistics, device)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def detached(terms: dict[str, Any]) -> dict[str, Tensor]:
    """Terms without their graph."""
    return {name: term.detach() for name, term in terms.items()}

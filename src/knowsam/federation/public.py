"""The public labelled set: the images, masks and coding that server and sites have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from knowsam.config import Config
from knowsam.data.dataset import Slices
from knowsam.data.labels import LabelCoding
from knowsam.data.preprocess import Preprocessing
from knowsam.federation.messages import Message, named
from knowsam.functional.federation import public_loss
from knowsam.methods.base import add_noise
from knowsam.training.build import build_optimiser
from knowsam.training.trainer import seed_step
from knowsam.types import ParameterGroup

NOISE, NOISE_LIMIT = 0.1, 0.2
"""Standard deviation and largest size of the noise on public images, HSSF's."""
SLICES_AT_ONCE = 16

Teacher = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Indices `(B,)`, images and labels of a batch -> teacher's logits `(B, K, H, W)`, quality `(B,)`."""


@dataclass(frozen=True)
class PublicSet:
    """Public slices at network size, in place of a folder.

    Attributes:
        images: `(N, C, H, W)` float16 in [0, 1].
        targets: `(N, H, W)` int16, class index or `IGNORE`.
        coding: What mask values mean, for every site.
        preprocessing: How images become network input, for every site.
    """

    images: Tensor
    targets: Tensor
    coding: LabelCoding
    preprocessing: Preprocessing

    @classmethod
    def of(cls, slices: Slices, coding: LabelCoding, preprocessing: Preprocessing) -> PublicSet:
        """Take the labelled slices of a folder."""
        images = torch.stack([slices[index][0] for index in range(len(slices))])
        return cls(images.half(), torch.stack(list(slices.labels())).short(), coding, preprocessing)

    def to_message(self) -> Message:
        """Its part of what a site is sent once."""
        values = {"coding": asdict(self.coding), "preprocessing": self.preprocessing.to_json()}
        return Message(values, named("public", {"images": self.images, "targets": self.targets}))

    @classmethod
    def from_message(cls, message: Message) -> PublicSet:
        """Inverse of `to_message`."""
        told: dict[str, Any] = message.values["coding"]
        coding: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
        preprocessing = Preprocessing.from_json(message.values["preprocessing"])
        tensors = message.part("public")
        return cls(tensors["images"], tensors["targets"], LabelCoding(**coding), preprocessing)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, str]:
        """See `Slices`."""
        return self.images[index].float(), self.targets[index].long(), f"public {index}"

    def labels(self) -> Iterator[Tensor]:
        """See `Slices`."""
        yield from self.targets.long()

    @torch.no_grad()
    def logits(self, network: nn.Module) -> Tensor:
        """A network's answers to all images, `(N, K, H, W)` float16 on the CPU."""
        device = next(network.parameters()).device
        parts = [network(part.to(device).float()).half().cpu() for part in self.images.split(SLICES_AT_ONCE)]
        return torch.cat(parts)


@dataclass(frozen=True)
class JoinedSlices:
    """Two sets of labelled slices as one, the first one's first."""

    first: Slices
    second: Slices

    @property
    def coding(self) -> LabelCoding | None:
        """See `Slices`."""
        return self.first.coding

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, str]:
        """See `Slices`."""
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]

    def labels(self) -> Iterator[Tensor]:
        """See `Slices`."""
        yield from self.first.labels()
        yield from self.second.labels()


def learn_on_public(
    network: nn.Module, public: PublicSet, teacher: Teacher, config: Config, epochs: int, step: int
) -> int:
    """Condensation or fusion: a network learns from the public masks, and from a teacher where that is better.

    Each call has an optimiser of its own, so that it depends on nothing but its arguments.

    Args:
        network: Learns, on its device.
        public: What it learns from.
        teacher: Who teaches it.
        config: Optimiser, learning rate, seed, and B_l + B_u images per step.
        epochs: Passes over the images.
        step: Where the federation stands, in steps of a site: draws depend on it, and the learning rate falls with it.

    Returns:
        Number of steps.
    """
    train = config.train
    device = next(network.parameters()).device
    optimiser = build_optimiser(ParameterGroup("students", list(network.parameters())), config)
    for group in optimiser.param_groups:
        group["lr"] *= max(0.0, 1 - step / train.steps)
    size = min(sum(train.batch), len(public))
    per_epoch = math.ceil(len(public) / size)
    network.train()
    for number in range(epochs * per_epoch):
        seed_step(train.seed, step, 1 + number)
        chosen = torch.randperm(len(public))[:size]
        image = add_noise(public.images[chosen].float(), NOISE, NOISE_LIMIT).to(device)
        label = public.targets[chosen].long().to(device)
        logits, quality = teacher(chosen, image, label)
        optimiser.zero_grad(set_to_none=True)
        public_loss(network(image), label, logits, quality).backward()
        optimiser.step()
    return epochs * per_epoch


def renew_statistics(network: nn.Module, public: PublicSet) -> None:
    """Give a network whose statistics of batch norm stay at the sites those of the public images."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    training = network.training
    torch.manual_seed(0)  # of dropout
    public.logits(network.train())
    network.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum

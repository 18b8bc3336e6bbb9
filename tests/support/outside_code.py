"""A network and a method that are not of this package, at the top of a module as a user's would be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from knowsam.functional.losses import segmentation_loss
from knowsam.methods import StudentMethod, StudentOptions
from knowsam.types import Batch, Progress, StepOutput


class Stripes(nn.Module):
    """Two convolutions over whole rows and columns, and nothing this package knows of."""

    def __init__(self, in_channels: int, classes: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, (1, 7), padding=(0, 3)), nn.ReLU(),
            nn.Conv2d(width, classes, (7, 1), padding=(3, 0)),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Gentle(StudentMethod):
    """Supervision at half its weight."""

    Options = StudentOptions
    uses_unlabelled = False
    footnote = "at half the weight"

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        loss = segmentation_loss(self.network(batch.labelled_image), batch.label)
        return StepOutput(loss / 2, {"student_sup": loss})


class NoMethod:
    """What somebody may name by mistake."""


class WithoutOptions(StudentMethod):
    """A method whose settings are no model."""

    Options = dict

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        return StepOutput(torch.zeros(()), {})


class WithAWrongView(Gentle):
    """A method that asks for what there is not."""

    unlabelled_view = "week"  # type: ignore[assignment]

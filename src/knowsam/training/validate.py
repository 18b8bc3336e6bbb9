"""How a network is scored on validation volumes amid its training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from knowsam.data.dataset import ScoringVolume
from knowsam.evaluation.scoring import ScoredVolume, score_volumes
from knowsam.inference.forward import predict_all
from knowsam.training.display import TrainingDisplay


def score_network(
    network: nn.Module,
    sam: Any,
    volumes: Sequence[ScoringVolume],
    classes: int,
    device: torch.device,
    display: TrainingDisplay,
    position: int,
) -> list[ScoredVolume]:
    """Score a copy of a network, as it will be loaded from its file: to the last bit the numbers of `predict`.

    Args:
        network: Unchanged.
        sam: The distillation object whose SAM is scored beside it, in evaluation mode; or None.
        volumes: With their truth.
        classes: K.
        device: Where to compute.
        display: Shows how far it is.
        position: Steps done.
    """
    # In the memory format of a network that was loaded from a file.
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    scoring = score_volumes(lambda image: predict_all(network, image, sam), volumes, classes, device)
    return list(display.validating(scoring, position, len(volumes)))

"""Validation while training: Dice per volume at native size, of every prediction the method has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowsam.data.dataset import ScoringVolume
from knowsam.evaluation.metrics import confusion_counts, dice_from_counts
from knowsam.functional.probabilities import most_probable_class, probabilities_at

SLICES_PER_PASS = 16


@dataclass
class ValidationScores:
    """Dice by prediction (`"fused"`, `"unet"`, ..., `"sam"`), in the method's order; the first is used.

    Attributes:
        per_volume: Prediction -> volume -> Dice of classes 1..K-1.
    """

    per_volume: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def mean(self, prediction: str | None = None) -> float:
        """Mean Dice over volumes and foreground classes of one prediction, by default the first."""
        return float(np.mean(self.per_class(prediction)))

    def per_class(self, prediction: str | None = None) -> list[float]:
        """Mean Dice over volumes of classes 1..K-1."""
        name = next(iter(self.per_volume)) if prediction is None else prediction
        return [float(value) for value in np.mean(list(self.per_volume[name].values()), axis=0)]

    def to_json(self) -> dict[str, Any]:
        """`{prediction: {"dice": mean, "per_class": [...], "sd": [...], "volumes": n}}`; no `sd` of a single volume."""
        record: dict[str, Any] = {}
        for name, volumes in self.per_volume.items():
            record[name] = {
                "dice": round(self.mean(name), 5),
                "per_class": [round(value, 5) for value in self.per_class(name)],
                "volumes": len(volumes),
            }
            if len(volumes) > 1:
                spread = np.std(list(volumes.values()), axis=0, ddof=1)
                record[name]["sd"] = [round(float(value), 5) for value in spread]
        return record


@torch.inference_mode()
def validate(
    predict: Callable[[Tensor], dict[str, Tensor]],
    volumes: Sequence[ScoringVolume],
    classes: int,
    device: torch.device | str = "cpu",
) -> ValidationScores:
    """Dice of every prediction on every volume, each pixel of a volume counted once.

    Args:
        predict: Images `(B, C, H, W)` -> logits by name, e.g. `predict_all` with networks in evaluation mode.
        volumes: What to score.
        classes: K, background included.
        device: Where the networks are.

    Returns:
        The scores; a class absent from both prediction and truth of a volume counts as Dice 1.
    """
    scores = ValidationScores()
    for volume in volumes:
        counts: dict[str, np.ndarray] = {}
        for first in range(0, len(volume.images), SLICES_PER_PASS):
            image = volume.images[first : first + SLICES_PER_PASS].to(device).float()
            labels = volume.labels[first : first + SLICES_PER_PASS]
            for name, logits in predict(image).items():
                for one, label in zip(logits, labels, strict=True):
                    h, w = label.shape
                    predicted = most_probable_class(probabilities_at(one[None], (h, w)))[0].cpu().numpy()
                    found = np.stack(confusion_counts(predicted, label.numpy(), classes))
                    counts[name] = counts[name] + found if name in counts else found
        for name, (intersection, predicted_size, truth_size) in counts.items():
            dice = dice_from_counts(intersection, predicted_size, truth_size)[1:]
            scores.per_volume.setdefault(name, {})[volume.name] = [float(value) for value in dice]
    return scores

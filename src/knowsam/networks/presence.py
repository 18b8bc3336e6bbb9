"""Where a class is, from labels of whole images: a classifier 'in this image or not' and its saliency map."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.functional.probabilities import resize_logits
from knowsam.networks.batch_norm import BatchNorm2d
from knowsam.types import IGNORE

WIDTHS = (16, 32, 64, 128)
SALIENT = 0.5
"""Share of a map's largest value from which a place counts as salient."""
LARGEST_LOGIT = 10.0


class PresenceClassifier(nn.Module):
    """One answer per foreground class and image, and where it comes from.

    Behind the mean over places stands one linear layer, so that Grad-CAM (Selvaraju et al., 2017) is the sum of the
    feature maps weighted by it: no gradient has to be taken.

    Args:
        in_channels: C of the image.
        classes: K, background included.
    """

    seen: Tensor

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_stage(a, b) for a, b in pairwise((in_channels, *WIDTHS)))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(WIDTHS[-1], classes - 1)
        self.register_buffer("seen", torch.zeros(classes - 1, 2, dtype=torch.bool))

    def features(self, image: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, D, H / 8, W / 8)`."""
        x = image
        for depth, stage in enumerate(self.stages):
            x = stage(self.pool(x) if depth else x)
        return x

    def loss(self, image: Tensor, label: Tensor) -> Tensor:
        """Binary cross-entropy of 'the class is in this image', which is all that is read of a label.

        Args:
            image: `(B, C, H, W)`.
            label: `(B, H, W)` int64; images without any truth are left out.
        """
        present = torch.stack([(label == c).flatten(1).any(1) for c in range(1, len(self.seen) + 1)], dim=1)
        known = (label != IGNORE).flatten(1).any(1)
        self.seen |= torch.stack([(present & known[:, None]).any(0), (~present & known[:, None]).any(0)], dim=1)
        logits = self.head(self.features(image).mean(dim=(2, 3)))
        losses = F.binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none").mean(dim=1)
        return (losses * known).sum() / known.sum().clamp(min=1)

    def unlearnable(self) -> list[int]:
        """Classes that every image so far showed, or none: where they are cannot be learnt from that."""
        return [c for c, both in enumerate(self.seen.all(dim=1).tolist(), start=1) if not both]

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Saliency as a prompt: logits `(B, K, H, W)`, the background's 0, above it where a class is salient.

        The map of a class is divided by its largest value; from `SALIENT` on it is positive. A class that is not in the
        image by the classifier's word is negative everywhere.
        """
        training = self.training
        features = self.eval().features(image)
        self.train(training)
        maps = F.conv2d(features, self.head.weight[..., None, None]).relu()
        present = self.head(features.mean(dim=(2, 3))) > 0
        share = maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6) * present[..., None, None]
        logits = 2 * LARGEST_LOGIT * (resize_logits(share.float(), (image.shape[-2], image.shape[-1])) - SALIENT)
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        BatchNorm2d(out_channels),
        nn.ReLU(),
    )

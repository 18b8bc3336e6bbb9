"""The two students and the head that fuses them: multi-view co-training (docs/method.md, section 1)."""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.functional.losses import CLASSES, entropy_map
from knowsam.functional.probabilities import most_probable_class
from knowsam.networks.base import SegmentationNetwork
from knowsam.networks.batch_norm import BatchNorm2d
from knowsam.networks.input import prepare_image
from knowsam.networks.unet import UNet
from knowsam.networks.vnet import VNet

TIE = 1e-4
"""Two classes whose logits are nearer than this may change places between libraries."""


class FusionHead(nn.Module):
    """Fuse two students' logits, knowing where they disagree and where they are uncertain.

    The paper's hybrid aggregation module. Each input has its own stem, the results are concatenated (64
    channels) and two more convolutions give the fused logits. Gradients flow into both students.

    Attributes:
        radius: Pixels over which its three 3x3 convolutions carry a change of the input.

    Args:
        classes: K of the logits, background included.
        residual: Learn a correction to the students' mean logits that starts at zero, so that the fused map is their
            ensemble from step 0. The paper's head (False) has to learn to pass them on, and its last batch-norm bounds
            its logits; both take thousands of steps.
    """

    radius: ClassVar[int] = 3

    def __init__(self, classes: int, residual: bool = False) -> None:
        super().__init__()
        self.classes = classes
        self.residual = residual
        self.ambiguity = _stem(classes, 16, 16)
        self.uncertainty = _stem(2, 16, 16)
        self.logits = _stem(2 * classes, 16, 32)
        self.fuse = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            BatchNorm2d(64),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(64, classes, 3, padding=1, bias=residual),
        )
        if residual:
            for parameter in self.fuse[3].parameters():
                nn.init.zeros_(parameter)
        else:
            self.fuse.extend([BatchNorm2d(classes), nn.LeakyReLU(0.2, inplace=True)])

    def forward(self, unet_logits: Tensor, vnet_logits: Tensor) -> Tensor:
        """Fused logits.

        Args:
            unet_logits: `(B, K, H, W)`.
            vnet_logits: `(B, K, H, W)`.

        Returns:
            `(B, K, H, W)` logits.
        """
        agreement = agreement_map(unet_logits, vnet_logits)
        certainty = certainty_map(torch.stack([unet_logits, vnet_logits], dim=1))
        features = [
            self.ambiguity(agreement.to(unet_logits.dtype)),
            self.uncertainty(certainty.to(unet_logits.dtype)),
            self.logits(torch.cat([unet_logits, vnet_logits], dim=1)),
        ]
        fused = self.fuse(torch.cat(features, dim=1))
        return fused + (unet_logits + vnet_logits) / 2 if self.residual else fused


class CoTrainedStudents(SegmentationNetwork):
    """U-Net, V-Net and fusion head: trained together, used together, without SAM (docs/method.md, section 1).

    Attributes:
        stride: Height and width of the input must be divisible by it.
        one_pass: Its networks' passes are computed again one by one, so that one of them at a time is in memory.

    Args:
        in_channels: C of the image.
        classes: K of the logits, background included.
        vnet_normalisation: Normalisation of the V-Net, see `VNet`.
        standardise: Remove each image's own brightness and contrast before both networks, see
            `standardise_image`.
        residual_fusion: See `FusionHead`.
    """

    stride: int = 16
    one_pass = "run"

    def __init__(
        self,
        in_channels: int,
        classes: int,
        vnet_normalisation: Literal["none", "batch"] = "none",
        standardise: bool = False,
        residual_fusion: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        self.standardise = standardise
        self.unet = UNet(in_channels, classes)
        self.vnet = VNet(in_channels, classes, normalisation=vnet_normalisation)
        self.fusion = FusionHead(classes, residual_fusion)

    def forward(self, image: Tensor) -> Tensor:
        """Fused logits `(B, K, H, W)` of images `(B, C, H, W)`: the prediction used at test time."""
        return self.outputs(image)["fused"]

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """All three predictions.

        Args:
            image: `(B, C, H, W)` float.

        Returns:
            Logits `(B, K, H, W)` under `"fused"`, `"unet"` and `"vnet"`.

        Raises:
            InputError: If C, H or W does not fit.
        """
        image = prepare_image(image, self.in_channels, self.stride, self.standardise)
        unet_logits = self.run(self.unet, image)
        vnet_logits = self.run(self.vnet, image)
        fused = self.run(self.fusion, unet_logits, vnet_logits)
        return {"fused": fused, "unet": unet_logits, "vnet": vnet_logits}

    def run(self, network: nn.Module, *inputs: Tensor) -> Tensor:
        """Run one of its networks."""
        logits: Tensor = network(*inputs)
        return logits

    def parts(self) -> dict[str, SegmentationNetwork]:
        """The whole under `"fused"`; `"unet"` and `"vnet"` alone, which share its weights."""
        alone: dict[str, SegmentationNetwork] = {"fused": self}
        for name, student in (("unet", self.unet), ("vnet", self.vnet)):
            part = copy.copy(student)
            part.standardise = self.standardise  # the whole standardises for its students; alone each does it itself
            alone[name] = part
        return alone

    def near_tie(self, image: Tensor) -> Tensor:
        """Pixels from which the fusion head can see one where a student's two best classes are equally good.

        The head looks at which class each student chooses (`agreement_map`), so that a last digit may change it.

        Args:
            image: `(B, C, H, W)`.

        Returns:
            `(B, H, W)` bool.
        """
        outputs = self.outputs(image)
        best = [outputs[name].topk(2, dim=1).values for name in ("unet", "vnet")]
        tied = torch.stack([top[:, 0] - top[:, 1] < TIE for top in best]).any(dim=0)
        radius = self.fusion.radius
        return F.max_pool2d(tied[:, None].float(), 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0

    def deepest_stage(self) -> nn.Module:
        """That of the U-Net."""
        return self.unet.deepest_stage()


def agreement_map(unet_logits: Tensor, vnet_logits: Tensor) -> Tensor:
    """Per class, whether both students choose it or neither does: 1 - (one_hot_u XOR one_hot_v).

    The paper compares `p > .5`. At K = 2 that is the same, except where a student's two probabilities are
    equal to the last bit; for K > 2 it is blind wherever no class passes .5, so we compare the most probable
    classes.

    Args:
        unet_logits: `(B, K, H, W)`.
        vnet_logits: `(B, K, H, W)`.

    Returns:
        `(B, K, H, W)` bool, True where they agree; no gradient.
    """
    classes = torch.arange(unet_logits.shape[1], device=unet_logits.device).view(1, -1, 1, 1)
    chosen_by_unet = most_probable_class(unet_logits).unsqueeze(1) == classes
    chosen_by_vnet = most_probable_class(vnet_logits).unsqueeze(1) == classes
    return chosen_by_unet == chosen_by_vnet


def certainty_map(logits: Tensor) -> Tensor:
    """One minus the entropy in nats, scaled by log 2 / log K so that its range is that of two classes.

    At K = 2 the scale is 1 and the entropy is the paper's.

    Args:
        logits: `(..., B, K, H, W)`.

    Returns:
        `(..., B, H, W)` float32 from 1 - log 2 = .31 (all classes alike) to 1 (certain).
    """
    return 1 - entropy_map(logits) * (math.log(2) / math.log(logits.shape[CLASSES]))


def _stem(in_channels: int, middle: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, middle, 3, padding=1, bias=False),
        BatchNorm2d(middle),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(middle, out_channels, 1, bias=False),
        BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2, inplace=True),
    )

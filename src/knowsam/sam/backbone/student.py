"""KD SAM: SAM's prompt encoder and decoder behind a small convolutional encoder (Patil et al., arXiv 2501.16740).

The encoder imitates a teacher's embedding, so that its decoder reads it; `knowsam sam distil` makes such a
SAM. It is written as a directory that the setting `sam` takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamVisionEncoderOutput, SamVisionNeck

from knowsam.networks.batch_norm import BatchNorm2d
from knowsam.networks.unet import UNet
from knowsam.sam.backbone.interface import SamInterface
from knowsam.sam.backbone.tiny import HALF, QUARTER, Encoded, TinySam

MODEL_TYPE, FINE_MODEL_TYPE = "knowsam_student", "knowsam_fine_student"
"""`model_type` in the `config.json` of such a SAM; the second with the decoder of the bundled small one."""
ENCODERS = ("unet", "resnet50")
DEEPEST_STRIDE = 32
"""Input sides are padded to a multiple of this for the deepest stage."""


class StudentSam(SamInterface, SamModel):
    """A `SamModel` with a convolutional encoder; images of any size whose sides are multiples of the patch.

    Args:
        config: A `SamConfig` whose `student_encoder` is one of `ENCODERS`; patch and embedding are the teacher's.
    """

    has_positions = False
    keeps_scale = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_encoder = ConvEncoder(config.student_encoder, config.vision_config)  # type: ignore[assignment]

    def encoder_blocks(self, sam: Any) -> list[Any]:
        """Return nothing: convolutions have no blocks with attention."""
        return []


class FineStudentSam(TinySam):
    """The same with the decoder of the bundled small SAM, which also reads maps at a half and a quarter."""

    has_positions = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_encoder = ConvEncoder(config.student_encoder, config.vision_config, fine=True)  # type: ignore[assignment]

    def encoder_blocks(self, sam: Any) -> list[Any]:
        """Return nothing: convolutions have no blocks with attention."""
        return []


class ConvEncoder(nn.Module):
    """A network's stages at the token grid and at its deepest, joined, then SAM's neck.

    Args:
        name: `"unet"` (the student U-Net's way down, 1.2 M weights) or `"resnet50"` (23.5 M), from scratch.
        config: SAM's vision configuration: patch size and channels of the embedding.
        fine: Also give maps at a half and a quarter of the image's size, each through a neck of its own.
    """

    def __init__(self, name: str, config: Any, fine: bool = False) -> None:
        super().__init__()
        self.patch = config.patch_size
        self.trunk = UNetTrunk() if name == "unet" else ResNetTrunk()
        at_grid = self.trunk.widths[self.trunk.strides.index(self.patch)]
        self.join = nn.Conv2d(at_grid + self.trunk.widths[-1], config.hidden_size, 1)
        self.neck = SamVisionNeck(config)
        self.fine = nn.ModuleList(FineNeck(self.trunk, *one) for one in FINE_MAPS if fine)

    @torch.no_grad()
    def start_at(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Let every map begin with each channel's mean and deviation in the teacher's, `(channels,)` both.

        SAM's channels differ by orders of magnitude; from unit scale most steps would go into learning that.
        """
        (mean, deviation), *finer = statistics
        self.neck.layer_norm2.bias.copy_(mean)
        self.neck.layer_norm2.weight.copy_(deviation)
        for neck, (mean, deviation) in zip(self.fine, finer, strict=True):
            assert isinstance(neck, FineNeck)
            neck.norm.bias.copy_(mean)
            neck.norm.weight.copy_(deviation)

    def forward(self, pixel_values: Tensor, **arguments: Any) -> Any:
        """Normalised images `(B, 3, H, W)` -> the embedding `(B, channels, H / patch, W / patch)`, or `Encoded`."""
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        height, width = (side // self.patch for side in size)
        padded = F.pad(pixel_values, (0, -size[1] % DEEPEST_STRIDE, 0, -size[0] % DEEPEST_STRIDE))
        stages = self.trunk(padded)
        grid = stages[self.trunk.strides.index(self.patch)]
        deep = F.interpolate(stages[-1], grid.shape[-2:], mode="bilinear", align_corners=False)
        joined = self.join(torch.cat([grid, deep], dim=1))[..., :height, :width]
        embedding = self.neck(joined.permute(0, 2, 3, 1))
        if not len(self.fine):
            return SamVisionEncoderOutput(last_hidden_state=embedding)
        return Encoded(embedding, *(neck(stages, size) for neck in self.fine))


FINE_MAPS = ((HALF, 2), (QUARTER, 4))
"""Channels and stride of `Encoded.half` and `Encoded.quarter`."""


class FineNeck(nn.Module):
    """From the stages of a trunk to a map of one stride: its own stage, or the nearest coarser one enlarged."""

    def __init__(self, trunk: UNetTrunk | ResNetTrunk, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.stage = next(index for index, one in enumerate(trunk.strides) if one >= stride)
        self.factor = trunk.strides[self.stage] // stride
        self.convolve = nn.Sequential(
            nn.Conv2d(trunk.widths[self.stage], channels, 3, padding=1), nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        self.norm = BatchNorm2d(channels)

    def forward(self, stages: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Stages of an image of `size` before padding -> `(B, channels, H / stride, W / stride)`."""
        found = self.norm(self.convolve(stages[self.stage]))
        if self.factor > 1:
            found = F.interpolate(found, scale_factor=self.factor, mode="bilinear", align_corners=False)
        return found[..., : size[0] // self.stride, : size[1] // self.stride]


class UNetTrunk(nn.Module):
    """The student U-Net's way down."""

    widths, strides = (16, 32, 64, 128, 256), (1, 2, 4, 8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = UNet(3, 2, dropout=(0.0,) * 5).encoder
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` -> one map per stage."""
        stages, x = [], image
        for depth, block in enumerate(self.encoder):
            x = block(self.pool(x) if depth else x)
            stages.append(x)
        return stages


class ResNetTrunk(nn.Module):
    """ResNet-50 without its classifier."""

    widths, strides = (256, 512, 1024, 2048), (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        self.network = ResNetModel(ResNetConfig())

    def forward(self, image: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` -> one map per stage."""
        return list(self.network(image, output_hidden_states=True).hidden_states[1:])


def student_of(teacher: Any, encoder: str, pixels: str) -> StudentSam | FineStudentSam:
    """Build a student with a teacher's decoder and prompt encoder, and a new encoder with random weights.

    Args:
        teacher: A `SamModel` or a SAM of this package.
        encoder: One of `ENCODERS`.
        pixels: In which pixel values the teacher sees images (`LoadReport.pixels`); kept in the configuration.
    """
    values = teacher.config.to_dict()
    vision = values["vision_config"]
    fine = isinstance(teacher, TinySam)
    kept = {key: vision[key] for key in ("image_size", "patch_size", "output_channels", "num_pos_feats")}
    config = type(teacher.config)(
        vision_config={**kept, "hidden_size": vision["output_channels"], "num_hidden_layers": 0,
                       "num_attention_heads": 1, "global_attn_indexes": []},
        prompt_encoder_config=values["prompt_encoder_config"], mask_decoder_config=values["mask_decoder_config"],
        student_encoder=encoder, student_type=FINE_MODEL_TYPE if fine else MODEL_TYPE, pixels=pixels,
    )  # fmt: skip
    student = (FineStudentSam if fine else StudentSam)(config)
    for name in ("mask_decoder", "prompt_encoder", "shared_image_embedding"):
        getattr(student, name).load_state_dict(getattr(teacher, name).state_dict())
    return student

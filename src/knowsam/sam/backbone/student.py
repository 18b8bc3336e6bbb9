"""KD SAM: SAM's prompt encoder and decoder behind a small convolutional encoder (Patil et al., arXiv 2501.16740).

The encoder imitates a teacher's embedding, so that its decoder reads it; `knowsam sam distil` makes such a
SAM. It is written as a directory that the setting `sam` takes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamVisionEncoderOutput, SamVisionNeck

from knowsam.networks.unet import UNet
from knowsam.sam.backbone.interface import SamInterface

MODEL_TYPE = "knowsam_student"
"""`model_type` in the `config.json` of such a SAM."""
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


class ConvEncoder(nn.Module):
    """A network's stages at the token grid and at its deepest, joined, then SAM's neck.

    Args:
        name: `"unet"` (the student U-Net's way down, 1.2 M weights) or `"resnet50"` (23.5 M), from scratch.
        config: SAM's vision configuration: patch size and channels of the embedding.
    """

    def __init__(self, name: str, config: Any) -> None:
        super().__init__()
        self.patch = config.patch_size
        self.trunk = UNetTrunk() if name == "unet" else ResNetTrunk()
        at_grid = self.trunk.widths[self.trunk.strides.index(self.patch)]
        self.join = nn.Conv2d(at_grid + self.trunk.widths[-1], config.hidden_size, 1)
        self.neck = SamVisionNeck(config)

    @torch.no_grad()
    def start_at(self, mean: Tensor, deviation: Tensor) -> None:
        """Let the embedding begin with each channel's mean and deviation in the teacher's, `(channels,)` both.

        SAM's channels differ by orders of magnitude; from unit scale most steps would go into learning that.
        """
        self.neck.layer_norm2.bias.copy_(mean)
        self.neck.layer_norm2.weight.copy_(deviation)

    def forward(self, pixel_values: Tensor, **arguments: Any) -> Any:
        """Normalised images `(B, 3, H, W)` -> the embedding `(B, channels, H / patch, W / patch)`."""
        height, width = (side // self.patch for side in pixel_values.shape[-2:])
        padded = F.pad(
            pixel_values, (0, -pixel_values.shape[-1] % DEEPEST_STRIDE, 0, -pixel_values.shape[-2] % DEEPEST_STRIDE)
        )
        stages = self.trunk(padded)
        fine = stages[self.trunk.strides.index(self.patch)]
        deep = F.interpolate(stages[-1], fine.shape[-2:], mode="bilinear", align_corners=False)
        joined = self.join(torch.cat([fine, deep], dim=1))[..., :height, :width]
        return SamVisionEncoderOutput(last_hidden_state=self.neck(joined.permute(0, 2, 3, 1)))


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


def student_of(teacher: Any, encoder: str, pixels: str) -> StudentSam:
    """Build a student with a teacher's decoder and prompt encoder, and a new encoder with random weights.

    Args:
        teacher: A `SamModel` or a SAM of this package whose decoder takes the embedding alone.
        encoder: One of `ENCODERS`.
        pixels: In which pixel values the teacher sees images (`LoadReport.pixels`); kept in the configuration.
    """
    values = teacher.config.to_dict()
    vision = values["vision_config"]
    kept = {key: vision[key] for key in ("image_size", "patch_size", "output_channels", "num_pos_feats")}
    config = type(teacher.config)(
        vision_config={**kept, "hidden_size": vision["output_channels"], "num_hidden_layers": 0,
                       "num_attention_heads": 1, "global_attn_indexes": []},
        prompt_encoder_config=values["prompt_encoder_config"], mask_decoder_config=values["mask_decoder_config"],
        student_encoder=encoder, pixels=pixels,
    )  # fmt: skip
    student = StudentSam(config)
    for name in ("mask_decoder", "prompt_encoder", "shared_image_embedding"):
        getattr(student, name).load_state_dict(getattr(teacher, name).state_dict())
    return student

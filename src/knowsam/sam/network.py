"""A SAM as a segmentation network: encoder, learnable prompts and decoder, images to logits, nothing asked (KD SAM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.functional.probabilities import resize_logits
from knowsam.networks.base import SegmentationNetwork
from knowsam.networks.input import prepare_image
from knowsam.sam.backbone.decode import decode_masks
from knowsam.sam.backbone.student import FINE_MODEL_TYPE, MODEL_TYPE, FineStudentSam, StudentSam
from knowsam.sam.backbone.tiny import MODEL_TYPE as TINY_TYPE
from knowsam.sam.backbone.tiny import TinySam, tiny_sam
from knowsam.sam.loading.build import load_sam
from knowsam.sam.prompts import LAST_WEIGHT, LearnablePrompts
from knowsam.sam.teacher import pixel_statistics

KINDS: dict[str, Any] = {TINY_TYPE: TinySam, MODEL_TYPE: StudentSam, FINE_MODEL_TYPE: FineStudentSam}
"""What can be such a network: SAMs whose encoder takes images of any size."""
FIRST_DEVIATION = 1e-3
"""Of the last weights of the prompts: the tokens begin near SAM's 'no point', and all layers learn at once."""


class SamNetwork(SegmentationNetwork):
    """The bundled small SAM, or one that `knowsam sam distil` made, as a network of K classes (arXiv 2501.16740).

    One pass of the decoder per class, with two tokens made from the embedding as prompt; no point, box or mask. What
    answers those is left out.

    Attributes:
        stride: Height and width of the input must be divisible by it.

    Args:
        in_channels: 1 (grey, repeated) or 3.
        classes: K, background included.
        sam: `"tiny"` or a directory, with its weights; or what `specification` gives, with random ones.
        standardise: Remove each image's own brightness and contrast, in place of SAM's normalisation.

    Raises:
        InputError: The SAM is none of this package's.
    """

    stride: int = 16
    exportable = False
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, in_channels: int, classes: int, sam: str | dict[str, Any] = "tiny", standardise: bool = False
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"{in_channels} channels were given, expected 1 or 3")
        self.in_channels, self.classes, self.standardise = in_channels, classes, standardise
        self.sam: Any
        if isinstance(sam, str):
            self.sam, report = load_sam(sam)
            pixels = report.pixels
        else:
            self.sam, pixels = _build(sam), sam["pixels"]
        kind = next((name for name, one in KINDS.items() if type(self.sam) is one), None)
        if kind is None:
            raise InputError(
                f"options.weights: '{sam}' holds a {type(self.sam).__name__}, but expected tiny or what `knowsam sam"
                " distil` or `knowsam sam pretrain` wrote; distil it into a small one first."
            )
        self.specification = {"model_type": kind, "pixels": pixels, "config": self.sam.config.to_diff_dict()}
        dim = self.sam.config.prompt_encoder_config.hidden_size
        self.prompts = LearnablePrompts(classes, dim)
        encoder = self.sam.prompt_encoder
        self.prompts.start_at(encoder.not_a_point_embed.weight[0])
        for name, weight in self.prompts.named_parameters():
            if name.endswith(LAST_WEIGHT):
                nn.init.normal_(weight, std=FIRST_DEVIATION)
        self.no_mask = nn.Parameter(encoder.no_mask_embed.weight[0].detach().clone())
        _leave_out_unused(self.sam)
        mean, deviation = pixel_statistics(pixels)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", deviation, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        Args:
            image: `(B, C, H, W)` float in [0, 1].

        Returns:
            `(B, K, H, W)`.

        Raises:
            InputError: If C, H or W does not fit.
        """
        size = (image.shape[-2], image.shape[-1])
        image = prepare_image(image, self.in_channels, self.stride, self.standardise)
        if not self.standardise:
            image = (image - self.pixel_mean) / self.pixel_std
        encoded = self.sam.vision_encoder(image.expand(-1, 3, -1, -1))
        tokens = self.prompts(encoded[0]).flatten(0, 1)
        grid = encoded[0].shape[-2:]
        dense = self.no_mask.view(1, -1, 1, 1).expand(len(tokens), -1, *grid)
        nothing = torch.zeros(len(tokens), 1, 4 * grid[0], 4 * grid[1], device=image.device, dtype=dense.dtype)
        masks, _ = decode_masks(self.sam, encoded, tokens, dense, nothing)
        return resize_logits(masks.view(len(image), self.classes, *masks.shape[-2:]), size)

    def deepest_stage(self) -> nn.Module:
        """The encoder's neck."""
        return self.sam.vision_encoder.neck


def _build(specification: dict[str, Any]) -> Any:
    """A SAM of this architecture with random weights."""
    from transformers import SamConfig

    kind, config = specification["model_type"], specification["config"]
    return tiny_sam(config) if kind == TINY_TYPE else KINDS[kind](SamConfig.from_dict(config))


def _leave_out_unused(sam: Any) -> None:
    """Take away what answers prompts, the other three masks and the estimated IoU."""
    del sam.prompt_encoder
    decoder = sam.mask_decoder
    decoder.num_mask_tokens = 1
    decoder.output_hypernetworks_mlps = decoder.output_hypernetworks_mlps[:1]
    decoder.iou_prediction_head = nn.Identity()
    sam.shared_image_embedding.requires_grad_(False)
    if isinstance(sam, TinySam):
        decoder.mask_skip.weight.requires_grad_(False)  # of a mask prompt, which is 0 here

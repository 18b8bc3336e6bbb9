"""SAM as a semantic teacher: adapters, learnable prompts, a mask as dense prompt (docs/method.md, section 2)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from knowsam.functional.probabilities import resize_logits
from knowsam.sam.adapters import AdapterInit, insert_adapters
from knowsam.sam.backbone.decode import MASK_PROMPT_SCALE, decode_masks
from knowsam.sam.loading.report import LoadReport
from knowsam.sam.prompts import LearnablePrompts

# Mean and standard deviation of SAM's training images, RGB, in [0, 1].
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

TrainMode = Literal["adapters", "all"]
PixelNormalisation = Literal["sam", "unit"]


class SamTeacher(nn.Module):
    """An adapted SAM that segments all classes of an image at once.

    Args:
        sam: A `transformers.SamModel` or `SamHQModel`, or the bundled small SAM, already resized to the input
            (`knowsam.sam.loading.build`).
        classes: K, background included.
        train: `"adapters"`: only adapters and prompts learn, everything else is frozen and stays in evaluation mode;
            `"all"`: every weight the forward pass uses learns.
        adapter_init: How adapters and prompts start; `"zero"` leaves SAM's function as it was: its output is that for
            the mask prompt alone.
        normalise: `"sam"`: by the mean and deviation of SAM's training images; `"unit"`: images in [0, 1] as they are,
            as MedSAM was trained.
        base: Where `sam` came from, for the run's files; None if that is not needed.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        sam: Any,
        classes: int,
        train: TrainMode = "adapters",
        adapter_init: AdapterInit = "zero",
        normalise: PixelNormalisation = "sam",
        base: LoadReport | None = None,
    ) -> None:
        super().__init__()
        self.sam = sam
        self.base = base
        self.classes = classes
        self.train_mode = train
        dim = sam.config.prompt_encoder_config.hidden_size
        insert_adapters(sam, adapter_init)
        self.prompts = LearnablePrompts(classes, dim)
        if adapter_init == "zero":
            # Two of SAM's 'not a point': with a mask prompt and no point SAM answers as it was trained to.
            self.prompts.start_at(sam.prompt_encoder.not_a_point_embed.weight[0])
        mean, std = (PIXEL_MEAN, PIXEL_STD) if normalise == "sam" else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        trainable = set(self.trainable_parameter_names())
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trainable)
        self.train()

    def trainable_parameter_names(self) -> list[str]:
        """Names of all parameters that learn: the declaration that tests hold the module to."""
        names = [name for name, _ in self.named_parameters()]
        if self.train_mode == "adapters":
            return [name for name in names if name.startswith("prompts.") or ".adapter." in name]
        # Parts of SAM that this forward pass never reaches: point and box prompts, the other three masks, the IoU head.
        unused = (
            "sam.prompt_encoder.shared_embedding", "sam.shared_image_embedding", "sam.prompt_encoder.point_embed",
            "sam.prompt_encoder.not_a_point_embed", "sam.prompt_encoder.no_mask_embed",
            "sam.mask_decoder.iou_prediction_head", "sam.mask_decoder.output_hypernetworks_mlps.1",
            "sam.mask_decoder.output_hypernetworks_mlps.2", "sam.mask_decoder.output_hypernetworks_mlps.3",
        )  # fmt: skip
        return [name for name in names if not name.startswith(unused)]

    def train(self, mode: bool = True) -> SamTeacher:
        """Training mode for what learns; a frozen SAM stays in evaluation mode."""
        super().train(mode)
        if self.train_mode == "adapters":
            self.sam.eval()
        return self

    def forward(self, image: Tensor, mask_prompt: Tensor) -> Tensor:
        """Segment `image` as prompted: `masks`, enlarged to the image's size, `(B, K, H, W)`."""
        return resize_logits(self.masks(image, mask_prompt), (image.shape[-2], image.shape[-1]))

    def masks(self, image: Tensor, mask_prompt: Tensor) -> Tensor:
        """Segment `image` as prompted, at the resolution SAM answers at.

        Args:
            image: `(B, C, H, W)` float in [0, 1], C = 1 (repeated) or 3.
            mask_prompt: Logits `(B, K, h, w)`; resized to SAM's mask-prompt size.

        Returns:
            Logits `(B, K, 4 g_h, 4 g_w)` for a token grid of g_h x g_w: half of the image's size with the bundled SAM,
            a quarter with the others.
        """
        batch = image.shape[0]
        rgb = image.expand(-1, 3, -1, -1)
        encoded = self.sam.vision_encoder((rgb - self.pixel_mean) / self.pixel_std)
        embedding = encoded[0]
        grid = embedding.shape[-2:]
        tokens = self.prompts(embedding)

        # One decoder pass per (image, class): classes are folded into the batch.
        size = (MASK_PROMPT_SCALE * grid[0], MASK_PROMPT_SCALE * grid[1])
        prompt = resize_logits(mask_prompt, size)
        prompt = prompt.reshape(batch * self.classes, 1, *size)
        dense = self.sam.prompt_encoder.mask_embed(prompt)
        masks, _ = decode_masks(self.sam, encoded, tokens.flatten(0, 1), dense, prompt)
        return masks.view(batch, self.classes, *masks.shape[-2:])

"""A SAM of a few thousand weights: two layers, one windowed and one global."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

WIDTH, TOKENS, PATCH, SIDE = 16, 32, 8, 64


def small_sam(seed: int = 0) -> Any:
    """A `SamModel` for 64x64 images, patch 8, with random weights that a signal gets through."""
    torch.manual_seed(seed)
    sam = SamModel(
        SamConfig(
            vision_config=SamVisionConfig(
                hidden_size=WIDTH, output_channels=TOKENS, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2.0,
                image_size=SIDE, patch_size=PATCH, window_size=3, global_attn_indexes=[1], num_pos_feats=TOKENS // 2,
                initializer_range=0.02,
            ),
            prompt_encoder_config=SamPromptEncoderConfig(hidden_size=TOKENS, image_size=SIDE, patch_size=PATCH),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=TOKENS, mlp_dim=TOKENS, num_attention_heads=2, iou_head_hidden_dim=TOKENS
            ),
        )
    )  # fmt: skip
    for name, parameter in sam.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:
            nn.init.normal_(parameter, std=0.5)  # zero in a fresh model; a test of resizing must see them
        elif parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return sam.eval()

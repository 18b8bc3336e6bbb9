"""A SAM of a few thousand weights: two layers, one windowed and one global."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import SamConfig, SamHQConfig, SamHQModel, SamModel

WIDTH, TOKENS, PATCH, SIDE = 16, 32, 8, 64


PUBLISHED_DECODER = {"num_attention_heads": 8, "layer_norm_eps": 1e-5}
"""What original files cannot say, because every published decoder has it."""


def small_sam(seed: int = 0, hq: bool = False, **decoder: Any) -> Any:
    """A `SamModel` or `SamHQModel` for 64x64 images, patch 8, with random weights that a signal gets through.

    `decoder` changes the configuration of the mask decoder, which has two heads by default.
    """
    torch.manual_seed(seed)
    sizes = {
        "vision_config": {
            "hidden_size": WIDTH, "output_channels": TOKENS, "num_hidden_layers": 2, "num_attention_heads": 2,
            "mlp_ratio": 2.0, "image_size": SIDE, "patch_size": PATCH, "window_size": 3, "global_attn_indexes": [1],
            "num_pos_feats": TOKENS // 2, "initializer_range": 0.02,
        },
        "prompt_encoder_config": {"hidden_size": TOKENS, "image_size": SIDE, "patch_size": PATCH},
        "mask_decoder_config": {
            "hidden_size": TOKENS, "mlp_dim": TOKENS, "num_attention_heads": 2, "iou_head_hidden_dim": TOKENS,
            **({"vit_dim": WIDTH} if hq else {}), **decoder,
        },
    }  # fmt: skip
    sam: Any = SamHQModel(SamHQConfig(**sizes)) if hq else SamModel(SamConfig(**sizes))
    for name, parameter in sam.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:
            nn.init.normal_(parameter, std=0.5)  # zero in a fresh model; a test of resizing must see them
        elif parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return sam.eval()

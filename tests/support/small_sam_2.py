"""A SAM 2 of some ten thousand weights: four stages, windows and global attention, three maps for the decoder."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
)

from support.small_sam import TOKENS

SIDE_2 = 64


def small_sam_2(seed: int = 0, video: bool = False, channels: int = TOKENS) -> Any:
    """A `Sam2Model`, or the `Sam2VideoModel` that its published files are of, for 64x64 images.

    `channels` is the width of the embedding; the decoder gets maps of an eighth and a quarter of it, too.
    """
    torch.manual_seed(seed)
    widths = [8, 16, 24, 32]
    hiera = Sam2HieraDetConfig(
        hidden_size=8, blocks_per_stage=[1, 2, 2, 1], embed_dim_per_stage=widths, global_attention_blocks=[4],
        num_attention_heads_per_stage=[1, 2, 3, 4], window_size_per_stage=[8, 4, 7, 4], mlp_ratio=2.0,
        window_positional_embedding_background_size=[7, 7], image_size=[SIDE_2, SIDE_2],
    )  # fmt: skip
    parts = {
        "vision_config": Sam2VisionConfig(
            backbone_config=hiera, backbone_channel_list=widths[::-1], fpn_hidden_size=channels,
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        ),
        "prompt_encoder_config": {"hidden_size": channels, "image_size": SIDE_2},
        "mask_decoder_config": {
            "hidden_size": channels, "mlp_dim": channels, "num_attention_heads": 2, "iou_head_hidden_dim": channels,
            "dynamic_multimask_via_stability": False,
        },
    }  # fmt: skip
    if video:
        memory = {
            "image_size": SIDE_2, "memory_attention_hidden_size": channels, "memory_attention_num_layers": 1,
            "memory_attention_feed_forward_hidden_size": channels, "memory_encoder_hidden_size": channels,
            "memory_encoder_output_channels": 16, "mask_downsampler_embed_dim": channels,
            "memory_fuser_embed_dim": channels, "memory_fuser_intermediate_dim": channels, "memory_fuser_num_layers": 1,
        }  # fmt: skip
        sam: Any = Sam2VideoModel(Sam2VideoConfig(**parts, **memory))
    else:
        sam = Sam2Model(Sam2Config(**parts))
    for name, parameter in sam.named_parameters():
        if "pos_embed" in name or name == "no_memory_embedding":
            nn.init.normal_(parameter, std=0.5)  # zero in a fresh model
        elif parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    shared = sam.prompt_encoder.shared_embedding.positional_embedding
    shared.data.copy_(sam.shared_image_embedding.positional_embedding)  # one and the same in every published file
    return sam.eval()


@functools.cache
def small_sam_2_folder() -> str:
    """The path of such a SAM as a directory, one for all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="small-sam-2-"))
    small_sam_2().save_pretrained(folder)
    return str(folder)

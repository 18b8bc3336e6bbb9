"""Files as the original projects write them, made from a small model by naming its weights backwards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsam.sam.backbone.med2d import insert_branches
from support.small_sam import PUBLISHED_DECODER, small_sam

DEPTH = 3  # layers of every perceptron in the decoder
BEGINNINGS = {
    "vision_encoder.pos_embed": "image_encoder.pos_embed",
    "vision_encoder.patch_embed.projection": "image_encoder.patch_embed.proj",
    "vision_encoder.layers": "image_encoder.blocks",
    "vision_encoder.neck.conv1": "image_encoder.neck.0",
    "vision_encoder.neck.layer_norm1": "image_encoder.neck.1",
    "vision_encoder.neck.conv2": "image_encoder.neck.2",
    "vision_encoder.neck.layer_norm2": "image_encoder.neck.3",
    "shared_image_embedding.positional_embedding": "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.point_embed": "prompt_encoder.point_embeddings",
    "prompt_encoder.not_a_point_embed": "prompt_encoder.not_a_point_embed",
    "prompt_encoder.no_mask_embed": "prompt_encoder.no_mask_embed",
    "prompt_encoder.mask_embed.conv1": "prompt_encoder.mask_downscaling.0",
    "prompt_encoder.mask_embed.layer_norm1": "prompt_encoder.mask_downscaling.1",
    "prompt_encoder.mask_embed.conv2": "prompt_encoder.mask_downscaling.3",
    "prompt_encoder.mask_embed.layer_norm2": "prompt_encoder.mask_downscaling.4",
    "prompt_encoder.mask_embed.conv3": "prompt_encoder.mask_downscaling.6",
    "mask_decoder.transformer.layers": "mask_decoder.transformer.layers",
    "mask_decoder.transformer.final_attn_token_to_image": "mask_decoder.transformer.final_attn_token_to_image",
    "mask_decoder.transformer.layer_norm_final_attn": "mask_decoder.transformer.norm_final_attn",
    "mask_decoder.iou_token": "mask_decoder.iou_token",
    "mask_decoder.mask_tokens": "mask_decoder.mask_tokens",
    "mask_decoder.upscale_conv1": "mask_decoder.output_upscaling.0",
    "mask_decoder.upscale_layer_norm": "mask_decoder.output_upscaling.1",
    "mask_decoder.upscale_conv2": "mask_decoder.output_upscaling.3",
    "mask_decoder.output_hypernetworks_mlps": "mask_decoder.output_hypernetworks_mlps",
    "mask_decoder.iou_prediction_head": "mask_decoder.iou_prediction_head",
    "mask_decoder.hq_token": "mask_decoder.hf_token",
    "mask_decoder.hq_mask_mlp": "mask_decoder.hf_mlp",
    "mask_decoder.compress_vit_conv1": "mask_decoder.compress_vit_feat.0",
    "mask_decoder.compress_vit_norm": "mask_decoder.compress_vit_feat.1",
    "mask_decoder.compress_vit_conv2": "mask_decoder.compress_vit_feat.3",
    "mask_decoder.encoder_conv1": "mask_decoder.embedding_encoder.0",
    "mask_decoder.encoder_norm": "mask_decoder.embedding_encoder.1",
    "mask_decoder.encoder_conv2": "mask_decoder.embedding_encoder.3",
    "mask_decoder.mask_conv1": "mask_decoder.embedding_maskfeature.0",
    "mask_decoder.mask_norm": "mask_decoder.embedding_maskfeature.1",
    "mask_decoder.mask_conv2": "mask_decoder.embedding_maskfeature.3",
}


def published_sam(hq: bool = False, med2d: bool = False) -> Any:
    """A small model of the kind that original files hold, in evaluation mode."""
    sam = small_sam(hq=hq, **PUBLISHED_DECODER)
    if med2d:
        insert_branches(sam, hidden=4)
    return sam.eval()


def original_state(sam: Any) -> dict[str, Tensor]:
    """The state dict that the original project would have saved."""
    return {
        original_name(key): value.clone()
        for key, value in sam.state_dict().items()
        if key != "prompt_encoder.shared_embedding.positional_embedding"  # the original has it once
    }


def save_original(path: Path, sam: Any | None = None, **changes: Any) -> Path:
    """Write a state dict with some of its entries changed, or taken away by None."""
    state = {**original_state(published_sam() if sam is None else sam), **changes}
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


def original_name(key: str) -> str:
    """What the original project calls a weight."""
    ours = next(name for name in BEGINNINGS if key == name or key.startswith(f"{name}."))
    rest = key.removeprefix(ours)
    if ours.endswith("layers"):
        rest = rest.replace(".layer_norm", ".norm").replace(".mlp.base.", ".mlp.").replace(".mlp.branch.", ".Adapter.")
    elif "mlp" in ours or "head" in ours:
        rest = re.sub(r"\.layers\.(\d)", lambda found: f".layers.{int(found[1]) + 1}", rest)
        rest = rest.replace("proj_in", "layers.0").replace("proj_out", f"layers.{DEPTH - 1}")
    return BEGINNINGS[ours] + rest

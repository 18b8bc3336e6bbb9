"""A SAM by name: sizes of the paper, a tiny one for two cores, or a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from knowsam.errors import InputError

# Encoder: width, layers, heads, layers with global attention. Decoder and prompt encoder are the same in all three.
SIZES: dict[str, dict[str, Any]] = {
    "vit_b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
              "global_attn_indexes": [2, 5, 8, 11]},
    "vit_l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
              "global_attn_indexes": [5, 11, 17, 23]},
    "vit_h": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
              "global_attn_indexes": [7, 15, 23, 31]},
}  # fmt: skip
HUB_NAMES = {
    "vit_b": "facebook/sam-vit-base",
    "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
}


def build_sam(name: str, image_size: tuple[int, int], pretrained: bool = True) -> tuple[nn.Module, bool]:
    """Build a `transformers.SamModel` whose encoder takes images of `image_size`.

    Args:
        name: `"tiny"` (1.3 M parameters, patch 8, random weights), `"vit_b"`, `"vit_l"`, `"vit_h"`, or the path of a
            Hugging Face directory holding a `SamModel`.
        image_size: `(H, W)` in pixels, multiples of the patch size.
        pretrained: For the three ViT sizes: load the published weights (from the local cache or the hub); False
            builds the size with random weights, for measurements.

    Returns:
        The model in training mode, and whether its weights are pretrained.

    Raises:
        InputError: For a name that is neither known nor a directory, weights that cannot be had, or a size that is no
            multiple of the patch.
    """
    if name == "tiny":
        sam, is_pretrained = _random_sam(_tiny_config(max(image_size))), False
    elif name in SIZES and not pretrained:
        sam, is_pretrained = _random_sam(_size_config(name, max(image_size))), False
    elif name in SIZES:
        sam, is_pretrained = _load(HUB_NAMES[name], name), True
    elif Path(name).is_dir():
        sam, is_pretrained = _load(name, name), True
    else:
        raise _unknown_sam(name, ["none", "tiny", *SIZES])
    resize_input(sam, image_size)
    return sam, is_pretrained


def check_sam_name(name: str) -> None:
    """Whether a name can mean a SAM at all; its weights are not looked at.

    Raises:
        InputError: If it is neither known nor a path that exists.
    """
    known = ["none", "tiny", *SIZES]
    if name not in known and not Path(name).exists():
        raise _unknown_sam(name, known)


def _unknown_sam(name: str, known: list[str]) -> InputError:
    return InputError(
        f"sam: '{name}' was found, but expected one of {', '.join(known)} or an existing Hugging Face directory of a"
        " SamModel; check the spelling or the path."
    )


def resize_input(sam: Any, image_size: tuple[int, int]) -> None:
    """Make an encoder accept images of another size, in place.

    The absolute positional embedding and the relative ones of the global layers are resized to the new token grid
    (bicubic and linear); the relative ones of the windowed layers belong to the window and stay.

    Args:
        sam: A `SamModel` without adapters.
        image_size: `(H, W)` in pixels.

    Raises:
        InputError: If the size is no multiple of the patch size.
    """
    encoder = sam.vision_encoder
    patch = sam.config.vision_config.patch_size
    height, width = image_size
    if height % patch or width % patch:
        raise InputError(
            f"sam: image size {height}x{width} was found, but this SAM cuts images into patches of {patch} px;"
            f" choose a size whose sides are multiples of {patch}."
        )
    grid = (height // patch, width // patch)
    encoder.patch_embed.image_size = image_size
    if encoder.pos_embed is not None and tuple(encoder.pos_embed.shape[1:3]) != grid:
        table = encoder.pos_embed.detach().permute(0, 3, 1, 2)
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False, antialias=False)
        encoder.pos_embed = nn.Parameter(table.permute(0, 2, 3, 1).contiguous())
    for layer in encoder.layers:
        if layer.window_size == 0 and layer.attn.use_rel_pos:
            layer.attn.rel_pos_h = _resize_relative(layer.attn.rel_pos_h, 2 * grid[0] - 1)
            layer.attn.rel_pos_w = _resize_relative(layer.attn.rel_pos_w, 2 * grid[1] - 1)


def _resize_relative(table: nn.Parameter, length: int) -> nn.Parameter:
    if table.shape[0] == length:
        return table
    resized = F.interpolate(table.detach().T[None], size=length, mode="linear", align_corners=False)
    return nn.Parameter(resized[0].T.contiguous())


def _tiny_config(image_size: int) -> Any:
    """A SAM for two cores: patch 8 keeps thin structures visible at 96 px, four layers, all global."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

    patch, width, tokens = 8, 128, 64
    side = patch * -(-image_size // patch)
    return SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=width, output_channels=tokens, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2.0,
            image_size=side, patch_size=patch, window_size=0, global_attn_indexes=[0, 1, 2, 3],
            num_pos_feats=tokens // 2,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=tokens, image_size=side, patch_size=patch),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=tokens, mlp_dim=2 * tokens, num_attention_heads=4, iou_head_hidden_dim=tokens
        ),

    )  # fmt: skip


def _size_config(name: str, image_size: int) -> Any:
    from transformers import SamConfig, SamPromptEncoderConfig, SamVisionConfig

    return SamConfig(
        vision_config=SamVisionConfig(image_size=image_size, **SIZES[name]),
        prompt_encoder_config=SamPromptEncoderConfig(image_size=image_size),
    )


def _random_sam(config: Any) -> Any:
    """Random weights that a signal gets through; transformers' own (standard deviation 1e-10) leave it dead."""
    from transformers import SamModel

    sam: Any = SamModel(config)
    for module in sam.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(sam.vision_encoder.pos_embed, std=0.02)
    return sam.train()


def _load(source: str, name: str) -> Any:
    """`from_pretrained` with our own sentence for what can go wrong, and no key left unexplained."""
    from safetensors import SafetensorError
    from transformers import SamModel

    try:
        loaded: Any = SamModel.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(
            f"sam: '{name}' could not be loaded from {source} ({first_line}); expected a Hugging Face directory"
            " or cache"
            " entry of a SamModel. Without a network, copy the directory here and give its path, or use sam=tiny."
        ) from error
    sam, info = loaded
    unexplained = {
        kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]
    }
    if unexplained:
        raise InputError(
            f"sam: {source} does not hold the weights of a SamModel: {unexplained} was found, but expected every key to"
            " match; check that it is a SAM checkpoint."
        )
    return sam.train()

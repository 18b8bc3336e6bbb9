"""The sizes of the published SAMs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Encoder: width, layers, heads, layers with global attention. Decoder and prompt encoder are the same in all three.
SIZES: dict[str, dict[str, Any]] = {
    "vit_b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
              "global_attn_indexes": [2, 5, 8, 11]},
    "vit_l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
              "global_attn_indexes": [5, 11, 17, 23]},
    "vit_h": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
              "global_attn_indexes": [7, 15, 23, 31]},
}  # fmt: skip

SIZES_2: dict[str, dict[str, Any]] = {
    "sam2_tiny": {"hidden_size": 96, "heads": 1, "blocks_per_stage": [1, 2, 7, 2],
                  "global_attention_blocks": [5, 7, 9]},
    "sam2_small": {"hidden_size": 96, "heads": 1, "blocks_per_stage": [1, 2, 11, 2],
                   "global_attention_blocks": [7, 10, 13]},
    "sam2_base_plus": {"hidden_size": 112, "heads": 2, "blocks_per_stage": [2, 3, 16, 3],
                       "global_attention_blocks": [12, 16, 20],
                       "window_positional_embedding_background_size": [14, 14]},
    "sam2_large": {"hidden_size": 144, "heads": 2, "blocks_per_stage": [2, 6, 36, 4],
                   "global_attention_blocks": [23, 33, 43], "window_size_per_stage": [8, 4, 16, 8]},
}  # fmt: skip
"""SAM 2.1: width and heads of the first of four stages, blocks of each, layers with global attention, and what differs
from the smallest in windows and positions. Width and heads double from stage to stage."""

TINY_VIT_GRID = 64
"""Tokens along a side of the size that LiteMedSAM (256 px) and MobileSAM (1024 px) were made for."""


@dataclass(frozen=True)
class TinyVitSizes:
    """Sizes of a TinyViT.

    Attributes:
        widths: Channels of each stage; the first is made of convolutions, the others of attention.
        depths: Blocks of each stage.
        heads: Of each stage with attention, one fewer than `widths`.
        windows: Side of the windows in tokens, of each stage with attention.
        expanded: Channels within a block of the first stage.
        perceptrons: Width of the hidden layer in the blocks of each stage with attention.
        strided: Whether the two first convolutions are of 3x3 pixels and halve the image (MobileSAM), or of one pixel
            and do not (LiteMedSAM).
        channels: Of the embedding.
    """

    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 5, 10)
    windows: tuple[int, ...] = (7, 14, 7)
    expanded: int = 256
    perceptrons: tuple[int, ...] = (512, 640, 1280)
    strided: bool = False
    channels: int = 256

    @property
    def patch(self) -> int:
        """Pixels along a side of a token: every stage but the last two is followed by a halving."""
        return (4 if self.strided else 1) * 2 ** (len(self.widths) - 2)

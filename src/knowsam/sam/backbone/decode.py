"""One pass of SAM's prompt and mask decoder, with the prompts of an image folded into the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from knowsam.sam.backbone.interface import interface_of

MASK_PROMPT_SCALE = 4
"""The mask encoder takes prompts, and the decoder gives masks, of four times the token grid."""


def grid_positions(sam: Any, grid: tuple[int, int]) -> Tensor:
    """Positional encoding `(1, dim, g_h, g_w)` of the token centres, for grids that need not be square."""
    table = sam.shared_image_embedding.positional_embedding
    y = (torch.arange(grid[0], device=table.device, dtype=table.dtype) + 0.5) / grid[0]
    x = (torch.arange(grid[1], device=table.device, dtype=table.dtype) + 0.5) / grid[1]
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    return sam.shared_image_embedding(centres).permute(2, 0, 1).unsqueeze(0)


def decode_masks(
    sam: Any,
    encoded: Any,
    tokens: Tensor,
    dense: Tensor,
    mask_prompt: Tensor,
    multimask: bool = False,
    decoder: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Answer P prompts per image.

    Args:
        sam: A `SamModel`, a `SamHQModel`, a `Sam2Model` or a SAM of this package.
        encoded: What its encoder gave for B images.
        tokens: Sparse prompts `(B * P, T, dim)`, the prompts of an image next to each other.
        dense: Dense prompts `(B * P, dim, g_h, g_w)`.
        mask_prompt: Mask logits `(B * P, 1, 4 g_h, 4 g_w)` behind the dense prompts, 0 where there is none.
        multimask: Three answers for ambiguous prompts instead of one.
        decoder: Another mask decoder in place of its own, such as a frozen copy.

    Returns:
        Logits `(B * P, M, 4 g_h, 4 g_w)` and the estimated IoU of each `(B * P, M)`, M = 3 with `multimask`, else 1.
    """
    embedding, prompts = encoded[0], tokens.shape[0]
    per_image = prompts // embedding.shape[0]
    positions = grid_positions(sam, (embedding.shape[-2], embedding.shape[-1]))
    masks, quality, *_ = (sam.mask_decoder if decoder is None else decoder)(
        image_embeddings=embedding.repeat_interleave(per_image, dim=0),
        image_positional_embeddings=positions.expand(prompts, -1, -1, -1),
        sparse_prompt_embeddings=tokens.unsqueeze(1),
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        **interface_of(sam).decoder_extras(encoded, mask_prompt, per_image),
    )
    return masks[:, 0], quality[:, 0]

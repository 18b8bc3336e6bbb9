"""Masks, points and boxes as what SAM's decoder takes: tokens, and a dense prompt."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from knowsam.sam.backbone.interface import interface_of


class EncodedPrompts(NamedTuple):
    """N prompts as `decode_masks` takes them.

    Attributes:
        tokens: `(N, T, dim)`. T = 2: the corners of a box, or a point and SAM's token for 'no point', or that twice;
            T = 3 where points stand beside boxes: the corners or 'no point' twice, then the point or 'no point'. A
            SAM 2 has one 'no point' more behind them.
        dense: `(N, dim, g_h, g_w)`.
        mask: Mask logits `(N, 1, 4 g_h, 4 g_w)` behind the dense prompts, 0 where there is none.
    """

    tokens: Tensor
    dense: Tensor
    mask: Tensor


def encode_prompts(
    sam: Any, logits: Tensor, has_mask: Tensor, box: Tensor, has_box: Tensor, point: Tensor, inside: Tensor,
    has_point: Tensor, point_beside_box: bool = False,
) -> EncodedPrompts:  # fmt: skip
    """Encode one prompt per object: a mask, a box, a point, or a mask with one of them.

    Where the SAM asks for it (`SamInterface.draw_prompts`), points are drawn into the mask prompt as well, and boxes
    where there is no mask.

    Args:
        sam: A `SamModel`, a `SamHQModel`, a `Sam2Model` or a SAM of this package.
        logits: Mask prompts `(N, 4 g_h, 4 g_w)`, used where `has_mask`.
        has_mask: `(N,)` bool.
        box: `(N, 4)` x0, y0, x1, y1 as shares of the image, used where `has_box`.
        has_box: `(N,)` bool.
        point: `(N, 2)` x, y as shares of the image, used where `has_point` and not `has_box`.
        inside: `(N,)` bool, whether the point belongs to the object.
        has_point: `(N,)` bool.
        point_beside_box: An object may have both, and every object gets a token for either.
    """
    encoder = sam.prompt_encoder
    places = sam.shared_image_embedding(torch.stack([box[:, :2], box[:, 2:], point], dim=1))
    corner, marks = places[:, :2], interface_of(sam).point_marks(sam)
    corner = corner + torch.cat([marks[2], marks[3]])
    single = places[:, 2] + torch.where(inside[:, None], marks[1], marks[0])
    nothing = encoder.not_a_point_embed.weight.expand_as(single)
    with_point, with_box, with_mask = (kind[:, None, None] for kind in (has_point, has_box, has_mask))
    single = torch.where(with_point[..., 0], single, nothing)
    if point_beside_box:
        corner = torch.where(with_box, corner, nothing[:, None])
        tokens = torch.cat([corner, single[:, None]], dim=1)
    else:
        tokens = torch.where(with_box, corner, torch.stack([single, nothing], dim=1))
    if interface_of(sam).pads_boxes:
        tokens = torch.cat([tokens, nothing[:, None]], dim=1)
    mask = torch.where(with_mask, logits, 0.0)
    drawn = interface_of(sam).draw_prompts(mask, point, inside, box, with_point, with_box & ~with_mask)
    if drawn is not None:
        mask, with_mask = drawn, with_mask | with_point | with_box
    mask = mask[:, None]
    absent = encoder.no_mask_embed.weight[..., None, None]
    dense = torch.where(with_mask[:, None], encoder.mask_embed(mask), absent)
    return EncodedPrompts(tokens, dense, mask)

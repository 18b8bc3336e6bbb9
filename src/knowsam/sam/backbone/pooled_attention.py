"""Attention over a whole grid whose keys are pooled where there are many: linear in the number of tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.sam.backbone.attention import softmax_attention


def pooling_factor(grid: tuple[int, int], most: int) -> int:
    """Side in tokens of the blocks whose keys become one, so that at most about `most` keys are left; 1: none."""
    return math.ceil(math.sqrt(grid[0] * grid[1] / most))


def pooled_attention(base: Any, qkv: Tensor, factor: int) -> Tensor:
    """Attention of every token to blocks of factor x factor tokens, as if it were the same all over a block.

    The logit of a block is the mean of its tokens' logits (relative positions included) plus the log of their number,
    its value the mean of theirs. With factor 1 it is the attention itself.

    Args:
        base: A `SamVisionAttention` of transformers, whose weights are used.
        qkv: `(B, h, w, 3, heads, d)`.
        factor: Side of a block in tokens.

    Returns:
        `(B, h, w, heads * d)`.
    """
    height, width = qkv.shape[1:3]
    query, key, value = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)  # (B, heads, h, w, d) each
    parts_q = [query * base.scale]
    pooled = _pool(key, factor)
    rows, columns = pooled.shape[2:4]
    parts_k = [pooled]
    if base.use_rel_pos:
        # To every block of rows and of columns; a key says by a one in which it lies.
        to_row = _mean_rows(base.get_rel_pos(height, height, base.rel_pos_h), factor)
        to_column = _mean_rows(base.get_rel_pos(width, width, base.rel_pos_w), factor)
        parts_q += [torch.einsum("bnhwc,hkc->bnhwk", query, to_row), torch.einsum("bnhwc,wkc->bnhwk", query, to_column)]
        row = torch.eye(rows, dtype=key.dtype, device=key.device)[:, None].expand(rows, columns, rows)
        column = torch.eye(columns, dtype=key.dtype, device=key.device)[None].expand(rows, columns, columns)
        parts_k += [one.expand(*pooled.shape[:4], -1) for one in (row, column)]
    counts = _counts(height, factor, key)[:, None] * _counts(width, factor, key)
    parts_q.append(torch.ones_like(query[..., :1]))
    parts_k.append(counts.log()[..., None].expand(*pooled.shape[:4], 1))
    attended = softmax_attention(
        torch.cat(parts_q, dim=-1).flatten(2, 3),
        torch.cat(parts_k, dim=-1).flatten(2, 3),
        _pool(value, factor).flatten(2, 3),
    )
    return attended.unflatten(2, (height, width)).permute(0, 2, 3, 1, 4).flatten(3)


def _pool(maps: Tensor, factor: int) -> Tensor:
    """Means of blocks, `(B, heads, h, w, d)` -> `(B, heads, ceil(h / factor), ceil(w / factor), d)`."""
    batch, heads = maps.shape[:2]
    channels_first = maps.permute(0, 1, 4, 2, 3).flatten(0, 1)
    pooled = F.avg_pool2d(channels_first, factor, ceil_mode=True, count_include_pad=False)
    return pooled.unflatten(0, (batch, heads)).permute(0, 1, 3, 4, 2)


def _mean_rows(table: Tensor, factor: int) -> Tensor:
    """Relative positions to every place, `(n, n, d)`, as those to every block of them, `(n, ceil(n / factor), d)`."""
    return F.avg_pool1d(table.transpose(1, 2), factor, ceil_mode=True, count_include_pad=False).transpose(1, 2)


def _counts(length: int, factor: int, like: Tensor) -> Tensor:
    """Tokens in each block along an axis."""
    blocks = math.ceil(length / factor)
    counts = like.new_full((blocks,), factor)
    counts[-1] = length - (blocks - 1) * factor
    return counts

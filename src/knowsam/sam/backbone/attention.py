"""SAM's window attention without the windows' padding: the same function from fewer tokens.

SAM cuts the token grid into windows of 14 and pads it with zeros to a multiple of that: a 16x16 grid (256 px) becomes
28x28, two thirds of it padding. The padding takes part: its keys and values are those of a zero token, the layer's
biases, and a real token attends to them at their place in the window. But they are the same everywhere. So only real
tokens are projected here, and a window's padding is one more key, whose logit is the log of the sum it stands for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NEGLIGIBLE = 1e-20
"""Attention below this is exactly 0: a sum of millions of such terms does not reach float32's last digit."""


def window_attention(base: Any, tokens: Tensor, window: int) -> Tensor:
    """Compute a vision layer's attention for the whole grid, windows included.

    Args:
        base: A `SamVisionAttention` or `SamHQVisionAttention` of transformers, whose weights are used. With an
            attribute `most_keys`, keys of a whole grid of more tokens are pooled (`pooled_attention`).
        tokens: `(B, h, w, dim)`, normalised.
        window: Side of a window in tokens; 0 for attention over the whole grid.

    Returns:
        `(B, h, w, dim)`, after the output projection.
    """
    height, width = tokens.shape[1:3]
    heads = base.num_attention_heads
    qkv = base.qkv(tokens).unflatten(-1, (3, heads, -1))  # (B, h, w, 3, heads, d)
    most_keys = getattr(base, "most_keys", None)
    if window == 0 and most_keys is not None and height * width > most_keys:
        from knowsam.sam.backbone.pooled_attention import pooled_attention, pooling_factor

        attended = pooled_attention(base, qkv, pooling_factor((height, width), most_keys))
    elif window == 0:
        attended = _attend_region(base, qkv, (height, width))
    else:
        rows = [
            torch.cat([_attend_region(base, qkv[:, top, left], (window, window)) for left in _bands(width, window)], 2)
            for top in _bands(height, window)
        ]
        attended = torch.cat(rows, dim=1)
    return base.proj(attended)


def _bands(length: int, window: int) -> list[slice]:
    """Where the windows are full, and where the grid ends within one."""
    full = length // window * window
    return [band for band in (slice(0, full), slice(full, length)) if band.stop > band.start]


def _attend_region(base: Any, qkv: Tensor, window: tuple[int, int]) -> Tensor:
    """Attention within the windows of a region that holds whole windows, or the rest of one, along each axis.

    Args:
        base: The attention.
        qkv: `(B, h, w, 3, heads, d)` of the region.
        window: Size of a padded window.

    Returns:
        `(B, h, w, heads * d)`.
    """
    batch, height, width = qkv.shape[:3]
    real = min(height, window[0]), min(width, window[1])
    tiles = height // real[0], width // real[1]
    # (B * windows, heads, tokens, d) each
    cut = qkv.unflatten(2, (tiles[1], real[1])).unflatten(1, (tiles[0], real[0]))  # (B, th, rh, tw, rw, 3, heads, d)
    cut = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3).flatten(3, 4)
    query, key, value = cut.unbind(0)
    query, key, value = _with_positions(base, query, key, value, real, window)
    attended = softmax_attention(query, key, value)
    attended = attended.view(batch, *tiles, attended.shape[1], *real, -1)  # (B, th, tw, heads, rh, rw, d)
    return attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, -1)


def _with_positions(
    base: Any, query: Tensor, key: Tensor, value: Tensor, real: tuple[int, int], window: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys whose product is the whole logit: scale, relative positions and padding included.

    A query is followed by its relative positions to every row and every column, a key by its row and its column as
    one-hot vectors. No logit is then added after the product, and any attention kernel can be used.
    """
    scaled = query * base.scale
    rows = scaled.new_zeros(1, 1, 1, window[0])
    columns = scaled.new_zeros(1, 1, 1, window[1])
    parts_q, parts_k = [scaled], [key]
    if base.use_rel_pos:
        grid = query.unflatten(2, real)
        to_row = base.get_rel_pos(window[0], window[0], base.rel_pos_h)[: real[0]]
        to_column = base.get_rel_pos(window[1], window[1], base.rel_pos_w)[: real[1]]
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, to_row).flatten(2, 3)  # to every row of the padded window
        columns = torch.einsum("bnhwc,wkc->bnhwk", grid, to_column).flatten(2, 3)
        parts_q += [rows[..., : real[0]], columns[..., : real[1]]]
        parts_k += [one.expand(*key.shape[:3], -1) for one in _one_hot_places(real, key)]
    if real == window:
        return torch.cat(parts_q, dim=-1), torch.cat(parts_k, dim=-1), value
    bias = torch.zeros_like(base.qkv.weight[:, 0]) if base.qkv.bias is None else base.qkv.bias
    bias_key, bias_value = bias.to(key.dtype).view(3, key.shape[1], 1, -1)[1:]  # (heads, 1, d) each
    padding = (scaled * bias_key).sum(dim=-1, keepdim=True) + _log_padding(rows, columns, real).to(key.dtype)
    padding = padding.expand(*query.shape[:3], 1)
    query = torch.cat([*parts_q, padding], dim=-1)
    key = F.pad(torch.cat(parts_k, dim=-1), (0, 1, 0, 1))
    key[..., -1, -1] = 1  # the padding's key picks the padding's logit and nothing else
    return query, key, torch.cat([value, bias_value.expand(*value.shape[:2], 1, -1)], dim=2)


def _one_hot_places(real: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each token, `(tokens, rows)` and `(tokens, columns)`."""
    row = torch.eye(real[0], dtype=like.dtype, device=like.device).repeat_interleave(real[1], dim=0)
    column = torch.eye(real[1], dtype=like.dtype, device=like.device).repeat(real[0], 1)
    return row, column


def _log_padding(rows: Tensor, columns: Tensor, real: tuple[int, int]) -> Tensor:
    """`log sum exp(row + column)` over the padded places of a window, from the sums along each axis, `(..., 1)`."""
    rows, columns = rows.float(), columns.float()
    below = rows[..., real[0] :].logsumexp(-1, keepdim=True) + columns.logsumexp(-1, keepdim=True)
    beside = rows[..., : real[0]].logsumexp(-1, keepdim=True) + columns[..., real[1] :].logsumexp(-1, keepdim=True)
    if rows.shape[-1] == real[0]:
        return beside
    return below if columns.shape[-1] == real[1] else torch.logaddexp(below, beside)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`softmax(query key^T) value`; on a GPU by a kernel that keeps no logits."""
    if query.device.type != "cpu":
        return fused_attention(query, key, value)
    weights: Tensor = _Softmax.apply(query @ key.transpose(-1, -2))
    return weights.to(value.dtype) @ value


class _Softmax(torch.autograd.Function):
    """Softmax in float32 over the last axis, without numbers so small that a processor computes them by exception.

    A pretrained SAM is so sure where to look that most of its weights lie below 1e-38. Products with such denormal
    numbers take dozens of times as long, and the gradients are full of them too.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        weights = torch.threshold_(logits.softmax(dim=-1, dtype=torch.float32), NEGLIGIBLE, 0.0)
        ctx.save_for_backward(weights)
        ctx.dtype = logits.dtype
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        weighted = gradient * weights
        return weighted.addcmul_(weights, weighted.sum(dim=-1, keepdim=True), value=-1).to(ctx.dtype)


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by torch's own kernels, which want all three of one width, a multiple of 8."""
    width = value.shape[-1]
    wanted = -(-query.shape[-1] // 8) * 8
    query, key, value = (F.pad(one, (0, wanted - one.shape[-1])) for one in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :width]

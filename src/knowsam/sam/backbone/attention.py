"""SAM's window attention: the same function from fewer tokens on a CPU, from fewer operations on a GPU.

SAM cuts the token grid into windows of 14 and pads it with zeros to a multiple of that: a 16x16 grid (256 px) becomes
28x28, two thirds of it padding. The padding takes part: its keys and values are those of a zero token, the layer's
biases, and a real token attends to them at their place in the window. But they are the same everywhere. So only real
tokens are projected here. On a CPU a window's padding is one more key, whose logit is the log of the sum it stands for;
a GPU, to which a hundred small operations cost more than the padding, gets it in full.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

KERNEL_WIDTH = 8
"""Widths of queries, keys and values that fused kernels take are multiples of this."""

APART = 64.0
"""Two logits further apart than this have weights whose ratio is below 1e-27."""

NOTHING = -1e4
"""Logarithm of nothing, that every precision can hold and a gradient can pass."""

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
    most_keys = getattr(base, "most_keys", None) or height * width
    pooled = window == 0 and height * width > most_keys
    if tokens.device.type != "cpu" and not pooled:
        side = (window, window) if window else (height, width)
        windows = -(-height // side[0]) * -(-width // side[1])
        padded = (height % side[0] or width % side[1]) and (height * width) ** 2 < windows * (side[0] * side[1]) ** 2
        return base.proj((attend_masked if padded else attend_padded)(base, tokens, side))
    heads = base.num_attention_heads
    qkv = base.qkv(tokens).unflatten(-1, (3, heads, -1))  # (B, h, w, 3, heads, d)
    if pooled:
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
    rows, columns = (one.flatten(2, 3) for one in _to_places(base, query.unflatten(2, real), window))
    parts_q, parts_k = [scaled], [key]
    if base.use_rel_pos:
        parts_q += [rows[..., : real[0]], columns[..., : real[1]]]
        parts_k.append(_places(real, real, key.dtype, key.device).expand(*key.shape[:3], -1))
    if real == window:
        return torch.cat(parts_q, dim=-1), torch.cat(parts_k, dim=-1), value
    bias_key, bias_value = _bias(base).to(key.dtype).view(3, key.shape[1], 1, -1)[1:]  # (heads, 1, d) each
    padding = (scaled * bias_key).sum(dim=-1, keepdim=True) + _log_padding(rows, columns, real).to(key.dtype)
    padding = padding.expand(*query.shape[:3], 1)
    query = torch.cat([*parts_q, padding], dim=-1)
    key = F.pad(torch.cat(parts_k, dim=-1), (0, 1, 0, 1))
    key[..., -1, -1] = 1  # the padding's key picks the padding's logit and nothing else
    return query, key, torch.cat([value, bias_value.expand(*value.shape[:2], 1, -1)], dim=2)


def attend_padded(base: Any, tokens: Tensor, window: tuple[int, int]) -> Tensor:
    """Attention over all windows at once, their padding included.

    Args:
        base: The attention.
        tokens: `(B, h, w, dim)`, normalised.
        window: Size of a padded window.

    Returns:
        `(B, h, w, dim)`, before the output projection.
    """
    height, width, dim = tokens.shape[1:]
    below, beside = -height % window[0], -width % window[1]
    qkv = F.linear(tokens, base.qkv.weight)
    if below or beside:
        qkv = F.pad(qkv, (0, 0, 0, beside, 0, below))
    qkv = qkv + _bias(base).to(qkv.dtype)
    rows, columns = (height + below) // window[0], (width + beside) // window[1]
    heads = base.num_attention_heads
    cut = qkv.view(-1, rows, window[0], columns, window[1], 3, heads, dim // heads)
    cut = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3).flatten(3, 4)  # (3, B * windows, heads, tokens, d)
    query, key, value = cut.unbind(0)
    if base.use_rel_pos:
        to_row, to_column = _to_places(base, query.unflatten(2, window), window)
        place = _places_of_keys(window, window, base.scale, key.dtype, key.device)[:-1, : sum(window)]
        query = torch.cat([query, to_row.flatten(2, 3), to_column.flatten(2, 3)], dim=-1)
        key = torch.cat([key, place.expand(*key.shape[:2], -1, -1)], dim=-1)
    attended = fused_attention(query, key, value, base.scale)
    attended = attended.unflatten(0, (-1, rows, columns)).unflatten(4, window)
    attended = attended.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return attended[:, :height, :width]


def attend_masked(base: Any, tokens: Tensor, window: tuple[int, int]) -> Tensor:
    """Attention over the real tokens of all windows at once, in which only those of one window see each other.

    Where the grid is hardly larger than a window, most of the padded windows is padding, and this is the smaller
    product. What keeps windows apart are further entries of queries and keys, one for each row and each column of
    windows. The padding is one more key, as on a CPU.

    Args:
        base: The attention.
        tokens: `(B, h, w, dim)`, normalised.
        window: Size of a padded window.

    Returns:
        `(B, h, w, dim)`, before the output projection.
    """
    grid, dim = (tokens.shape[1], tokens.shape[2]), tokens.shape[3]
    heads = base.num_attention_heads
    qkv = base.qkv(tokens).view(-1, grid[0] * grid[1], 3, heads, dim // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, tokens, d)
    to_row, to_column = _to_places(base, query.unflatten(2, grid), window)
    padding = _log_sum_of_padding(to_row, to_column, window).to(query.dtype)
    apart = _windows_of_queries(grid, window, query.dtype, query.device)
    query = torch.cat(
        [
            query,
            to_row.flatten(2, 3),
            to_column.flatten(2, 3),
            apart.expand(*query.shape[:2], -1, -1),
            padding.flatten(2, 3),
        ],
        dim=-1,
    )
    place = _places_of_keys(grid, window, base.scale, key.dtype, key.device)
    bias_key, bias_value = _bias(base).to(key.dtype).view(3, heads, 1, -1)[1:]
    key = torch.cat([key, bias_key.expand(len(key), -1, -1, -1)], dim=2)
    key = torch.cat([key, place.expand(*key.shape[:2], -1, -1)], dim=-1)
    value = torch.cat([value, bias_value.expand(len(value), -1, -1, -1)], dim=2)
    attended = fused_attention(query, key, value, base.scale)
    return attended.transpose(1, 2).reshape(-1, *grid, dim)


def _bias(base: Any) -> Tensor:
    """The layer's bias of queries, keys and values, which are those of a zero token, `(3 dim,)`."""
    return torch.zeros_like(base.qkv.weight[:, 0]) if base.qkv.bias is None else base.qkv.bias


def _to_places(base: Any, query: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A query's relative positions to every row and every column of its padded window.

    Args:
        base: The attention.
        query: `(B, heads, h, w, d)`, the token (0, 0) in the corner of a window.
        window: Size of a padded window.

    Returns:
        `(B, heads, h, w, window rows)` and `(B, heads, h, w, window columns)`; zeros without relative positions.
    """
    height, width = query.shape[2:4]
    if not base.use_rel_pos:
        nothing = query.new_zeros(())
        return nothing.expand(*query.shape[:4], window[0]), nothing.expand(*query.shape[:4], window[1])
    row = relative_positions(base.rel_pos_h, window[0], height).to(query.dtype)
    column = relative_positions(base.rel_pos_w, window[1], width).to(query.dtype)
    return torch.einsum("bnhwc,hkc->bnhwk", query, row), torch.einsum("bnhwc,wkc->bnhwk", query, column)


def _log_sum_of_padding(rows: Tensor, columns: Tensor, window: tuple[int, int]) -> Tensor:
    """`log sum exp(row + column)` over the padded places of each token's window, `(B, heads, h, w, 1)` float32."""
    rows, columns = rows.float(), columns.float()
    height, width = rows.shape[2:4]
    real_row = _real_places(height, window[0], rows.device)[:, None]
    real_column = _real_places(width, window[1], rows.device)
    every_column = columns.logsumexp(-1, keepdim=True)
    below = rows.masked_fill(real_row, NOTHING).logsumexp(-1, keepdim=True) + every_column
    beside = columns.masked_fill(real_column, NOTHING).logsumexp(-1, keepdim=True)
    beside = beside + rows.masked_fill(~real_row, NOTHING).logsumexp(-1, keepdim=True)
    return torch.logaddexp(below, beside).clamp(min=NOTHING)


@lru_cache
def _real_places(side: int, window: int, device: torch.device) -> Tensor:
    """For each token along an axis, which places of its padded window hold a token, `(side, window)` bool."""
    with torch.inference_mode(False):
        first = torch.arange(side, device=device) // window * window
        return first[:, None] + torch.arange(window, device=device) < side


@lru_cache
def _windows_of_queries(
    grid: tuple[int, int], window: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What in a query tells its window: `APART` at its row of windows and at its column, `(tokens, rows + columns)`."""
    with torch.inference_mode(False):
        return APART * _windows(grid, window, dtype, device)


@lru_cache
def _places_of_keys(
    grid: tuple[int, int], window: tuple[int, int], scale: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What follows a key, over the scale of the product: its place in its window, its window, and the padding's mark.

    Returns:
        `(tokens + 1, places + windows + 1)`; the last key is the padding, which every window sees.
    """
    with torch.inference_mode(False):  # else one that validation made could not be used in training
        real = torch.cat([_places(grid, window, dtype, device), _windows(grid, window, dtype, device)], dim=1)
        of_padding = torch.arange(real.shape[1] + 1, device=device) >= sum(window)
        return torch.cat([F.pad(real, (0, 1)), of_padding[None].to(dtype)]) / scale


@lru_cache
def _places(grid: tuple[int, int], window: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Each token's row and column within its window as one-hot vectors, `(tokens, rows + columns)`."""
    with torch.inference_mode(False):
        row, column = (torch.arange(side, device=device) % part for side, part in zip(grid, window, strict=True))
        return _one_hot_axes(row, column, window).to(dtype)


def _windows(grid: tuple[int, int], window: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Each token's row of windows and column of windows as one-hot vectors, `(tokens, rows + columns)`."""
    row, column = (torch.arange(side, device=device) // part for side, part in zip(grid, window, strict=True))
    return _one_hot_axes(row, column, (-(-grid[0] // window[0]), -(-grid[1] // window[1]))).to(dtype)


def _one_hot_axes(row: Tensor, column: Tensor, counts: tuple[int, int]) -> Tensor:
    """Indices of a grid's rows and columns -> both as one-hot vectors for each token, `(tokens, sum of counts)` bool.

    By comparison: torch's own `one_hot` may ask the device for the largest index.
    """
    rows, columns = (
        index[:, None] == torch.arange(count, device=index.device)
        for index, count in zip((row, column), counts, strict=True)
    )
    return torch.cat([rows.repeat_interleave(len(column), dim=0), columns.repeat(len(row), 1)], dim=1)


def relative_positions(table: Tensor, side: int, queries: int | None = None) -> Tensor:
    """Embedding of the distance from each query to each key along an axis of windows of `side` tokens.

    Args:
        table: `(L, d)`, by distance; resampled linearly where L is not `2 side - 1`.
        side: Tokens along the axis of one window, whose keys are all meant.
        queries: Number of queries, from the start of a window on; `side` by default.

    Returns:
        `(queries, side, d)`.
    """
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    return table[_distances(side, side if queries is None else queries, table.device)]


@lru_cache
def _distances(side: int, queries: int, device: torch.device) -> Tensor:
    """Index of the distance between each query and each key, `(queries, side)`."""
    with torch.inference_mode(False):
        place = torch.arange(queries, device=device) % side
        return place[:, None] - torch.arange(side, device=device) + side - 1


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


def fused_attention(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """`softmax(scale query key^T) value` by torch's own kernels, which want all three of one width, a multiple of 8."""
    width = value.shape[-1]
    wanted = -(-query.shape[-1] // KERNEL_WIDTH) * KERNEL_WIDTH
    query, key, value = (
        one if one.shape[-1] == wanted else F.pad(one, (0, wanted - one.shape[-1])) for one in (query, key, value)
    )
    return F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]

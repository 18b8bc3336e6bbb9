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
    rows, columns = _to_places(base, query, real, window).split(window, dim=-1)
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
    if below or beside:
        qkv = F.pad(F.linear(tokens, base.qkv.weight), (0, 0, 0, beside, 0, below))
        qkv = qkv + _bias(base).to(qkv.dtype)
    else:
        qkv = base.qkv(tokens)
    rows, columns = (height + below) // window[0], (width + beside) // window[1]
    heads = base.num_attention_heads
    cut = qkv.view(-1, rows, window[0], columns, window[1], 3, heads, dim // heads)
    cut = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3).flatten(3, 4)  # (3, B * windows, heads, tokens, d)
    query, key, value = cut.unbind(0)
    if base.use_rel_pos:
        place = _places(window, window, key.dtype, key.device, 1 / base.scale)
        query = torch.cat([query, _to_places(base, query, window, window)], dim=-1)
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
    # A zero token behind the others: its key and value are the padding's.
    qkv = base.qkv(F.pad(tokens.flatten(1, 2), (0, 0, 0, 1))).unflatten(-1, (3, heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, tokens + 1, d)
    query = query[:, :, :-1]
    places = _to_places(base, query, grid, window)
    padding = _log_sum_of_padding(places, grid, window).to(query.dtype)
    of_query, of_key = _marks(grid, window, query.shape[-1], base.scale, query.dtype, query.device)
    query = torch.cat([query, places, padding, of_query.expand(*query.shape[:2], -1, -1)], dim=-1)
    key = torch.cat([key, of_key.expand(*key.shape[:2], -1, -1)], dim=-1)
    attended = fused_attention(query, key, value, base.scale)
    return attended.transpose(1, 2).reshape(-1, *grid, dim)


def _bias(base: Any) -> Tensor:
    """The layer's bias of queries, keys and values, which are those of a zero token, `(3 dim,)`."""
    return torch.zeros_like(base.qkv.weight[:, 0]) if base.qkv.bias is None else base.qkv.bias


def _to_places(base: Any, query: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """A query's relative positions to every row and every column of its padded window.

    Args:
        base: The attention.
        query: `(B, heads, h w, d)`, the tokens of a grid.
        grid: `(h, w)`, the token (0, 0) in the corner of a window.
        window: Size of a padded window.

    Returns:
        `(B, heads, h w, window rows + window columns)`; zeros without relative positions.
    """
    if not base.use_rel_pos:
        return query.new_zeros(()).expand(*query.shape[:3], sum(window))
    tables = (relative_positions(base.rel_pos_h, window[0]), relative_positions(base.rel_pos_w, window[1]))
    by_distance = query @ torch.cat(tables).to(query.dtype).T
    return by_distance.gather(-1, _distances(grid, window, query.device).expand(*query.shape[:2], -1, -1))


def _log_sum_of_padding(places: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """`log sum exp(row + column)` over the padded places of each token's window, `(B, heads, h w, 1)` float32."""
    summands = places.float().unflatten(-1, (2, 1, -1)) + _summands_of_padding(grid, window, places.device)
    # The sums below the real rows and beside them: the log of a product of sums along the axes.
    return summands.logsumexp(-1).sum(-2).logsumexp(-1, keepdim=True)


@lru_cache
def _summands_of_padding(grid: tuple[int, int], window: tuple[int, int], device: torch.device) -> Tensor:
    """What keeps places out of the sums over a window's padding: 0 for what counts, else `NOTHING`.

    Returns:
        `(h w, 2 axes, 2 sums, places)`: below the real rows, padded rows and all columns; beside them, real rows and
        padded columns. Windows are square.
    """
    with torch.inference_mode(False):
        row, column = (_real_places(side, part, device) for side, part in zip(grid, window, strict=True))
        rows = torch.stack([~row, row], dim=1)[:, None].expand(*grid, -1, -1)
        columns = torch.stack([torch.ones_like(column), ~column], dim=1).expand(*grid, -1, -1)
        counts = torch.stack([rows, columns], dim=2).flatten(0, 1)
        return torch.where(counts, 0.0, NOTHING)


@lru_cache
def _real_places(side: int, window: int, device: torch.device) -> Tensor:
    """For each token along an axis, which places of its padded window hold a token, `(side, window)` bool."""
    with torch.inference_mode(False):
        first = torch.arange(side, device=device) // window * window
        return first[:, None] + torch.arange(window, device=device) < side


@lru_cache
def _marks(
    grid: tuple[int, int], window: tuple[int, int], dim: int, scale: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What follows queries of width `dim`, their places and the padding's logit; what follows keys.

    Keys, over the scale of the product: their place in their window, the padding's mark, their window. Queries: `APART`
    at their window. Both up to a width that kernels take.

    Returns:
        `(tokens, windows + zeros)` and `(tokens + 1, places + 1 + windows + zeros)`; the last key is the padding, which
        every window sees.
    """
    with torch.inference_mode(False):  # else one that validation made could not be used in training
        place, own = _places(grid, window, dtype, device), _windows(grid, window, dtype, device)
        zeros = own.new_zeros(len(own), -(dim + sum(window) + 1 + own.shape[1]) % KERNEL_WIDTH)
        real = torch.cat([place, zeros.new_zeros(len(own), 1), own, zeros], dim=1)
        padding = torch.zeros_like(real[:1])
        padding[:, sum(window) : sum(window) + 1 + own.shape[1]] = 1
        return torch.cat([APART * own, zeros], dim=1), torch.cat([real, padding]) / scale


@lru_cache
def _places(
    grid: tuple[int, int], window: tuple[int, int], dtype: torch.dtype, device: torch.device, hot: float = 1.0
) -> Tensor:
    """Each token's row and column within its window as one-hot vectors of `hot`, `(tokens, rows + columns)`."""
    with torch.inference_mode(False):
        row, column = (torch.arange(side, device=device) % part for side, part in zip(grid, window, strict=True))
        return hot * _one_hot_axes(row, column, window).to(dtype)


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
    return _of_tokens(rows, columns)


def _of_tokens(rows: Tensor, columns: Tensor) -> Tensor:
    """What belongs to each row `(h, m)` and to each column `(w, n)` of a grid, for each token, `(h w, m + n)`."""
    return torch.cat([rows.repeat_interleave(len(columns), dim=0), columns.repeat(len(rows), 1)], dim=1)


def relative_positions(table: Tensor, side: int) -> Tensor:
    """Embedding of each distance along an axis of a window of `side` tokens: a table, resampled linearly if need be.

    Args:
        table: `(L, d)`, by what a query's place is ahead of a key's, from the least on.
        side: Tokens along the axis.

    Returns:
        `(2 side - 1, d)`.
    """
    if len(table) == 2 * side - 1:
        return table
    return F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T


@lru_cache
def _distances(grid: tuple[int, int], window: tuple[int, int], device: torch.device) -> Tensor:
    """Where the distances from each token to the rows and columns of its window lie in both tables, one after another.

    Returns:
        `(h w, window rows + window columns)` int64.
    """
    with torch.inference_mode(False):
        row, column = (
            torch.arange(side, device=device)[:, None] % part - torch.arange(part, device=device) + part - 1
            for side, part in zip(grid, window, strict=True)
        )
        return _of_tokens(row, column + 2 * window[0] - 1)


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

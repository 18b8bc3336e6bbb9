"""Pooled keys: the attention itself where nothing is pooled, and a naive restatement of it where something is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import SamVisionConfig

from knowsam.sam.adapters import AdaptedAttention, Adapter
from knowsam.sam.backbone.attention import window_attention
from knowsam.sam.backbone.pooled_attention import pooled_attention, pooling_factor
from knowsam.sam.backbone.tiny import TinyAttention


def attention(side: int) -> TinyAttention:
    torch.manual_seed(0)
    config = SamVisionConfig(hidden_size=12, num_attention_heads=3, image_size=8 * side, patch_size=8)
    made = TinyAttention(config, window_size=0).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return made


def naive(base: TinyAttention, tokens: Tensor, factor: int) -> Tensor:
    """Token by token and block by block."""
    _, height, width, dim = tokens.shape
    heads = base.num_attention_heads
    query, key, value = base.qkv(tokens[0]).view(height, width, 3, heads, -1).unbind(2)
    to_row = base.get_rel_pos(height, height, base.rel_pos_h)
    to_column = base.get_rel_pos(width, width, base.rel_pos_w)
    blocks = [
        [(y, x) for y in range(top, min(top + factor, height)) for x in range(left, min(left + factor, width))]
        for top in range(0, height, factor)
        for left in range(0, width, factor)
    ]
    out = torch.zeros(height, width, heads, dim // heads, dtype=tokens.dtype)
    for y in range(height):
        for x in range(width):
            for head in range(heads):
                q = query[y, x, head]
                each = [
                    torch.stack(
                        [base.scale * q @ key[v, u, head] + q @ to_row[y, v] + q @ to_column[x, u] for v, u in b]
                    )
                    for b in blocks
                ]
                weights = torch.stack(
                    [logits.mean() + torch.tensor(float(len(logits))).log() for logits in each]
                ).softmax(0)
                means = torch.stack([torch.stack([value[v, u, head] for v, u in b]).mean(0) for b in blocks])
                out[y, x, head] = weights @ means
    return base.proj(out.flatten(2))[None]


@pytest.mark.parametrize(("grid", "factor"), [((4, 6), 2), ((5, 7), 2), ((4, 7), 3), ((3, 4), 1)])
@torch.no_grad()
def test_it_is_attention_to_means_of_blocks(grid: tuple[int, int], factor: int) -> None:
    base = attention(4)
    tokens = torch.randn(1, *grid, 12, dtype=torch.float64)
    qkv = base.qkv(tokens).unflatten(-1, (3, 3, -1))
    torch.testing.assert_close(
        base.proj(pooled_attention(base, qkv, factor)), naive(base, tokens, factor), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("side", "factor"), [(128, 1), (256, 2)])
@torch.no_grad()
def test_up_to_128_px_it_is_the_attention_and_beyond_it_is_pooled_with_adapters_too(side: int, factor: int) -> None:
    grid = side // 8
    base = attention(grid)
    tokens = torch.randn(1, grid, grid, 12, dtype=torch.float64)
    qkv = base.qkv(tokens).unflatten(-1, (3, 3, -1))
    found = window_attention(base, tokens, 0)
    torch.testing.assert_close(found, base.proj(pooled_attention(base, qkv, factor)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(AdaptedAttention(base, Adapter(12, skip=True).double())(tokens)[0], found)
    unpooled = base(tokens)[0] if factor == 1 else base.proj(pooled_attention(base, qkv, 1))
    assert ((unpooled - found).abs().max() > 1e-3) == (factor > 1)


def test_there_are_never_more_keys_than_about_those_of_128_px() -> None:
    most = TinyAttention.most_keys
    assert pooling_factor((16, 16), most) == 1
    assert pooling_factor((32, 32), most) == 2
    assert pooling_factor((17, 16), most) == 2
    assert pooling_factor((64, 48), most) == 4

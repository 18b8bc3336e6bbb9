"""Bottleneck adapters: the few weights of SAM's encoder and decoder that learn (docs/method.md, section 2)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from knowsam.sam.backbone.attention import window_attention
from knowsam.sam.backbone.interface import interface_of

AdapterInit = Literal["zero", "default"]


class Adapter(nn.Module):
    """Bottleneck `dim -> dim * ratio -> GELU -> dim`, with or without a skip.

    With `init="zero"` the up-projection starts at zero, so that at step 0 the adapted network computes what
    the pretrained one did. `init="default"` keeps PyTorch's initialisation, as the authors' release does.
    """

    def __init__(self, dim: int, skip: bool, ratio: float = 0.25, init: AdapterInit = "zero") -> None:
        super().__init__()
        hidden = max(1, int(dim * ratio))
        self.skip = skip
        self.down = nn.Linear(dim, hidden)
        self.activation = nn.GELU()
        self.up = nn.Linear(hidden, dim)
        if init == "zero":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(..., dim)` -> `(..., dim)`."""
        change = self.up(self.activation(self.down(tokens)))
        return tokens + change if self.skip else change


class AdaptedAttention(nn.Module):
    """A vision block's attention, windows included, followed by an adapter with skip.

    Args:
        base: The attention of `transformers`.
        adapter: What follows it.
        window: Side of the block's windows in tokens, 0 for none.
    """

    def __init__(self, base: nn.Module, adapter: Adapter, window: int = 0) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        self.window = window

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """Tokens of the whole grid `(B, h, w, dim)` -> the same shape; attention weights are not kept."""
        return self.adapter(window_attention(self.base, hidden_states, self.window)), None


class AdaptedGridAttention(nn.Module):
    """An attention as it is, over the whole grid (TinyViT) or a window (SAM 2), followed by an adapter with skip."""

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        """`(B, h, w, dim)` -> what the attention gives for it, which may have another grid and width."""
        return self.adapter(self.base(hidden_states, **arguments))


class AdaptedMlp(nn.Module):
    """A block's MLP with an adapter without skip beside it: `mlp(x) + scale * adapter(x)`."""

    def __init__(self, base: nn.Module, adapter: Adapter, scale: float = 0.5) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        self.scale = scale

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`(..., dim)` -> `(..., dim)`."""
        return torch.add(self.base(hidden_states), self.adapter(hidden_states), alpha=self.scale)


def insert_adapters(sam: Any, init: AdapterInit = "zero") -> None:
    """Put adapters into every block of the encoder and every MLP of the decoder's transformer, in place.

    Args:
        sam: A `transformers.SamModel` or a SAM of this package, without adapters.
        init: How the adapters' up-projections start.
    """
    interface = interface_of(sam)
    for layer in interface.encoder_blocks(sam):
        dim = len(layer.layer_norm2.weight)
        if interface.keeps_attention:
            layer.attn = AdaptedGridAttention(layer.attn, Adapter(dim, skip=True, init=init))
        else:
            layer.attn = AdaptedAttention(layer.attn, Adapter(dim, skip=True, init=init), layer.window_size)
            # The attention partitions the grid itself, so the layer must not.
            layer.window_partition, layer.window_unpartition = _whole_grid, _as_it_is
        layer.mlp = AdaptedMlp(layer.mlp, Adapter(dim, skip=False, init=init))
    dim = sam.config.mask_decoder_config.hidden_size
    for layer in sam.mask_decoder.transformer.layers:
        layer.mlp = AdaptedMlp(layer.mlp, Adapter(dim, skip=False, init=init))


def _whole_grid(tokens: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """Stand in for a layer's `window_partition`: return `(B, h, w, dim)` as it is, with its grid."""
    return tokens, (tokens.shape[1], tokens.shape[2])


def _as_it_is(tokens: Tensor, window: int, padded: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Stand in for a layer's `window_unpartition`: return the tokens unchanged."""
    return tokens

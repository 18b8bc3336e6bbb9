from __future__ import annotations

import copy

import pytest
import torch

from knowsam.sam.adapters import AdaptedAttention, AdaptedMlp, Adapter, insert_adapters
from support.small_sam import SIDE, TOKENS, WIDTH, small_sam


@torch.no_grad()
def test_zero_adapter_with_skip_is_the_identity_and_without_it_nothing() -> None:
    tokens = torch.randn(2, 3, 8)
    assert torch.equal(Adapter(8, skip=True)(tokens), tokens)
    assert torch.equal(Adapter(8, skip=False)(tokens), torch.zeros_like(tokens))


@torch.no_grad()
def test_default_adapter_changes_its_input() -> None:
    tokens = torch.randn(2, 3, 8)
    assert not torch.equal(Adapter(8, skip=True, init="default")(tokens), tokens)


def test_adapter_narrows_to_a_quarter() -> None:
    adapter = Adapter(8, skip=True)
    assert adapter.down.weight.shape == (2, 8)
    assert adapter.up.weight.shape == (8, 2)


@torch.no_grad()
def test_adapted_mlp_adds_half_of_the_adapter() -> None:
    base, adapter, tokens = torch.nn.Linear(8, 8), Adapter(8, skip=False, init="default"), torch.randn(2, 8)
    assert torch.equal(AdaptedMlp(base, adapter)(tokens), base(tokens) + 0.5 * adapter(tokens))


def test_insert_adapters_reaches_every_block_of_encoder_and_decoder() -> None:
    sam = small_sam()
    insert_adapters(sam)
    for layer in sam.vision_encoder.layers:
        assert isinstance(layer.attn, AdaptedAttention)
        assert isinstance(layer.mlp, AdaptedMlp)
        assert layer.attn.adapter.down.in_features == WIDTH
    for layer in sam.mask_decoder.transformer.layers:
        assert isinstance(layer.mlp, AdaptedMlp)
        assert layer.mlp.adapter.down.in_features == TOKENS


@pytest.mark.parametrize("init", ["zero", "default"])
@torch.no_grad()
def test_zero_adapters_leave_sams_own_answer_unchanged_and_default_ones_do_not(init: str) -> None:
    plain = small_sam()
    adapted = copy.deepcopy(plain)
    insert_adapters(adapted, init)
    arguments = {
        "pixel_values": torch.randn(2, 3, SIDE, SIDE),
        "input_points": torch.tensor([[[[20.0, 30.0]]], [[[5.0, 40.0]]]]),
        "input_labels": torch.ones(2, 1, 1, dtype=torch.long),
    }
    before, after = plain(**arguments), adapted(**arguments)
    # Windows without padding (test_attention.py) round differently, so that equal means equal but for that.
    assert torch.allclose(before.pred_masks, after.pred_masks, rtol=1e-4, atol=1e-5) == (init == "zero")

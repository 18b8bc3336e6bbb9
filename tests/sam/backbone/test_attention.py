from __future__ import annotations

import copy

import pytest
import torch

from knowsam.sam.adapters import insert_adapters
from knowsam.sam.backbone import attention
from knowsam.sam.loading.resize import resize_input
from support.small_sam import small_sam

# Grids of 8x8, 4x6, 9x5 and 6x12 tokens under windows of 3: with and without padding along each axis.
SIZES = [(64, 64), (32, 48), (72, 40), (48, 96)]


@pytest.mark.parametrize("hq", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_windows_without_padding_give_transformers_answer_and_gradients(size: tuple[int, int], hq: bool) -> None:
    plain = small_sam(hq=hq)
    resize_input(plain, size)
    for layer in plain.vision_encoder.layers:
        torch.nn.init.normal_(layer.attn.qkv.bias)  # padding shows itself through this bias alone
    adapted = copy.deepcopy(plain)
    insert_adapters(adapted)
    image = torch.randn(2, 3, *size)
    answers = [one.vision_encoder(image)[0] for one in (plain, adapted)]
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(answers[0])
    for answer in answers:
        (answer * weight).sum().backward()
    found = {name.replace(".base.", "."): p.grad for name, p in adapted.vision_encoder.named_parameters()}
    for name, parameter in plain.vision_encoder.named_parameters():
        largest = parameter.grad.abs().max().item()
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("window", [3, 7])
@pytest.mark.parametrize("grid", [(8, 8), (4, 6), (9, 5), (2, 5)])
def test_a_gpus_ways_give_the_answer_and_gradients_of_the_cpus(
    grid: tuple[int, int], window: int, positions: bool
) -> None:
    base = small_sam().vision_encoder.layers[0].attn
    base.use_rel_pos = positions
    for name in ("rel_pos_h", "rel_pos_w"):
        setattr(base, name, torch.nn.Parameter(torch.randn(2 * window - 1, base.rel_pos_h.shape[1])))
    torch.nn.init.normal_(base.qkv.bias)
    tokens = torch.randn(2, *grid, base.qkv.in_features, requires_grad=True)
    weight = torch.randn(2, *grid, base.qkv.in_features)
    wanted = [tokens, base.qkv.weight, base.qkv.bias, *([base.rel_pos_h, base.rel_pos_w] if positions else [])]
    expected = attention.window_attention(base, tokens, window)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), wanted)
    for way in (attention.attend_padded, attention.attend_masked):
        found = base.proj(way(base, tokens, (window, window)))
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)
        gradients = torch.autograd.grad((found * weight).sum(), wanted)
        for one, other in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())


@torch.no_grad()
def test_padding_is_seen_by_real_tokens() -> None:
    """Else the test above could not tell an exact window from one that simply leaves its padding out."""
    sam = small_sam()
    base = sam.vision_encoder.layers[0].attn
    torch.nn.init.normal_(base.qkv.bias)
    tokens = torch.randn(1, 2, 2, base.qkv.in_features)
    padded = attention.window_attention(base, tokens, 3)
    torch.testing.assert_close(padded, base(torch.nn.functional.pad(tokens, (0, 0, 0, 1, 0, 1)))[0][:, :2, :2])
    assert (padded - base(tokens)[0]).abs().max() > 0.01


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_windows_without_relative_positions_or_bias(bias: bool) -> None:
    base = small_sam().vision_encoder.layers[0].attn
    base.use_rel_pos = False
    base.qkv.bias = torch.nn.Parameter(torch.randn_like(base.qkv.bias)) if bias else None
    tokens = torch.randn(1, 2, 3, base.qkv.in_features)
    expected = base(torch.nn.functional.pad(tokens, (0, 0, 0, 0, 0, 1)))[0][:, :2]
    torch.testing.assert_close(attention.window_attention(base, tokens, 3), expected)


def test_the_fused_kernel_gives_the_same() -> None:
    query, key, value = torch.randn(2, 3, 5, 13), torch.randn(2, 3, 6, 13), torch.randn(2, 3, 6, 8)
    found, expected = attention.fused_attention(query, key, value), attention.softmax_attention(query, key, value)
    assert found.shape == (2, 3, 5, 8)
    torch.testing.assert_close(found, expected)


def test_attention_that_is_very_sure_meets_no_denormal_number_and_stays_exact() -> None:
    """Nearly all weights of a pretrained SAM lie below 1e-38, where a processor needs dozens of times as long."""
    plain = (60 * torch.randn(4, 3, 32, 32)).requires_grad_()
    ours = plain.detach().clone().requires_grad_()
    expected = plain.softmax(dim=-1)
    assert is_denormal(expected).any(), "or nothing is shown"
    identity = torch.eye(32).expand(4, 3, 32, 32)  # the logits are then the query, and the result is the weights
    found = attention.softmax_attention(ours, identity, identity)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    assert not is_denormal(found).any()
    assert not is_denormal(ours.grad).any()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-20)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-5, atol=1e-7)


def is_denormal(x: torch.Tensor) -> torch.Tensor:
    return (x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)


@torch.no_grad()
def test_attention_under_bf16_stays_near_full_precision() -> None:
    base = small_sam().vision_encoder.layers[0].attn
    tokens = torch.randn(2, 4, 4, base.qkv.in_features)
    exact = attention.window_attention(base, tokens, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention.window_attention(base, tokens, 3)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.03 * exact.abs().max()

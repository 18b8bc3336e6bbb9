from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam.modeling_sam import SamVisionAttention

from knowsam.sam.backbone.decode import decode_masks
from knowsam.sam.backbone.tiny import HALF, QUARTER, TinySam, draw_boxes, draw_points, mask_maps, read_config, tiny_sam
from knowsam.sam.loading.build import TINY
from knowsam.sam.loading.resize import resize_input
from knowsam.sam.teacher import SamTeacher


@pytest.fixture
def sam() -> TinySam:
    torch.manual_seed(0)
    return tiny_sam(read_config(TINY)).eval()


@torch.no_grad()
def test_encoder_takes_images_of_any_size_and_gives_its_finer_maps_too(sam: TinySam) -> None:
    encoded = sam.vision_encoder(torch.randn(2, 3, 48, 64))
    assert encoded.embedding.shape == (2, 128, 6, 8)
    assert encoded.half.shape == (2, HALF, 24, 32)
    assert encoded.quarter.shape == (2, QUARTER, 12, 16)
    assert (encoded.embedding[0] - encoded.embedding[1]).abs().mean() > 0.1


@torch.no_grad()
def test_encoder_of_a_resized_sam_is_the_same_function(sam: TinySam) -> None:
    """Resizing once, and resizing the positions at each pass, as in pretraining, must not differ."""
    for layer in sam.vision_encoder.layers:
        torch.nn.init.normal_(layer.attn.rel_pos_h)
        torch.nn.init.normal_(layer.attn.rel_pos_w)
    image = torch.randn(1, 3, 48, 64)
    before = sam.vision_encoder(image).embedding
    resize_input(sam, (48, 64))
    torch.testing.assert_close(sam.vision_encoder(image).embedding, before, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_is_sams(sam: TinySam) -> None:
    attention, tokens = sam.vision_encoder.layers[0].attn, torch.randn(2, 16, 16, 192)
    torch.nn.init.normal_(attention.rel_pos_h)
    torch.nn.init.normal_(attention.rel_pos_w)
    expected = SamVisionAttention.forward(attention, tokens)[0]
    torch.testing.assert_close(attention(tokens)[0], expected, rtol=1e-4, atol=1e-5)


def test_attention_that_is_sure_gives_gradients_without_denormal_numbers(sam: TinySam) -> None:
    """Products with them took nearly as long as all else of a pretraining step."""
    attention = sam.vision_encoder.layers[0].attn
    queries_and_keys = attention.qkv.weight.data[:384]
    queries_and_keys *= 12
    seen: list[Tensor] = []
    tokens = torch.randn(2, 16, 16, 192, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: seen.append(saved) or saved, lambda saved: saved):
        attention(tokens)[0].sum().backward()
    weights = [saved for saved in seen if saved.shape[-2:] == (256, 256)]
    assert weights
    for saved in weights:
        assert not ((saved != 0) & (saved.abs() < torch.finfo(torch.float32).tiny)).any()


@torch.no_grad()
def test_prompts_of_several_images_are_answered_as_one_by_one(sam: TinySam) -> None:
    image, prompt, tokens = torch.randn(2, 3, 32, 48), torch.randn(6, 1, 16, 24), torch.randn(6, 2, 128)

    def answer(images: Tensor, part: slice) -> Tensor:
        dense = sam.prompt_encoder.mask_embed(prompt[part])
        return decode_masks(sam, sam.vision_encoder(images), tokens[part], dense, prompt[part])[0]

    together = answer(image, slice(None))
    assert together.shape == (6, 1, 16, 24)
    for index in range(6):
        alone = answer(image[index // 3 : index // 3 + 1], slice(index, index + 1))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_ambiguous_prompts_may_get_three_answers(sam: TinySam) -> None:
    encoded, prompt = sam.vision_encoder(torch.randn(1, 3, 32, 32)), torch.zeros(2, 1, 16, 16)
    dense = sam.prompt_encoder.mask_embed(prompt)
    masks, quality = decode_masks(sam, encoded, torch.randn(2, 2, 128), dense, prompt, multimask=True)
    assert masks.shape == (2, 3, 16, 16)
    assert quality.shape == (2, 3)


@torch.no_grad()
def test_each_part_of_the_prompt_is_heard(sam: TinySam) -> None:
    encoded, prompt, tokens = (
        sam.vision_encoder(torch.randn(1, 3, 32, 32)),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(1, 2, 128),
    )
    dense = sam.prompt_encoder.mask_embed(prompt)
    base = decode_masks(sam, encoded, tokens, dense, prompt)[0]
    for changed in ((tokens + 1, dense, prompt), (tokens, dense + 1, prompt), (tokens, dense, prompt + 1)):
        assert not torch.allclose(base, decode_masks(sam, encoded, *changed)[0], atol=1e-3)


def test_mask_maps_by_hand() -> None:
    maps = mask_maps(torch.tensor([0.0, 8.0, -100.0]).view(1, 1, 1, 3))
    torch.testing.assert_close(maps[0, :, 0], torch.tensor([[0.0, 0.99933, -1.0], [0.0, 0.5, -1.0]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("train", ["adapters", "all"])
def test_teacher_declares_exactly_what_gets_a_gradient(sam: TinySam, train: str) -> None:
    resize_input(sam, (32, 48))
    teacher = SamTeacher(sam, 3, train=train, adapter_init="default")
    F.cross_entropy(
        teacher(torch.rand(2, 1, 32, 48), torch.randn(2, 3, 32, 48)), torch.zeros(2, 32, 48).long()
    ).backward()
    with_gradient = {name for name, weight in teacher.named_parameters() if weight.grad is not None}
    assert with_gradient == set(teacher.trainable_parameter_names())


def test_a_drawn_box_is_positive_inside_and_falls_evenly() -> None:
    drawn = draw_boxes(torch.tensor([[0.25, 0.5, 0.75, 1.0]]), (8, 8))[0]
    box = torch.zeros(8, 8, dtype=torch.bool)
    box[4:, 2:6] = True
    assert torch.equal(drawn > 0, box)
    # Half a pixel from its middle in both directions, a quarter of its half side of two pixels.
    assert float(drawn[5, 3]) == pytest.approx(6 * (1 - 1 / 4))
    assert float(drawn[0, 0]) == -6
    assert torch.equal(drawn[:, 3], drawn[:, 4])


def test_drawn_points_are_spots_of_either_sign() -> None:
    point = torch.tensor([[3.5 / 8, 2.5 / 16], [3.5 / 8, 2.5 / 16]])
    spots = draw_points(point, torch.tensor([True, False]), (16, 8))
    assert float(spots[0, 2, 3]) == 12
    assert spots[0].argmax() == 2 * 8 + 3
    assert float(spots[0, 2, 5]) == pytest.approx(12 * math.exp(-4 / (2 * 2.5**2)), rel=1e-5)
    assert torch.equal(spots[1], -spots[0])

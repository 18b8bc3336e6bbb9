from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from knowsam.errors import InputError
from knowsam.sam.loading.original import load_original
from knowsam.sam.loading.resize import resize_input
from support.small_sam import SIDE, small_sam


@torch.no_grad()
def test_resize_input_to_the_same_size_changes_nothing() -> None:
    sam = small_sam()
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    assert resize_input(sam, (SIDE, SIDE)) == {}
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())


@torch.no_grad()
def test_resize_input_takes_images_that_are_not_square() -> None:
    sam = small_sam()
    resize_input(sam, (48, 80))
    assert sam.vision_encoder(torch.randn(1, 3, 48, 80))[0].shape[-2:] == (6, 10)


@torch.no_grad()
def test_resize_input_keeps_smooth_tables_and_leaves_windows_alone() -> None:
    sam = small_sam()
    encoder = sam.vision_encoder
    encoder.pos_embed.fill_(0.3)
    windowed, globally = encoder.layers[0].attn, encoder.layers[1].attn
    # A ramp over the relative distance -7..7 stays a ramp over -4..4, up to the rounding of linear interpolation.
    globally.rel_pos_h.copy_(torch.linspace(-1, 1, 15)[:, None].expand_as(globally.rel_pos_h))
    window_before = windowed.rel_pos_h.clone()
    resized = resize_input(sam, (40, 64))
    assert torch.allclose(encoder.pos_embed, torch.full((1, 5, 8, 16), 0.3))
    assert torch.equal(windowed.rel_pos_h, window_before)
    ramp = globally.rel_pos_h[:, 0]
    assert ramp.shape == (9,)
    torch.testing.assert_close(ramp, -ramp.flip(0))
    assert (ramp.diff() > 0).all()
    assert globally.rel_pos_w.shape[0] == 15  # the width kept its grid
    assert resized == {
        "vision_encoder.pos_embed": ([1, 8, 8, 16], [1, 5, 8, 16]),
        "vision_encoder.layers.1.attn.rel_pos_h": ([15, 8], [9, 8]),
    }


@pytest.mark.parametrize("size", [(256, 256), (384, 384), (512, 512), (1024, 1024), (192, 320)])
def test_only_the_positions_of_the_whole_grid_follow_the_input(golden: Path, size: tuple[int, int]) -> None:
    sam, _ = load_original(golden / "sam_small_original.pth", "golden")
    before = {name: value.shape for name, value in sam.state_dict().items()}
    resized = resize_input(sam, size)
    height, width = size[0] // 16, size[1] // 16
    changed = {name: tuple(v.shape) for name, v in sam.state_dict().items() if v.shape != before[name]}
    expected = {"vision_encoder.pos_embed": (1, height, width, 96)}
    for layer in (1, 3):
        expected[f"vision_encoder.layers.{layer}.attn.rel_pos_h"] = (2 * height - 1, 24)
        expected[f"vision_encoder.layers.{layer}.attn.rel_pos_w"] = (2 * width - 1, 24)
    assert changed == ({} if size == (256, 256) else expected)
    assert {name: tuple(new) for name, (_, new) in resized.items()} == changed


@torch.no_grad()
def test_relative_positions_are_resized_as_sam_itself_does_it(golden: Path) -> None:
    """SAM's own attention resizes its table at each call: left to do so, it must come to the same answer."""
    sam, _ = load_original(golden / "sam_small_original.pth", "golden")
    tables = [(layer.attn, layer.attn.rel_pos_h, layer.attn.rel_pos_w) for layer in sam.vision_encoder.layers]
    resize_input(sam, (96, 160))
    image = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    found = sam.vision_encoder(image)[0]
    for attention, rows, columns in tables:
        attention.rel_pos_h, attention.rel_pos_w = nn.Parameter(rows), nn.Parameter(columns)
    torch.testing.assert_close(found, sam.vision_encoder(image)[0])


@torch.no_grad()
def test_a_square_sam_of_another_size_takes_points_and_boxes_in_its_own_pixels() -> None:
    small, large = small_sam(), small_sam()
    resize_input(large, (2 * SIDE, 2 * SIDE))
    point, label = torch.tensor([[[[9.5, 29.5]]]]), torch.ones(1, 1, 1, dtype=torch.long)
    # Pixel centres: 2 * (x + 0.5) - 0.5.
    near = small.prompt_encoder(point, label, None, None)
    far = large.prompt_encoder(2 * point + 0.5, label, None, None)
    torch.testing.assert_close(near[0], far[0])
    assert far[1].shape[-2:] == (16, 16)
    answer = large(pixel_values=torch.rand(1, 3, 128, 128), input_points=point, input_labels=label)
    assert answer.pred_masks.shape[-2:] == (64, 64)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [((60, 64), r"60x64 was found.*multiples of 8"), ((64, 24), r"64x24 was found.*at least 32x32")],
)
def test_a_size_that_sam_cannot_be_resized_to_is_refused(size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        resize_input(small_sam(), size)

"""SAM 2 as a teacher, on random weights: parity with transformers' own pass, gradients, sizes, what is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import Sam2Config, Sam2Model

from knowsam.errors import InputError
from knowsam.functional.boxes import class_places
from knowsam.functional.pseudo_labels import largest_components
from knowsam.networks.enhance import FeatureEnhancement
from knowsam.sam import SamDistillation
from knowsam.sam.backbone.decode import decode_masks
from knowsam.sam.backbone.interface import Sam2Maps, interface_of
from knowsam.sam.loading.build import load_sam
from knowsam.sam.loading.hub import HUB_NAMES, load_folder
from knowsam.sam.loading.resize import resize_input
from knowsam.sam.loading.sizes import SIZES_2
from knowsam.sam.teacher import SamTeacher
from knowsam.types import IGNORE, Progress
from support.small_sam_2 import SIDE_2, small_sam_2, small_sam_2_folder

START = Progress(0, 100)


def nothing(count: int) -> dict[str, torch.Tensor]:
    """So many points that are none; transformers adds one by itself."""
    return {"input_points": torch.zeros(1, 1, count, 2), "input_labels": torch.full((1, 1, count), -1)}


@pytest.mark.parametrize("side", [SIDE_2, 96])
@pytest.mark.parametrize("prompt", ["mask", "box", "box+mask", "box+point"])
@torch.no_grad()
def test_at_step_0_it_answers_as_transformers_does(prompt: str, side: int) -> None:
    sam = small_sam_2()
    resize_input(sam, (side, side))
    given = torch.randn(1, 3, side, side) - 2
    given[:, 1, 8:30, 12:40] = 8
    image = torch.rand(1, 3, side, side)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (image - mean[:, None, None]) / std[:, None, None]
    mask = F.interpolate(given, (side // 4, side // 4), mode="bilinear")
    places = class_places(largest_components(given.argmax(dim=1), 3), 3)
    assert places.found.tolist() == [[False, True, True]]
    for k in range(3):
        asked: dict[str, Any] = {}
        if prompt in ("mask", "box+mask") or k == 0:
            asked["input_masks"] = mask[:, k : k + 1]
        if prompt == "mask" or k == 0:
            asked |= nothing({"mask": 1, "box": 2, "box+mask": 2, "box+point": 3}[prompt])
        else:
            asked["input_boxes"] = side * places.box[:, k : k + 1] - 0.5
            if prompt == "box+point":
                asked["input_points"] = side * places.point[:, k : k + 1, None] - 0.5
                asked["input_labels"] = torch.ones(1, 1, 1, dtype=torch.int64)
        own = sam(pixels, multimask_output=False, **asked).pred_masks[0, 0, 0]
        answer = SamTeacher(small_sam_2_at(side), 3, prompt=prompt).eval().masks(image, given)[0, k]
        torch.testing.assert_close(answer, own, rtol=1e-4, atol=1e-4)


def small_sam_2_at(side: int) -> Any:
    sam = small_sam_2()
    resize_input(sam, (side, side))
    return sam


@torch.no_grad()
def test_evaluation_answers_with_the_mask_that_learns() -> None:
    image, prompt = torch.rand(1, 1, 64, 64), torch.randn(1, 2, 64, 64)
    expected = SamTeacher(small_sam_2_at(64), 2).eval()(image, prompt)
    choosing = small_sam_2_at(64)
    choosing.mask_decoder.dynamic_multimask_via_stability = True  # as in the published files
    assert torch.equal(SamTeacher(choosing, 2).eval()(image, prompt), expected)


@pytest.mark.parametrize("train", ["adapters", "all"])
def test_exactly_what_is_declared_gets_a_gradient(train: str) -> None:
    sam = small_sam_2_at(SIDE_2)
    teacher = SamTeacher(sam, 3, train, adapter_init="default")
    torch.manual_seed(0)
    teacher(torch.rand(2, 1, SIDE_2, SIDE_2), torch.randn(2, 3, SIDE_2, SIDE_2)).square().mean().backward()
    learning = {name for name, parameter in teacher.named_parameters() if parameter.grad is not None}
    assert learning == set(teacher.trainable_parameter_names())
    assert all(bool(p.grad.abs().max() > 0) for name, p in teacher.named_parameters() if name in learning)
    blocks = len(sam.vision_encoder.backbone.blocks)
    assert sum(".attn.adapter.up.weight" in name for name in learning) == blocks
    assert sam.training == (train == "all")


def test_a_frozen_sam_2_stays_as_it_is() -> None:
    distillation = SamDistillation.from_name(small_sam_2_folder(), size=(64, 96), classes=3)
    assert distillation.teacher.train_mode == "adapters"
    frozen = {name: value.clone() for name, value in distillation.named_parameters() if not value.requires_grad}
    optimiser = torch.optim.Adam([p for p in distillation.parameters() if p.requires_grad], lr=0.1)
    label = torch.randint(0, 3, (2, 64, 96))
    for _ in range(2):
        student = torch.randn(2, 3, 64, 96, requires_grad=True)
        distillation(torch.rand(2, 1, 64, 96), [student], label, START).loss.backward()
        assert student.grad.abs().max() > 0
        optimiser.step()
        optimiser.zero_grad()
    now = dict(distillation.named_parameters())
    assert frozen
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_distillation_takes_it_unchanged() -> None:
    distillation = SamDistillation.from_name(small_sam_2_folder(), size=(64, 64), classes=2, prompt="box+point")
    label = torch.full((2, 64, 64), IGNORE)
    label[0] = 1
    regions = torch.zeros(2, 64, 64, dtype=torch.long)
    regions[:, 4:20, 4:20] = 1
    student = torch.randn(2, 2, 64, 64, requires_grad=True)
    step = distillation(torch.rand(2, 1, 64, 64), [student], label, START, regions=regions)
    assert step.logits.shape == (2, 2, 64, 64)
    assert step.loss.isfinite()
    assert set(step.terms) == {"sam_sup", "sam_kd"}


@pytest.mark.parametrize(
    ("size", "seen"), [((64, 96), (64, 96)), ((48, 80), (64, 96)), ((32, 48), (64, 64)), ((16, 256), (64, 256))]
)
@torch.no_grad()
def test_images_of_a_size_it_cannot_take_are_seen_at_the_next_larger_one(
    size: tuple[int, int], seen: tuple[int, int]
) -> None:
    teacher = SamDistillation.from_name(small_sam_2_folder(), size=size, classes=2).eval().teacher
    assert teacher.size == seen
    assert teacher(torch.rand(1, 1, *size), torch.randn(1, 2, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (80, r"image size 80x80 .* and, being a SAM 2, needs an even number of them; .* multiples of 32"),
        (72, r"image size 72x72 .* patches of 16 px; choose .* multiples of 16"),
        (32, r"image size 32x32 .* needs 4 of them along each side; choose .* at least 64x64"),
    ],
)
def test_a_size_that_was_asked_for_and_cannot_be_is_told(size: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SamDistillation.from_name(small_sam_2_folder(), size=(64, 64), classes=2, sam_size=size)


@torch.no_grad()
def test_a_published_file_is_that_of_a_video_model_whose_memory_is_left_out(tmp_path: Path) -> None:
    video = small_sam_2(video=True)
    video.save_pretrained(tmp_path / "sam2")
    sam, report = load_folder(tmp_path / "sam2", "mine")
    assert "memory of other frames is left out" in report.lines()[1]
    own = video.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in sam.state_dict().items())
    resize_input(sam, (64, 64))
    assert SamTeacher(sam, 2).eval()(torch.rand(1, 1, 64, 64), torch.randn(1, 2, 64, 64)).isfinite().all()


def test_a_file_that_lacks_a_weight_is_told(tmp_path: Path) -> None:
    sam = small_sam_2()
    state = {name: value for name, value in sam.state_dict().items() if name != "no_memory_embedding"}
    sam.save_pretrained(tmp_path / "sam2", state_dict=state)
    with pytest.raises(InputError, match=r"1 keys missing \(no_memory_embedding\)"):
        load_folder(tmp_path / "sam2", "mine")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_the_original_sam_2_is_told(tmp_path: Path, wrapped: bool) -> None:
    state = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(1)}
    torch.save({"model": state} if wrapped else state, tmp_path / "sam2.1_hiera_tiny.pt")
    with pytest.raises(InputError, match=r"a file of the original SAM 2 was found, .* sam=sam2_tiny"):
        load_sam(str(tmp_path / "sam2.1_hiera_tiny.pt"))


def test_a_sam_3_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam3_tracker"}')
    with pytest.raises(InputError, match=r"a SAM 3 \('sam3_tracker'\) was found, but expected a SAM or SAM 2"):
        load_folder(tmp_path, "mine")


def test_every_size_has_a_repository() -> None:
    assert {name for name in HUB_NAMES if name.startswith("sam2")} == set(SIZES_2)


@pytest.mark.slow
def test_the_smallest_published_size_with_random_weights() -> None:
    sam, report = load_sam("sam2_tiny", pretrained=False)
    assert report.made_for == 1024
    assert report.sizes["patch_px"] == 16
    with torch.device("meta"):
        default = Sam2Model(Sam2Config())  # is of this size
    assert {name: value.shape for name, value in sam.state_dict().items()} == {
        name: value.shape for name, value in default.state_dict().items()
    }
    assert (interface_of(sam).patch(sam), interface_of(sam).multiple(sam)) == (16, 32)


def test_dfe_takes_its_three_maps_and_the_decoder_what_dfe_gives() -> None:
    """The published SAM 2 hands its decoder 32, 64 and 256 channels."""
    sam, dfe = small_sam_2(channels=256), FeatureEnhancement([256, 32, 64])
    torch.manual_seed(0)
    for parameter in dfe.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    first, second = (interface_of(sam).encode(sam, torch.rand(1, 3, 64, 64)) for _ in range(2))
    assert [one.shape[1:] for one in second] == [(256, 4, 4), (32, 16, 16), (64, 8, 8)]
    enhanced = Sam2Maps(*dfe(first, second))
    tokens, dense = torch.zeros(1, 2, 256), torch.zeros(1, 256, 4, 4)
    masks, _ = decode_masks(sam, enhanced, tokens, dense, torch.zeros(1, 1, 16, 16))
    plain, _ = decode_masks(sam, second, tokens, dense, torch.zeros(1, 1, 16, 16))
    assert masks.shape == plain.shape == (1, 1, 16, 16)
    assert not torch.equal(masks, plain)
    masks.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in dfe.parameters())

from __future__ import annotations

import dataclasses
import json
import shutil
from hashlib import sha256
from pathlib import Path
from unittest import mock

import pytest
import torch

from knowsam.errors import InputError
from knowsam.sam.backbone.decode import decode_masks
from knowsam.sam.backbone.tiny import draw_boxes, draw_points, read_config, tiny_sam
from knowsam.sam.loading.build import TINY, build_sam
from knowsam.sam.pretrain.loop import build_optimiser, pretrain
from knowsam.sam.pretrain.promptable import PromptableSam, intersection_over_union, mask_loss, step_losses
from knowsam.sam.pretrain.steps import BOX, MASK, MASK_AND_POINT, POINT, PretrainConfig, draw_step
from knowsam.sam.teacher import PIXEL_MEAN, PIXEL_STD
from support.small_sam import SIDE, small_sam

TINY_RUN = PretrainConfig(steps=4, images=2, prompts=2, sizes=(32, 48), check_every=2)


@pytest.fixture
def prompts() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "logits": torch.randn(2, SIDE // 2, SIDE // 2), "point": torch.tensor([[10.5, 20.5], [40.5, 7.5]]) / SIDE,
        "inside": torch.tensor([True, False]),
        "box": torch.tensor([[4.0, 8.0, 20.0, 30.0], [0.0, 3.0, 50.0, 60.0]]) / SIDE,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [BOX, POINT, MASK_AND_POINT])
@torch.no_grad()
def test_answers_are_those_of_sams_own_pass(kind: int, prompts: dict[str, torch.Tensor]) -> None:
    sam, image = small_sam(), torch.rand(2, 3, SIDE, SIDE)
    model = PromptableSam(sam).eval()
    found, quality = model.answer(model.encode(image), torch.full((2,), kind), **prompts)
    # SAM counts pixels, and adds half of one itself.
    given: dict[str, torch.Tensor] = {}
    if kind == BOX:
        given = {"input_boxes": (prompts["box"] * SIDE - 0.5)[:, None]}
    else:
        given = {"input_points": (prompts["point"] * SIDE - 0.5)[:, None, None]}
        given["input_labels"] = prompts["inside"].long()[:, None, None]
    if kind == MASK_AND_POINT:
        given["input_masks"] = prompts["logits"][:, None]
    pixels = (image - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    expected = sam(pixels, **given, multimask_output=False)
    torch.testing.assert_close(found, expected.pred_masks[:, 0, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quality, expected.iou_scores[:, 0, 0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_mask_prompt_alone_listens_to_neither_point_nor_box(prompts: dict[str, torch.Tensor]) -> None:
    model = PromptableSam(small_sam()).eval()
    encoded, kind = model.encode(torch.rand(2, 3, SIDE, SIDE)), torch.full((2,), MASK)
    before = model.answer(encoded, kind, **prompts)[0]
    other = prompts | {"point": prompts["point"] / 2, "box": prompts["box"] / 2}
    assert torch.equal(before, model.answer(encoded, kind, **other)[0])
    assert not torch.equal(before, model.answer(encoded, kind, **prompts | {"logits": -prompts["logits"]})[0])


def test_mask_loss_by_hand() -> None:
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    logits = torch.zeros(2, 2, 2)
    loss, iou = mask_loss(logits, torch.tensor([0.5, 0.0]), target, torch.tensor([1.0, 0.0]))
    # p = 1/2: BCE log 2; Dice 1 - (2 * .5 + 1) / (2 + 1 + 1); no logit is above 0, so that the IoU is 0.
    assert float(loss) == pytest.approx(0.6931 + 0.5 + 0.25, abs=1e-4)
    assert float(iou) == 0


def test_mask_loss_of_a_right_and_certain_answer_is_small() -> None:
    target = (torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    loss, iou = mask_loss(40 * target - 20, torch.ones(3), target, torch.ones(3))
    assert float(loss) < 1e-4
    assert float(iou) == 1


def test_mask_loss_without_any_object_is_zero() -> None:
    loss, _ = mask_loss(torch.randn(2, 4, 4), torch.zeros(2), torch.zeros(2, 4, 4), torch.zeros(2))
    assert float(loss) == 0


def test_intersection_over_union_by_hand() -> None:
    first = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
    second = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]]).bool()
    assert intersection_over_union(first, second).tolist() == pytest.approx([1 / 3, 1])


def test_a_step_is_drawn_from_its_number_and_seed_alone() -> None:
    first, again, next_step = (draw_step(TINY_RUN, 8, step, 0, (0.0, 1.0)) for step in (3, 3, 2))
    assert all(torch.equal(getattr(first, f.name), getattr(again, f.name)) for f in dataclasses.fields(first))
    assert first.image.shape != next_step.image.shape or not torch.equal(first.image, next_step.image)


def test_all_kinds_of_prompts_are_drawn() -> None:
    config = dataclasses.replace(TINY_RUN, images=8, prompts=8)
    assert set(draw_step(config, 8, 0, 0, (0.0, 1.0)).kind.tolist()) == {MASK, MASK_AND_POINT, BOX, POINT}


@torch.no_grad()
def test_a_tiny_sam_sees_boxes_and_points_where_it_sees_masks(prompts: dict[str, torch.Tensor]) -> None:
    model = PromptableSam(tiny_sam(read_config(TINY))).eval()
    encoded = model.encode(torch.rand(2, 3, SIDE, SIDE))
    size = (SIDE // 2, SIDE // 2)

    def dense(kind: int) -> torch.Tensor:
        with mock.patch("knowsam.sam.pretrain.promptable.decode_masks", wraps=decode_masks) as decode:
            model.answer(encoded, torch.full((2,), kind), **prompts)
        return decode.call_args.args[4][:, 0]

    spots = draw_points(prompts["point"], prompts["inside"], size)
    assert torch.equal(dense(MASK), prompts["logits"])
    assert torch.equal(dense(MASK_AND_POINT), prompts["logits"] + spots)
    assert torch.equal(dense(POINT), spots)
    assert torch.equal(dense(BOX), draw_boxes(prompts["box"], size))


def test_every_weight_that_answers_gets_a_gradient() -> None:
    model = PromptableSam(tiny_sam(read_config(TINY)))
    data = draw_step(dataclasses.replace(TINY_RUN, steps=1, images=2, prompts=4, sizes=(32,)), 8, 0, 0, (0.0, 1.0))
    data.kind[:4] = torch.arange(4)
    terms = step_losses(model, data, torch.Generator().manual_seed(0))
    sum(terms[name] for name in ("first", "second", "outline_coarse", "outline_fine")).backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    # The frequencies of positions are fixed; the three masks for ambiguous prompts are not asked for.
    assert all("positional_embedding" in name or "output_hypernetworks_mlps" in name for name in without)
    optimised = {id(weight) for group in build_optimiser(model, TINY_RUN).param_groups for weight in group["params"]}
    assert optimised == {id(weight) for weight in model.parameters() if weight.requires_grad}


def test_a_step_is_computed_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's device without data stands for any GPU: two tensors of different devices are an error."""

    def points(region: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros(len(region), 2, device=region.device)  # the real one draws on the CPU

    monkeypatch.setattr("knowsam.sam.pretrain.promptable.points_in", points)
    model = PromptableSam(tiny_sam(read_config(TINY))).to("meta")
    data = draw_step(TINY_RUN, 8, 0, 0, (0.0, 1.0)).to("meta")
    terms = step_losses(model, data, torch.Generator().manual_seed(0))
    assert {value.device.type for value in terms.values()} == {"meta"}


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_device_of_a_run_is_asked_for(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_RUN, steps=1)
    assert pretrain(config, tmp_path / "run", quiet=True, device="cpu")
    with pytest.raises(InputError, match="device: 'meta' was found"):
        pretrain(config, tmp_path / "other", quiet=True, device="meta")


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    assert pretrain(TINY_RUN, tmp_path / "whole", quiet=True)
    seen = iter([False, False, True])
    assert not pretrain(TINY_RUN, tmp_path / "parts", quiet=True, asked_to_stop=lambda: next(seen))
    assert pretrain(TINY_RUN, tmp_path / "parts", quiet=True)
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    records = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    sam, report = build_sam(str(tmp_path / "whole"), (48, 32))
    assert report.pretrained
    assert sam.vision_encoder(torch.rand(1, 3, 48, 32))[0].shape[-2:] == (6, 4)


@pytest.mark.subprocess
def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    pretrain(dataclasses.replace(TINY_RUN, steps=1), tmp_path / "run", quiet=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match="another steps, seed was found, but expected the same settings"):
        pretrain(dataclasses.replace(TINY_RUN, steps=2, seed=1), tmp_path / "run", quiet=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="files but no checkpoint"):
        pretrain(TINY_RUN, tmp_path / "mine", quiet=True)


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_run_can_begin_with_the_weights_of_another(tmp_path: Path) -> None:
    unmoved = dataclasses.replace(TINY_RUN, steps=1, lr=0.0)
    pretrain(dataclasses.replace(unmoved, seed=1), tmp_path / "first", quiet=True)
    pretrain(dataclasses.replace(unmoved, start=str(tmp_path / "first")), tmp_path / "second", quiet=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "first" / "pretrain.json").read_text())["start_sha256"] is None
    settings = json.loads((tmp_path / "second" / "pretrain.json").read_text())
    assert settings["start_sha256"] == sha256(weights[0]).hexdigest()


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_run_goes_on_without_the_weights_it_began_with(tmp_path: Path) -> None:
    pretrain(dataclasses.replace(TINY_RUN, steps=1), tmp_path / "first", quiet=True)
    config = dataclasses.replace(TINY_RUN, start=str(tmp_path / "first"))
    assert pretrain(config, tmp_path / "whole", quiet=True)
    assert not pretrain(config, tmp_path / "parts", quiet=True, asked_to_stop=lambda: True)
    shutil.rmtree(tmp_path / "first")
    assert pretrain(config, tmp_path / "parts", quiet=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_run_cannot_begin_with_another_sam(tmp_path: Path) -> None:
    small_sam().save_pretrained(tmp_path / "published")
    with pytest.raises(InputError, match=r"--start: '.*published' holds a SamModel, but expected the small SAM"):
        pretrain(dataclasses.replace(TINY_RUN, start=str(tmp_path / "published")), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_size_that_is_no_multiple_of_the_patch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--sizes: 100 was found, but expected multiples of 8 from 32 on"):
        pretrain(dataclasses.replace(TINY_RUN, sizes=(96, 100)), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sam import SIDE, small_sam

from knowsam.config import SamConfig
from knowsam.errors import InputError
from knowsam.sam.build import build_sam, resize_input
from knowsam.train import build_distillation


@pytest.fixture
def sam_folder(tmp_path: Path) -> Path:
    small_sam().save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


@torch.no_grad()
def test_tiny_lets_the_signal_through() -> None:
    torch.manual_seed(0)
    sam, is_pretrained = build_sam("tiny", (32, 48))
    embedding = sam.vision_encoder(torch.randn(2, 3, 32, 48))[0]
    assert not is_pretrained
    assert embedding.shape[-2:] == (4, 6)
    assert (embedding[0] - embedding[1]).abs().mean() > 0.1  # transformers' own initialisation gives 1e-10


@torch.no_grad()
def test_a_hugging_face_directory_is_loaded_with_all_its_weights(sam_folder: Path) -> None:
    sam, is_pretrained = build_sam(str(sam_folder), (SIDE, SIDE))
    assert is_pretrained
    original = small_sam().state_dict()
    assert sam.state_dict().keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in sam.state_dict().items())


@pytest.mark.parametrize(("train", "mode"), [("auto", "adapters"), ("all", "all")])
def test_pretrained_weights_are_frozen_unless_asked_otherwise(sam_folder: Path, train: str, mode: str) -> None:
    teacher = build_distillation(SamConfig(name=str(sam_folder), train=train), (32, 48), 2).teacher
    assert teacher.train_mode == mode


def test_random_weights_all_learn_by_default() -> None:
    assert build_distillation(SamConfig(name="tiny"), (32, 32), 2).teacher.train_mode == "all"
    assert build_distillation(SamConfig(name="tiny", train="adapters"), (32, 32), 2).teacher.train_mode == "adapters"


@torch.no_grad()
def test_resize_input_to_the_same_size_changes_nothing() -> None:
    sam = small_sam()
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    resize_input(sam, (SIDE, SIDE))
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
    resize_input(sam, (40, 64))
    assert torch.allclose(encoder.pos_embed, torch.full((1, 5, 8, 16), 0.3))
    assert torch.equal(windowed.rel_pos_h, window_before)
    ramp = globally.rel_pos_h[:, 0]
    assert ramp.shape == (9,)
    torch.testing.assert_close(ramp, -ramp.flip(0))
    assert (ramp.diff() > 0).all()
    assert globally.rel_pos_w.shape[0] == 15  # the width kept its grid


def test_resize_input_refuses_a_size_that_the_patch_does_not_divide() -> None:
    with pytest.raises(InputError, match=r"image size 60x64 was found.*multiples of 8"):
        resize_input(small_sam(), (60, 64))


def test_an_unknown_name_or_path_is_named_with_what_is_known() -> None:
    with pytest.raises(InputError, match="'vit_x' was found, but expected one of none, tiny, vit_b"):
        build_sam("vit_x", (32, 32))
    with pytest.raises(InputError, match=r"'no/such/folder' was found.*check the spelling or the path"):
        build_sam("no/such/folder", (32, 32))


def test_weights_that_cannot_be_had_are_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise OSError("We couldn't connect to the hub\nand much more")

    monkeypatch.setattr("transformers.SamModel.from_pretrained", offline)
    with pytest.raises(
        InputError, match=r"'vit_b' could not be loaded from facebook/sam-vit-base.*use sam=tiny"
    ) as error:
        build_sam("vit_b", (32, 32))
    assert "\n" not in str(error.value)


def test_an_empty_directory_is_no_sam(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could not be loaded from.*expected a Hugging Face directory") as error:
        build_sam(str(tmp_path), (32, 32))
    assert str(tmp_path) in str(error.value)


def test_a_directory_of_another_model_is_no_sam(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    save_file({"bert.weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=str(tmp_path)):
        build_sam(str(tmp_path), (32, 32))


def test_a_directory_with_a_weight_missing_is_refused_and_the_weight_named(sam_folder: Path) -> None:
    weights = load_file(sam_folder / "model.safetensors")
    del weights["vision_encoder.pos_embed"]
    save_file(weights, sam_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing_keys.*vision_encoder.pos_embed"):
        build_sam(str(sam_folder), (32, 32))


def test_a_truncated_weight_file_is_told_in_one_sentence(sam_folder: Path) -> None:
    file = sam_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="could not be loaded from"):
        build_sam(str(sam_folder), (32, 32))


def test_no_sam_is_no_distillation() -> None:
    assert build_distillation(SamConfig(name="none"), (32, 32), 2) is None

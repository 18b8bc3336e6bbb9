from __future__ import annotations

from pathlib import Path

import pytest
import torch
from original_files import published_sam, save_original
from small_sam import SIDE, small_sam

from knowsam.config import SamConfig
from knowsam.errors import InputError
from knowsam.sam.build import absolute_name, build_sam
from knowsam.train import build_distillation


@pytest.fixture
def sam_folder(tmp_path: Path) -> Path:
    small_sam().save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


@torch.no_grad()
def test_tiny_lets_the_signal_through() -> None:
    torch.manual_seed(0)
    sam, report = build_sam("tiny", (32, 48))
    embedding = sam.vision_encoder(torch.randn(2, 3, 32, 48))[0]
    assert not report.pretrained
    assert embedding.shape[-2:] == (4, 6)
    assert (embedding[0] - embedding[1]).abs().mean() > 0.1  # transformers' own initialisation gives 1e-10


@torch.no_grad()
def test_a_directory_is_loaded_and_resized_to_the_input(sam_folder: Path) -> None:
    sam, report = build_sam(str(sam_folder), (SIDE, 48))
    assert report.pretrained
    assert sam.training
    assert sam.vision_encoder(torch.rand(1, 3, SIDE, 48))[0].shape[-2:] == (8, 6)
    assert sorted(report.resized) == ["vision_encoder.layers.1.attn.rel_pos_w", "vision_encoder.pos_embed"]


@torch.no_grad()
def test_a_file_is_loaded_and_resized_to_the_input(tmp_path: Path) -> None:
    sam, report = build_sam(str(save_original(tmp_path / "sam.pth")), (SIDE, SIDE))
    assert report.pretrained
    image = torch.rand(1, 3, SIDE, SIDE)
    assert torch.equal(sam.vision_encoder(image)[0], published_sam().vision_encoder(image)[0])


@pytest.mark.parametrize(("train", "mode"), [("auto", "adapters"), ("all", "all")])
def test_pretrained_weights_are_frozen_unless_asked_otherwise(sam_folder: Path, train: str, mode: str) -> None:
    teacher = build_distillation(SamConfig(name=str(sam_folder), train=train), (32, 48), 2).teacher
    assert teacher.train_mode == mode
    assert teacher.base.source == str(sam_folder)


def test_random_weights_all_learn_by_default() -> None:
    assert build_distillation(SamConfig(name="tiny"), (32, 32), 2).teacher.train_mode == "all"
    assert build_distillation(SamConfig(name="tiny", train="adapters"), (32, 32), 2).teacher.train_mode == "adapters"


def test_an_unknown_name_is_told_with_what_is_known() -> None:
    with pytest.raises(InputError, match=r"'vit_x' was found, but expected one of none, tiny, vit_b.*did you mean"):
        build_sam("vit_x", (32, 32))


@pytest.mark.parametrize("name", ["no/such/folder", "sam.pth", "~/no/such.pth"])
def test_a_path_that_does_not_exist_is_told_and_asks_no_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(InputError, match=f"'{name}' was found, but there is no such file.*check the path"):
        build_sam(name, (32, 32))


def test_a_path_becomes_absolute_and_a_name_stays(sam_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sam_folder.parent)
    assert absolute_name("sam") == str(sam_folder.resolve())
    (sam_folder.parent / "tiny").mkdir()
    assert absolute_name("tiny") == "tiny"


def test_no_sam_is_no_distillation() -> None:
    assert build_distillation(SamConfig(name="none"), (32, 32), 2) is None

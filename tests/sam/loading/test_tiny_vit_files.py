"""Files of LiteMedSAM's and MobileSAM's layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from knowsam.errors import InputError
from knowsam.sam.loading.build import build_sam
from knowsam.sam.loading.original import load_original
from knowsam.sam.loading.sizes import TinyVitSizes
from knowsam.sam.loading.tiny_vit import read_sizes
from support.original_sam import original_state, published_sam
from support.tiny_vit_sams import SMALL, save_tiny_vit, small_tiny_vit_sam, tiny_vit_state


@pytest.mark.parametrize("strided", [False, True], ids=["LiteMedSAM", "MobileSAM"])
@torch.no_grad()
def test_a_saved_model_comes_back_whole(tmp_path: Path, strided: bool) -> None:
    found, report = load_original(save_tiny_vit(tmp_path / "sam.pt", strided), "mine")
    expected = small_tiny_vit_sam(strided).state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    assert not any(value.is_meta for value in found.buffers())
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(found.vision_encoder(image)[0], small_tiny_vit_sam(strided).vision_encoder(image)[0])
    assert report.made_for == (1024 if strided else 256)
    assert report.pixels == ("sam" if strided else "unit")
    assert report.sizes == {
        "class": "TinyVitSam", "width": 16, "layers": 5, "heads": 4, "patch_px": 16 if strided else 4,
        "window_tokens": 2, "global_layers": [],
    }  # fmt: skip
    assert f"patch {16 if strided else 4} px" in report.lines()[0]


@pytest.mark.parametrize("strided", [False, True])
def test_sizes_are_read_off_the_tensors(strided: bool) -> None:
    state = tiny_vit_state(small_tiny_vit_sam(strided))
    assert read_sizes(state, Path("sam.pt")) == TinyVitSizes(strided=strided, **SMALL)


def test_the_classifier_that_mobile_sam_still_holds_is_passed_over_and_told(tmp_path: Path) -> None:
    head = {"image_encoder.norm_head.weight": torch.ones(16), "image_encoder.head.bias": torch.zeros(10)}
    report = load_original(save_tiny_vit(tmp_path / "mobile_sam.pt", True, **head), "mine")[1]
    assert set(report.unused) == set(head)
    assert "sam: unused: image_encoder.head.bias (of the classifier that the encoder once was)" in report.lines()


FIRST, BIASES = "image_encoder.patch_embed.seq.0.c.weight", "image_encoder.layers.1.blocks.0.attn.attention_biases"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_encoder.neck.3.bias": None}, r"1 keys missing \(vision_encoder.neck.layer_norm2.bias\)"),
        ({"image_encoder.layers.2.blocks.0.mlp.fc1.weight": None}, r"1 keys missing \(image_encoder.layers.2.*fc1"),
        ({"image_encoder.extra": torch.zeros(1)}, r"1 keys unused \(vision_encoder.extra\)"),
        ({FIRST: torch.zeros(4, 3, 5, 5)}, "covers 5x5 px.*expected 1x1 px as in LiteMedSAM or 3x3"),
        ({BIASES: torch.zeros(2, 5)}, r"\[5, 25, 9\] biases.*squares"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = save_tiny_vit(tmp_path / "sam.pt", **changes)
    with pytest.raises(InputError, match=sentence) as error:
        load_original(path, "mine")
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("size", "wanted"), [((30, 32), "multiples of 4"), ((12, 64), "of at least 16x16")])
def test_a_size_whose_windows_cannot_be_made_is_told(tmp_path: Path, size: tuple[int, int], wanted: str) -> None:
    path = save_tiny_vit(tmp_path / "sam.pt")
    with pytest.raises(InputError, match=f"image size {size[0]}x{size[1]} was found.*sam.size.*{wanted}"):
        build_sam(str(path), size)


@pytest.mark.parametrize(
    ("file", "pixels"),
    [("medsam_vit_b.pth", "unit"), ("MedSAM-mine.pth", "unit"), ("sam-med2d_b.pth", "sam"), ("sam_vit_b.pth", "sam")],
)
def test_pixel_values_follow_the_name_of_a_file(tmp_path: Path, file: str, pixels: str) -> None:
    torch.save(original_state(published_sam()), tmp_path / file)
    assert load_original(tmp_path / file, str(tmp_path / file))[1].pixels == pixels

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from knowsam.errors import InputError
from knowsam.sam.loading.original import load_original
from support.original_sam import original_state, published_sam, save_original
from support.small_sam import SIDE, TOKENS, WIDTH


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def prompt() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(2, 3, SIDE, SIDE, generator=generator),
        "input_points": torch.tensor([[[[20.0, 30.0]]], [[[5.0, 40.0]]]]),
        "input_labels": torch.ones(2, 1, 1, dtype=torch.long),
        "input_masks": torch.randn(2, 1, SIDE // 2, SIDE // 2, generator=generator),
    }


@torch.no_grad()
@pytest.mark.parametrize("kind", ["box", "mask", "points_and_mask"])
def test_the_original_model_and_ours_answer_a_prompt_alike(golden: Path, kind: str) -> None:
    tensors = load_file(golden / "sam_small_original_io.safetensors")
    sam, _ = load_original(golden / "sam_small_original.pth", "golden")
    prompts: dict[str, Tensor] = {}
    if kind == "box":
        prompts["input_boxes"] = tensors["box_xyxy"][:, None]
    else:
        prompts["input_masks"] = tensors["mask_prompt"]
    if kind == "points_and_mask":
        prompts["input_points"] = tensors["points_xy"][:, None]
        prompts["input_labels"] = tensors["point_labels"][:, None]
    assert relative(sam.vision_encoder(tensors["image"])[0], tensors["image_embedding"]) < 1e-4
    answer = sam(pixel_values=tensors["image"], multimask_output=False, **prompts)
    assert relative(answer.pred_masks[:, 0], tensors[f"{kind}.mask_logits"]) < 1e-4
    assert relative(answer.iou_scores[:, 0], tensors[f"{kind}.iou"]) < 1e-4


def test_the_sizes_of_the_original_model_are_read_off_its_tensors(golden: Path) -> None:
    report = load_original(golden / "sam_small_original.pth", "golden")[1]
    assert report.sizes == {
        "class": "SamModel", "width": 96, "layers": 4, "heads": 4, "patch_px": 16, "window_tokens": 7,
        "global_layers": [1, 3],
    }  # fmt: skip
    assert report.unused == report.resized == {}


@torch.no_grad()
@pytest.mark.parametrize("kind", [{}, {"hq": True}, {"med2d": True}], ids=["sam", "sam_hq", "sam_med2d"])
def test_a_saved_model_comes_back_whole(tmp_path: Path, prompt: dict[str, Tensor], kind: dict[str, bool]) -> None:
    expected = published_sam(**kind)
    found, report = load_original(save_original(tmp_path / "sam.pth", expected), "mine")
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    assert torch.equal(found(**prompt).pred_masks, expected(**prompt).pred_masks)
    assert report.sizes["class"] == ("SamHQModel" if "hq" in kind else "SamModel")
    assert report.sizes["heads"] == 2
    assert report.parameters == sum(parameter.numel() for parameter in expected.parameters())
    assert not found.training


WRAPPERS: list[tuple[Any, list[str]]] = [
    (lambda state: {"model": state, "optimizer": {"lr": 0.1}, "epoch": 3}, ["epoch", "optimizer"]),
    (lambda state: {f"module.{key}": value for key, value in state.items()}, []),
    (lambda state: {"state_dict": {f"sam.{key}": value for key, value in state.items()}}, []),
    (lambda state: {**state, "pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)},
     ["pixel_mean", "pixel_std"]),
    (lambda state: {key: value.half() for key, value in state.items()}, []),
]  # fmt: skip


@pytest.mark.parametrize(("wrap", "unused"), WRAPPERS, ids=["medsam", "module", "state_dict", "pixels", "half"])
def test_wrappers_are_opened_and_what_lay_beside_the_model_is_reported(
    tmp_path: Path, wrap: Any, unused: list[str]
) -> None:
    state = original_state(published_sam())
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    sam, report = load_original(tmp_path / "wrapped.pth", "mine")
    assert sorted(report.unused) == unused
    assert all(report.unused.values())
    table = sam.vision_encoder.pos_embed
    assert table.dtype == torch.float32
    torch.testing.assert_close(table.detach(), state["image_encoder.pos_embed"], rtol=1e-3, atol=1e-3)


def test_windows_as_large_as_the_grid_leave_all_layers_global(tmp_path: Path) -> None:
    table = torch.zeros(2 * SIDE // 8 - 1, WIDTH // 2)
    changes = {f"image_encoder.blocks.0.attn.rel_pos_{side}": table for side in "hw"}
    report = load_original(save_original(tmp_path / "sam.pth", **changes), "mine")[1]
    assert report.sizes["global_layers"] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_encoder.neck.3.bias": None}, r"1 keys missing \(vision_encoder.neck.layer_norm2.bias\)"),
        ({"image_encoder.pos_embed": None}, r"1 keys missing \(image_encoder.pos_embed\)"),
        ({"image_encoder.extra.weight": torch.zeros(1)}, r"1 keys unused \(vision_encoder.extra.weight\)"),
        ({"note": "a word"}, r"1 keys unused \(note\)"),
        ({"image_encoder.neck.3.bias": torch.zeros(3)}, r"of another shape .*\[3\] instead of \[32\]"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(6, 8)}, r"\[6, 15\] relative positions.*expected 15"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": None}, "1 tables of relative positions in 2 layers"),
        ({"image_encoder.pos_embed": torch.zeros(1, 8, 4, WIDTH)}, "grid of 8x4 tokens.*expected 3 channels, a square"),
        ({"image_encoder.pos_embed": torch.zeros(8, WIDTH)}, "sizes do not go together"),
        ({"mask_decoder.mask_tokens.weight": torch.zeros(4, TOKENS + 2)}, "sizes do not go together"),
    ],
)  # fmt: skip
def test_a_key_too_many_too_few_or_of_another_shape_is_named(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = save_original(tmp_path / "sam.pth", **changes)
    with pytest.raises(InputError, match=sentence) as error:
        load_original(path, "mine")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    path = save_original(tmp_path / "sam.pth")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"sam\.pth: broken or truncated.*expected a complete state dict"):
        load_original(path, "mine")


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "sam.pth").touch()
    with pytest.raises(InputError, match="the file is empty"):
        load_original(tmp_path / "sam.pth", "mine")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"trunk.weight": torch.zeros(2)}, "trunk.weight and no 'image_encoder"),
        ([1, 2], "list and no"),
        ({}, "dict and no"),
    ],
)
def test_a_file_of_something_else_is_no_sam(tmp_path: Path, content: Any, found: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=f"other.pth: {found}"):
        load_original(tmp_path / "other.pth", "mine")


class Planted:
    """Runs code when unpickled without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("planted"),)  # type: ignore[return-value]


def test_a_file_with_code_in_it_is_refused_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**original_state(published_sam()), "trap": Planted()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match=r"objects other than tensors.*save its state dict alone"):
        load_original(tmp_path / "trap.pth", "mine")
    assert not (tmp_path / "planted").exists()

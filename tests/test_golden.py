"""Agreement with tensors made by the original modules on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from knowsam.functional import losses
from knowsam.networks import CoTrainedStudents
from knowsam.networks.cotrained import agreement_map

UNET = {
    **{f"encoder.{i}": f"down{i}.maxpool_conv.1.conv_conv" for i in range(1, 5)},
    **{f"decoder.{i}": f"up{i + 1}.conv.conv_conv" for i in range(4)},
    **{f"up.{i}": f"up{i + 1}.up" for i in range(4)},
    "encoder.0": "in_conv.conv_conv",
    "head": "out_conv",
}
STAGES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VNET = {
    **{f"encoder.{i}": f"block_{STAGES[i]}.conv" for i in range(5)},
    **{f"down.{i}": f"block_{STAGES[i]}_dw.conv" for i in range(4)},
    **{f"up.{i}": f"block_{STAGES[i + 4]}_up.conv" for i in range(4)},
    **{f"decoder.{i}": f"block_{STAGES[i + 5]}.conv" for i in range(4)},
    "head": "out_conv",
}
FUSION = {
    "ambiguity": "ambiguous_conv",
    "uncertainty": "entmap_conv",
    "logits": "logits_conv",
    "fuse": "final_conv",
}


def original_name(name: str) -> str:
    """Our parameter's name in the original state dict."""
    network, rest = name.split(".", 1)
    table, prefix = {
        "unet": (UNET, "weights.UNet"),
        "vnet": (VNET, "weights.VNet"),
        "fusion": (FUSION, "weights.Discriminator"),
    }[network]
    ours = next(key for key in table if rest.startswith(f"{key}."))
    tail = rest.removeprefix(f"{ours}.")
    if network == "vnet" and ours.startswith(("encoder", "decoder")):
        layer, inner, kind = tail.split(".")  # ours: layers of (convolution, ReLU); the original: one flat list
        assert inner == "0"
        tail = f"{2 * int(layer)}.{kind}"
    return f"{prefix}.{table[ours]}.{tail}"


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def tensors(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "students_k2.safetensors")


@pytest.fixture
def students(tensors: dict[str, Tensor]) -> nn.Module:
    model = CoTrainedStudents(3, 2)
    names = {name: original_name(name) for name in model.state_dict()}
    assert set(names.values()) == {name for name in tensors if name.startswith("weights.")}
    assert len(set(names.values())) == len(names)
    state = {ours: tensors[theirs] for ours, theirs in names.items()}
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True)
    return model.eval()


@torch.no_grad()
def test_students_agree_with_the_original_modules(students: nn.Module, tensors: dict[str, Tensor]) -> None:
    outputs = students.outputs(tensors["io.image"])
    for name, logits in outputs.items():
        assert relative(logits, tensors[f"io.{name}_logits"]) < 1e-4, name


@torch.no_grad()
def test_fusion_head_agrees_on_the_original_students_logits(students: nn.Module, tensors: dict[str, Tensor]) -> None:
    unet_logits, vnet_logits = tensors["io.unet_logits"], tensors["io.vnet_logits"]
    # Both answers must occur, or the ambiguity input would be a constant that this test cannot see.
    assert 0.05 < agreement_map(unet_logits, vnet_logits).float().mean() < 0.95
    assert relative(students.fusion(unet_logits, vnet_logits), tensors["io.fused_logits"]) < 1e-4


def test_losses_agree_with_the_original_functions(golden: Path) -> None:
    inputs = load_file(golden / "losses_k2.safetensors")
    expected = json.loads((golden / "losses_k2.json").read_text())
    student, other = inputs["student_logits"], inputs["other_logits"]
    found = {
        "cross_entropy": losses.cross_entropy(student, inputs["label"]),
        "dice_loss": losses.dice_loss(student, inputs["label"]),
        "entropy_loss": losses.entropy_loss(student),
        "kd_loss_T10": losses.distillation_loss(student, inputs["sam_logits"], temperature=10.0),
        "cross_consistency_student_vs_detached_other": losses.cross_consistency_loss(student, other),
    }
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-4), name

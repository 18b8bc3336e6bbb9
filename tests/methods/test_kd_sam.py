"""KD SAM's phase B: which part learns, by which loss, and that its file stands alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from knowsam.errors import InputError
from knowsam.inference.export import export
from knowsam.networks.registry import build_network
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import load_student
from knowsam.sam.backbone.student import student_of
from knowsam.sam.loading.write import write_sam
from knowsam.training.run import train
from knowsam.types import Progress
from support.folders import make_folder
from support.tiny_vit_sams import small_lite_medsam, small_tiny_vit_sam
from support.training import run_config, small_batch, small_method


@pytest.fixture
def distilled(tmp_path: Path) -> Path:
    """As `knowsam sam distil --student unet` writes it."""
    torch.manual_seed(0)
    student = student_of(small_tiny_vit_sam(), "unet", "unit")
    (tmp_path / "kd").mkdir()
    write_sam(student, tmp_path / "kd", student.config.student_type, torch.float32)
    return tmp_path / "kd"


def test_the_loss_is_dice_with_plain_denominators() -> None:
    method, batch = small_method("kd_sam").eval(), small_batch()
    with torch.no_grad():
        loss = method.step(batch, Progress(0, 10)).loss
        probs = method.student()(batch.labelled_image).softmax(dim=1)
    expected = 0.0
    for k in range(3):
        p, g = probs[:, k].double(), (batch.label == k).double()
        expected += (1 - 2 * (p * g).sum() / (p.sum() + g.sum())) / 3
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("weights", ["tiny", "distilled"])
def test_with_weight_decay_no_encoder_weight_moves_and_all_others_do(weights: str, distilled: Path) -> None:
    method: Any = small_method("kd_sam", weights=str(distilled) if weights == "distilled" else "tiny")
    before = {name: value.clone() for name, value in method.state_dict().items()}
    groups = [weight for group in method.parameter_groups() for weight in group.parameters]
    optimiser = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    for step in range(2):
        optimiser.zero_grad(set_to_none=True)
        method.train().step(small_batch(seed=step), Progress(step, 2)).loss.backward()
        optimiser.step()
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("vision_encoder" in name for name in moved)
    assert {name for name, weight in method.named_parameters() if weight.requires_grad} <= moved


@torch.no_grad()
def test_a_network_begins_with_the_distilled_weights_and_their_pixel_values(distilled: Path) -> None:
    network: Any = build_network("sam_student", 1, 2, sam=str(distilled)).eval()
    torch.manual_seed(0)
    student = student_of(small_tiny_vit_sam(), "unet", "unit").eval()
    image = torch.rand(1, 1, 32, 48)
    expected = student.vision_encoder(image.expand(-1, 3, -1, -1))[0]  # values in [0, 1] as they are
    torch.testing.assert_close(
        network.sam.vision_encoder((image - network.pixel_mean) / network.pixel_std)[0], expected
    )
    with pytest.raises(InputError, match="holds a TinyVitSam, but expected tiny or what `knowsam sam"):
        build_network("sam_student", 1, 2, sam=small_lite_medsam())


@pytest.mark.slow
def test_a_trained_one_is_saved_and_predicts_without_any_folder(distilled: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", n_images=8, n_masks=6)
    config = run_config(folder, {"method": "kd_sam", "options": {"weights": str(distilled)}}, steps=2)
    train(config, tmp_path / "run", quiet=True)
    for path in distilled.iterdir():
        path.unlink()
    network, info = load_student(RunFolder(tmp_path / "run").student_last)
    state = network.state_dict()
    assert not any("stages" in name or "iou_prediction" in name or "prompt_encoder" in name for name in state)
    parts = [network.sam.vision_encoder, network.sam.mask_decoder, network.prompts]  # type: ignore[union-attr]
    counts = [sum(weight.numel() for weight in part.parameters()) for part in parts]
    frequencies = state["sam.shared_image_embedding.positional_embedding"].numel()
    whole = sum(weight.numel() for weight in network.parameters())
    assert whole == sum(counts) + frequencies + state["no_mask"].numel()
    image = torch.rand(2, 1, 32, 32)
    with pytest.raises(InputError, match="a network 'sam_student' was found, which cannot be exported"):
        export(tmp_path / "run", tmp_path / "student.onnx")
    again = build_network(**info.network).eval()
    again.load_state_dict(state)
    assert torch.equal(again(image), network(image))

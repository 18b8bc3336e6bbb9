"""KD SAM: what each phase teaches, and that what comes out is a SAM like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from knowsam.errors import InputError
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.sam import SamDistillation
from knowsam.sam.backbone.student import student_of
from knowsam.sam.distil import loop
from knowsam.sam.distil.loop import distil
from knowsam.sam.distil.phases import (
    decoder_loss,
    decoder_parameters,
    embedding_loss,
    encoder_loss,
    encoder_parameters,
)
from knowsam.sam.distil.settings import DistilConfig
from knowsam.sam.pretrain.promptable import PromptableSam
from support.tiny_vit_sams import small_lite_medsam, small_tiny_vit_sam

SIDE = 32


def make_pair(encoder: str = "unet") -> tuple[PromptableSam, PromptableSam]:
    torch.manual_seed(0)
    teacher = small_tiny_vit_sam()
    return PromptableSam(teacher, "unit").eval(), PromptableSam(student_of(teacher, encoder, "unit"), "unit")


def test_the_loss_of_equal_embeddings_is_0_and_the_teacher_gets_no_gradient() -> None:
    one, other = (torch.randn(3, 4, 2, 2, requires_grad=True) for _ in range(2))
    assert embedding_loss(one, one) == 0
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(embedding_loss(one, other), embedding_loss(one[order], other[order]))
    embedding_loss(one, other).backward()
    assert one.grad is not None
    assert other.grad is None


def test_each_phase_teaches_its_own_part_alone() -> None:
    teacher, student = make_pair()
    image = torch.rand(2, 3, SIDE, SIDE)
    target = teacher.encode(image)[0].detach()

    def with_gradient() -> set[str]:
        found = {name for name, weight in student.named_parameters() if weight.grad is not None}
        student.zero_grad(set_to_none=True)
        return found

    named = {id(weight): name for name, weight in student.named_parameters()}
    encoder_loss(student, image, target, 1.0).backward()
    assert with_gradient() == {named[id(weight)] for weight in encoder_parameters(student)}
    statistics = {name: value.clone() for name, value in student.sam.vision_encoder.named_buffers()}
    loss, agreement = decoder_loss(teacher, student, image, target, 2, torch.Generator().manual_seed(0))
    loss.backward()
    taught = with_gradient()
    assert taught <= {named[id(weight)] for weight in decoder_parameters(student)}
    assert any(name.startswith("sam.mask_decoder.") for name in taught)
    assert 0 <= float(agreement) <= 1
    assert all(torch.equal(value, statistics[name]) for name, value in student.sam.vision_encoder.named_buffers())


@torch.no_grad()
def test_a_student_with_the_teachers_encoder_answers_as_the_teacher() -> None:
    teacher, student = make_pair()
    student.sam.vision_encoder = teacher.sam.vision_encoder
    image = torch.rand(2, 3, SIDE, SIDE)
    target = teacher.encode(image)[0]
    assert encoder_loss(student, image, target, 1.0) == 0
    student.eval()
    _, agreement = decoder_loss(teacher, student, image, target, 4, torch.Generator().manual_seed(0))
    assert float(agreement) == 1


@pytest.mark.parametrize("size", [(32, 48), (20, 36)])
@torch.no_grad()
def test_any_size_in_whole_patches_has_its_grid(size: tuple[int, int]) -> None:
    student = make_pair()[1].eval()
    assert student.encode(torch.rand(1, 3, *size))[0].shape[-2:] == (size[0] // 4, size[1] // 4)


@pytest.mark.slow
@torch.no_grad()
def test_a_resnet_is_an_encoder_too() -> None:
    student = make_pair("resnet50")[1].eval()
    assert student.encode(torch.rand(1, 3, SIDE, SIDE))[0].shape[-2:] == (8, 8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Bright discs on dark ground, and masks that cannot be read."""
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    y, x = np.mgrid[:40, :40]
    for index in range(12):
        centre, radius = rng.uniform(10, 30, 2), rng.uniform(4, 12)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        pixels = np.clip(60 + 120 * disc + rng.normal(0, 8, disc.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        (folder / "masks" / f"{index}.png").write_bytes(b"no picture")
    return folder


def config(images: Path, **changes: Any) -> DistilConfig:
    values = {"teacher": small_lite_medsam(), "images": (str(images),), "size": SIDE, "steps": 8, "batch": 3,
              "prompts": 2, "check_every": 4}  # fmt: skip
    return DistilConfig(**{**values, **changes})


def test_a_stopped_distillation_goes_on_to_the_same_weights_and_is_a_sam(images: Path, tmp_path: Path) -> None:
    assert distil(config(images), tmp_path / "whole", quiet=True)
    steps = iter([False, False, True])
    assert not distil(config(images), tmp_path / "parts", quiet=True, asked_to_stop=lambda: next(steps))
    assert distil(config(images), tmp_path / "parts", quiet=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    records = RunFolder(tmp_path / "whole").read_metrics()
    assert [record["step"] for record in records] == [4, 8]

    sam = SamDistillation.from_name(str(tmp_path / "whole"), size=(SIDE, SIDE), classes=2, sam_size="image")
    assert (sam.teacher.normalise, sam.teacher.train_mode) == ("unit", "adapters")
    state = sam.teacher.sam.state_dict()
    assert torch.equal(state["vision_encoder.join.weight"], whole["vision_encoder.join.weight"])
    assert not any("stages" in key for key in whole)  # nothing of the teacher's encoder
    assert sam.teacher(torch.rand(2, 1, SIDE, SIDE), torch.randn(2, 2, SIDE, SIDE)).shape == (2, 2, SIDE, SIDE)


def test_one_process_at_a_time_distils_into_a_folder(images: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"), pytest.raises(InputError, match="another process is at work there"):
        distil(config(images), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_one_that_was_killed_gets_what_it_lacks(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        pass

    def kill(*given: object) -> None:
        raise KilledError

    run, weights = RunFolder(tmp_path / "run"), tmp_path / "run" / "model.safetensors"
    for name in ("save_progress", "write_sam"):  # before the first checkpoint; after it
        with monkeypatch.context() as patch:
            patch.setattr(loop, name, kill)
            with pytest.raises(KilledError):
                distil(config(images), run.path, quiet=True)
        assert run.checkpoint.exists() == (name == "write_sam")
    assert distil(config(images), run.path, quiet=True)
    assert [record["step"] for record in run.read_metrics()] == [4, 8]
    weights.unlink()
    assert distil(config(images), run.path, quiet=True)
    assert weights.exists()
    run.checkpoint.unlink()
    with pytest.raises(InputError, match="no checkpoint was found, but expected one of this distillation"):
        distil(config(images), run.path, quiet=True)


def test_weights_that_are_not_finite_replace_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> Any:
        sam = student_of(*given)
        next(iter(sam.mask_decoder.parameters())).data.fill_(float("nan"))
        return sam

    monkeypatch.setattr(loop, "student_of", broken)
    with pytest.raises(InputError, match=r"at step 1 the weight sam\.mask_decoder\..* was not finite"):
        distil(config(images, check_every=1), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_the_embedding_of_images_not_learned_from_is_imitated(images: Path, tmp_path: Path) -> None:
    distil(config(images, steps=240, check_every=60, batch=4), tmp_path / "run", quiet=True)
    scores = [record["held_out"] for record in RunFolder(tmp_path / "run").read_metrics()]
    assert scores[0]["r2"] > 0  # better than the mean embedding
    assert scores[1]["r2"] > 0.3
    assert scores[-1]["r2"] == scores[1]["r2"]  # phase B leaves the encoder as it is


def test_what_cannot_be_distilled_is_told(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--student: 'vit' was found, but expected unet or resnet50"):
        config(images, student="vit")
    with pytest.raises(InputError, match="--teacher: 'tiny' was found, whose decoder reads finer maps"):
        distil(config(images, teacher="tiny"), tmp_path / "run", quiet=True)
    distil(config(images, steps=2), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="a distillation with another steps was found"):
        distil(config(images, steps=4), tmp_path / "run", quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").touch()
    with pytest.raises(InputError, match="files but no distillation were found"):
        distil(config(images), tmp_path / "other", quiet=True)

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from knowsam.errors import InputError
from knowsam.sam import SamDistillation
from knowsam.sam.loading.build import TINY, build_sam, settled_name
from support.original_sam import published_sam, save_original
from support.small_sam import SIDE, small_sam


@pytest.fixture
def sam_folder(tmp_path: Path) -> Path:
    small_sam().save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


@torch.no_grad()
def test_a_random_tiny_lets_the_signal_through() -> None:
    torch.manual_seed(0)
    sam, report = build_sam("tiny", (32, 48), pretrained=False)
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
    teacher = SamDistillation.from_name(str(sam_folder), size=(32, 48), classes=2, train=train).teacher
    assert teacher.train_mode == mode
    assert teacher.base.source == str(sam_folder)


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_small_sam_all_learns_by_default(pretrained: bool) -> None:
    small = {"size": (32, 32), "classes": 2, "pretrained": pretrained}
    assert SamDistillation.from_name("tiny", **small).teacher.train_mode == "all"
    assert SamDistillation.from_name("tiny", **small, train="adapters").teacher.train_mode == "adapters"


@pytest.mark.parametrize("size", [(96, 96), (128, 160), (384, 384)])
@torch.no_grad()
def test_the_bundled_tiny_comes_pretrained_for_any_size(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    sam, report = build_sam("tiny", size)
    assert report.pretrained
    assert report.parameters < 10e6
    assert (TINY / "model.safetensors").stat().st_size < 20e6
    assert sam.vision_encoder(torch.rand(1, 3, *size))[0].shape[-2:] == (size[0] // 8, size[1] // 8)
    assert SamDistillation.from_name("tiny", size=size, classes=2).teacher.train_mode == "all"


@pytest.mark.parametrize(("error", "radius", "shift"), [("shrunk", 14, 0), ("swollen", 26, 0), ("shifted", 20, 8)])
@torch.no_grad()
def test_the_bundled_tiny_makes_a_corrupted_mask_better(error: str, radius: int, shift: int) -> None:
    """A bright ellipse on dark ground, and a wrong mask of it."""
    y, x = torch.meshgrid(torch.arange(96) - 47.5, torch.arange(96) - 47.5, indexing="ij")
    truth = y.square() + (x / 1.3).square() < 20**2
    wrong = y.square() + ((x - shift) / 1.3).square() < radius**2
    noise = 0.03 * torch.randn(96, 96, generator=torch.Generator().manual_seed(0))
    image = (0.25 + 0.5 * truth + noise).clamp(0, 1)
    given = torch.where(wrong, 4.0, -4.0)
    teacher = SamDistillation.from_name("tiny", size=(96, 96), classes=2).teacher.eval()
    answer = teacher(image.expand(1, 1, -1, -1), torch.stack([-given, given])[None])[0, 1] > 0

    def iou(mask: torch.Tensor) -> float:
        return float((mask & truth).sum() / (mask | truth).sum())

    assert iou(wrong) < 0.7
    assert iou(answer) > 0.8


def test_bundled_weights_that_are_not_those_shipped_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_sam().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr("knowsam.sam.loading.build.TINY", tmp_path / "tiny")
    with pytest.raises(InputError, match=r"model.safetensors: weights of sha256 .* install knowsam again"):
        build_sam("tiny", (64, 64))


def test_an_unknown_name_is_told_with_what_is_known() -> None:
    with pytest.raises(
        InputError, match=r"'vit_x' was found, but expected one of auto, none, tiny, lite_medsam.*did you mean"
    ):
        build_sam("vit_x", (32, 32))


@pytest.mark.parametrize("name", ["no/such/folder", "sam.pth", "~/no/such.pth"])
def test_a_path_that_does_not_exist_is_told_and_asks_no_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(InputError, match=f"'{name}' was found, but there is no such file.*check the path"):
        build_sam(name, (32, 32))


def test_a_path_becomes_absolute_and_a_name_stays(sam_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sam_folder.parent)
    assert settled_name("sam") == str(sam_folder.resolve())
    (sam_folder.parent / "tiny").mkdir()
    assert settled_name("tiny") == "tiny"


@pytest.mark.parametrize(
    ("device", "installed", "name"),
    [("cuda:0", True, "lite_medsam"), ("cuda:0", False, "tiny"), ("cpu", True, "tiny"), ("cpu", False, "tiny")],
)
def test_auto_is_the_medical_sam_where_it_is_affordable(
    device: str, installed: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowsam.sam.loading.build.resolve_device", lambda: device)
    monkeypatch.setattr("knowsam.sam.loading.build.find_lite_medsam", lambda: Path("x.pth") if installed else None)
    assert settled_name("auto") == name


def test_no_sam_is_nothing_to_distil_from() -> None:
    with pytest.raises(InputError, match="'none' was found, but expected the name of a SAM to distil from"):
        SamDistillation.from_name("none", size=(32, 32), classes=2)


@pytest.mark.subprocess
def test_a_run_without_sam_never_waits_for_transformers() -> None:
    """`train` asks this module for a name's meaning, SAM or not; importing transformers takes seconds."""
    code = (
        "import sys; from knowsam.sam.loading.build import settled_name as a; a('none');"
        " print('transformers' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"

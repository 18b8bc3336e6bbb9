"""KD SAM: what each phase teaches, and that what comes out is a SAM like any other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from knowsam.data.folder import scan_folder
from knowsam.data.split import make_split
from knowsam.errors import InputError
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.sam import SamDistillation
from knowsam.sam.backbone.student import student_of
from knowsam.sam.backbone.tiny import read_config, tiny_sam
from knowsam.sam.distil import loop, students
from knowsam.sam.distil.cache import maps_of
from knowsam.sam.distil.images import read_images
from knowsam.sam.distil.loop import distil, parameter_line
from knowsam.sam.distil.objects import Objects, answer_boxes, contrast_of, draw_boxes, objects_of_label
from knowsam.sam.distil.phases import (
    decoder_parameters,
    decoder_terms,
    embedding_loss,
    encoder_loss,
    encoder_parameters,
)
from knowsam.sam.distil.settings import DistilConfig
from knowsam.sam.distil.students import first_weights
from knowsam.sam.distil.views import StepPlan, draw_views, step_generator
from knowsam.sam.loading.build import TINY
from knowsam.sam.pretrain.promptable import PromptableSam
from knowsam.sam.pretrain.steps import BOX, MASK
from knowsam.sam.pretrain.targets import boxes_of
from knowsam.storage import host_mark, write_safetensors
from support.tiny_vit_sams import small_lite_medsam, small_tiny_vit_sam

SIDE = 32


def make_pair(encoder: str = "unet") -> tuple[PromptableSam, PromptableSam]:
    torch.manual_seed(0)
    teacher = small_tiny_vit_sam()
    return PromptableSam(teacher, "unit").eval(), PromptableSam(student_of(teacher, encoder, "unit"), "unit")


def statistics_of(maps: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(level.mean(dim=(0, 2, 3)), level.std(dim=(0, 2, 3))) for level in maps]


def some_plan(patch: int = 8, side: int = 64) -> StepPlan:
    """Two images of 64 px: a square on the left, two small ones on the right."""
    label = torch.zeros(2, 64, 64, dtype=torch.long)
    label[0, 16:48, 8:32] = 1
    label[1, 10:20, 40:50] = 1
    label[1, 44:56, 40:52] = 1
    objects = Objects.empty(2, 4, 32)
    for index in range(2):
        objects.put(index, *objects_of_label(label[index], 4, 32))
    image = (40 + 160 * label)[:, None].expand(-1, 3, -1, -1).byte()
    return StepPlan(image, objects, False, patch, side, 2, 3, 0, 0, 0, False)


def test_objects_of_a_label_are_its_classes_and_their_pieces() -> None:
    objects = some_plan().objects
    assert (objects.chance > 0).sum(dim=1).tolist() == [1, 3]
    assert objects.one_piece[1, :3].tolist() == [False, True, True]
    assert (objects.box[0, 0] * 64).tolist() == [8, 16, 32, 48]
    assert (objects.box[1, :3] * 64).tolist() == [[40, 10, 52, 56], [40, 44, 52, 56], [40, 10, 50, 20]]


def test_views_show_their_objects_whole_and_prompts_lie_on_them() -> None:
    plan = some_plan(side=32)
    for step in range(8):
        views = draw_views(plan, torch.tensor([0, 1]), step_generator(0, step), (0.0, 0.0, 1.0, 0.0))
        assert views.image.shape == (2, 3, 32, 32)
        assert views.target.shape == (6, 16, 16)
        assert views.weight.sum() >= 2  # the object around which it was cut out is there
        bright = torch.nn.functional.adaptive_avg_pool2d(views.image.mean(dim=1), 16).repeat_interleave(3, dim=0)
        for seen, target, kind, box, weight in zip(
            bright, views.target, views.kind, views.box, views.weight, strict=True
        ):
            if weight:
                assert seen[target > 0.9].mean() > seen[target < 0.1].mean()
            if kind == BOX:
                tight = boxes_of(target[None])[0] / 16
                assert (box - tight).abs().max() <= 0.05 * 1.01
        assert set(views.kind.tolist()) <= {BOX, MASK}  # what is in pieces has no box
    unchanged = draw_views(plan, torch.tensor([0]), step_generator(0, 0), (1.0, 0, 0, 0), change=False)
    expected = torch.zeros(16, 16)
    expected[4:12, 2:8] = 1
    torch.testing.assert_close(unchanged.target[0], expected)


def test_contrast_is_of_inside_against_around() -> None:
    mask = torch.zeros(2, 32, 32)
    mask[:, 10:20, 10:20] = 1
    grey = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1
    grey[0] += 0.5 * mask[0]
    found = contrast_of(mask, grey)
    assert found[0] > 3
    assert found[1] < 0.3
    assert contrast_of(torch.zeros(1, 8, 8), torch.rand(1, 8, 8)) == 0


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
    maps = [teacher.encode(image)[0].detach()]

    def with_gradient() -> set[str]:
        found = {name for name, weight in student.named_parameters() if weight.grad is not None}
        student.zero_grad(set_to_none=True)
        return found

    named = {id(weight): name for name, weight in student.named_parameters()}
    encoder_loss(student, image, maps, statistics_of(maps)).backward()
    assert with_gradient() == {named[id(weight)] for weight in encoder_parameters(student)}
    statistics = {name: value.clone() for name, value in student.sam.vision_encoder.named_buffers()}
    plan = dataclasses.replace(some_plan(patch=4), side=SIDE)
    views = draw_views(plan, torch.tensor([0, 1]), step_generator(0, 0), (0.5, 0.1, 0.3, 0.1))
    terms = decoder_terms(student, views, torch.Generator().manual_seed(0))
    (terms["first"] + terms["second"]).backward()
    taught = with_gradient()
    assert taught <= {named[id(weight)] for weight in decoder_parameters(student)}
    assert any(name.startswith("sam.mask_decoder.") for name in taught)
    assert all(torch.equal(value, statistics[name]) for name, value in student.sam.vision_encoder.named_buffers())


@torch.no_grad()
def test_a_student_with_the_teachers_encoder_answers_as_the_teacher() -> None:
    teacher, student = make_pair()
    student.sam.vision_encoder = teacher.sam.vision_encoder
    image = torch.rand(2, 3, SIDE, SIDE)
    encoded = teacher.encode(image)
    maps = [encoded[0]]
    student.eval()
    assert encoder_loss(student, image, maps, statistics_of(maps)) == 0
    box = draw_boxes(6, torch.Generator().manual_seed(0))
    assert torch.equal(answer_boxes(teacher, encoded, box), answer_boxes(student, student.encode(image), box))


@pytest.mark.parametrize("encoder", ["unet", "resnet50"])
def test_all_three_maps_of_a_tiny_teacher_are_imitated(encoder: str) -> None:
    torch.manual_seed(0)
    tiny = tiny_sam(read_config(TINY))
    teacher, student = PromptableSam(tiny).eval(), PromptableSam(student_of(tiny, encoder, "sam"))
    image = torch.rand(2, 3, SIDE, 48)
    maps = maps_of(teacher.encode(image))
    found = maps_of(student.encode(image))
    assert [one.shape for one in found] == [one.shape for one in maps]
    assert len(maps) == 3
    for level in range(3):  # each alone has a gradient, and counts
        student.zero_grad(set_to_none=True)
        own = [one if index == level else found[index].detach() for index, one in enumerate(maps)]
        loss = encoder_loss(student, image, own, statistics_of(maps))
        assert loss > 0
    encoder_loss(student, image, maps, statistics_of(maps)).backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in encoder_parameters(student))
    with pytest.raises(ValueError, match="zip"):
        encoder_loss(student, image, maps[:2], statistics_of(maps))


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


def make_folder(folder: Path, masks: bool = True) -> Path:
    """Bright discs on dark ground."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    y, x = np.mgrid[:40, :40]
    for index in range(12):
        centre, radius = rng.uniform(10, 30, 2), rng.uniform(4, 12)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        pixels = np.clip(60 + 120 * disc + rng.normal(0, 8, disc.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        if masks:
            Image.fromarray(disc.astype(np.uint8)).save(folder / "masks" / f"{index}.png")
        else:
            (folder / "masks" / f"{index}.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data")


def config(images: Path, **changes: Any) -> DistilConfig:
    values = {"teacher": small_lite_medsam(), "images": (str(images),), "student": "unet", "size": SIDE, "steps": 8,
              "batch": 3, "prompts": 2, "check_every": 4}  # fmt: skip
    return DistilConfig(**{**values, **changes})


@pytest.mark.parametrize("student", ["unet", "tiny"])
def test_a_stopped_distillation_goes_on_to_the_same_weights_and_is_a_sam(
    images: Path, tmp_path: Path, student: str
) -> None:
    chosen = config(images, student=student, view=32)
    cache = tmp_path / "cache"
    assert distil(chosen, tmp_path / "whole", quiet=True, cache=cache)
    steps = iter([False, False, True])
    assert not distil(chosen, tmp_path / "parts", quiet=True, asked_to_stop=lambda: next(steps), cache=cache)
    assert distil(chosen, tmp_path / "parts", quiet=True, cache=cache)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    for name in ("whole", "parts"):
        records = RunFolder(tmp_path / name).read_metrics()
        assert [record["step"] for record in records] == [0, 4, 8]
    assert records[-1]["held_out"].keys() == {"r2", "box", "mask", "given"}
    assert not any("adapter" in key or "stages" in key for key in whole)  # nothing of the teacher's encoder
    sam = SamDistillation.from_name(str(tmp_path / "whole"), size=(SIDE, SIDE), classes=2, sam_size="image")
    expected = ("unit", "adapters") if student == "unet" else ("sam", "all")
    assert (sam.teacher.normalise, sam.teacher.train_mode) == expected
    state = sam.teacher.sam.state_dict()
    assert torch.equal(
        state["prompt_encoder.no_mask_embed.weight"], whole["prompt_encoder.no_mask_embed.weight"].float()
    )
    assert sam.teacher(torch.rand(2, 1, SIDE, SIDE), torch.randn(2, 2, SIDE, SIDE)).shape == (2, 2, SIDE, SIDE)


def test_a_distilled_student_of_the_tiny_sam_is_a_sam(images: Path, tmp_path: Path) -> None:
    distil(config(images, teacher="tiny", steps=2), tmp_path / "run", quiet=True)
    sam = SamDistillation.from_name(str(tmp_path / "run"), size=(SIDE, SIDE), classes=2, sam_size="image")
    assert type(sam.teacher.sam).__name__ == "FineStudentSam"
    assert sam.teacher(torch.rand(2, 1, SIDE, SIDE), torch.randn(2, 2, SIDE, SIDE)).shape == (2, 2, SIDE, SIDE)


def test_a_tiny_student_begins_with_the_bundled_weights_or_what_is_asked_for(images: Path, tmp_path: Path) -> None:
    distil(config(images, student="tiny", view=32, steps=2, start="random"), tmp_path / "run", quiet=True)
    for start, folder in (("", TINY), (str(tmp_path / "run"), tmp_path / "run")):
        weights, found = load_file(folder / "model.safetensors"), first_weights(start).state_dict()
        assert all(torch.equal(found[key], value.float()) for key, value in weights.items())
    with pytest.raises(InputError, match="holds a TinyVitSam, but expected the small SAM"):
        first_weights(small_lite_medsam())
    with pytest.raises(InputError, match="--start: 'tiny' was found with --student unet"):
        config(images, start="tiny")


def test_the_teacher_is_asked_once_for_each_image(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(
        "knowsam.sam.distil.cache.write_safetensors",
        lambda path, *given: written.append(path) or write_safetensors(path, *given),
    )

    def count() -> tuple[int, int]:
        kinds = [path.suffixes[0] for path in written]
        return kinds.count(".embedding"), kinds.count(".answers")

    cache = tmp_path / "cache"
    distil(config(images, steps=2), tmp_path / "one", quiet=True, cache=cache)
    assert count() == (12, 2)  # objects in the images of validation, whose masks stay unseen
    next(cache.glob("*.embedding.safetensors")).write_bytes(b"cut")  # as after a power cut
    distil(config(images, steps=2), tmp_path / "two", quiet=True, cache=cache)
    assert count() == (13, 2)
    distil(config(images, steps=2, answers=3), tmp_path / "three", quiet=True, cache=cache)
    assert count() == (13, 4)


def test_embeddings_that_do_not_fit_into_memory_are_read_from_the_disk(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distil(config(images), tmp_path / "one", quiet=True)
    monkeypatch.setattr("knowsam.sam.distil.cache.MEMORY_SHARE", 0)
    distil(config(images), tmp_path / "two", quiet=True)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_masks_are_those_that_train_would_learn_from(images: Path) -> None:
    chosen = config(images)
    split = make_split(scan_folder(images))
    stems = list(scan_folder(images).cases)
    data = read_images(chosen, SIDE)
    assert data.has_mask.tolist() == [stem in split.labelled for stem in stems]
    assert int(read_images(config(images, labelled="3"), SIDE).has_mask.sum()) == 3
    assert int(read_images(config(images, val_fraction=0.0), SIDE).has_mask.sum()) == 12
    (images / "test.txt").write_text("0\n1\n")
    assert len(read_images(chosen, SIDE).image) == 10


@pytest.mark.parametrize("encoder", ["unet", "resnet50"])
def test_the_number_of_weights_is_said_and_is_the_sum_of_its_parts(encoder: str) -> None:
    sam = make_pair(encoder)[1].sam
    whole, *parts = (int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\d", parameter_line(sam)))
    assert whole == sum(parts) == sum(weight.numel() for weight in sam.parameters())
    assert len(parts) == 3


def test_without_masks_none_is_opened(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", masks=False)
    assert not read_images(config(folder, labelled="none"), SIDE).has_mask.any()


def test_phase_a_reads_no_mask(images: Path, tmp_path: Path) -> None:
    for name, labelled in (("with", ""), ("without", "1")):
        stops = [True, False, False, False]
        distil(config(images, labelled=labelled), tmp_path / name, quiet=True, asked_to_stop=stops.pop)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


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
    for place, name in ((loop, "save_progress"), (students, "write_sam")):  # before the first checkpoint; after it
        with monkeypatch.context() as patch:
            patch.setattr(place, name, kill)
            with pytest.raises(KilledError):
                distil(config(images), run.path, quiet=True)
        assert run.checkpoint.exists() == (name == "write_sam")
    half = run.path / "cache" / f".writing-{host_mark()}-{2**22 + 1}-0.embedding.safetensors"  # of a dead process
    half.write_bytes(b"half")
    assert distil(config(images), run.path, quiet=True)
    assert not half.exists()
    assert [record["step"] for record in run.read_metrics()] == [0, 4, 8]
    weights.unlink()
    assert distil(config(images), run.path, quiet=True)
    assert weights.exists()
    run.checkpoint.unlink()
    with pytest.raises(InputError, match="no checkpoint was found, but expected one of this distillation"):
        distil(config(images), run.path, quiet=True)


@pytest.mark.slow
def test_the_embedding_of_images_not_learned_from_is_imitated(images: Path, tmp_path: Path) -> None:
    distil(config(images, steps=240, check_every=60, batch=4), tmp_path / "run", quiet=True)
    scores = [record["held_out"] for record in RunFolder(tmp_path / "run").read_metrics()]
    assert scores[0]["r2"] < 0
    assert scores[1]["r2"] > 0  # better than the mean embedding
    assert scores[2]["r2"] > 0.3
    assert scores[-1]["r2"] == scores[2]["r2"]  # phase B leaves the encoder as it is


@pytest.mark.slow
def test_the_maps_of_the_tiny_sam_are_imitated(images: Path, tmp_path: Path) -> None:
    distil(config(images, teacher="tiny", size=64, steps=300, check_every=150), tmp_path / "run", quiet=True)
    scores = [record["held_out"] for record in RunFolder(tmp_path / "run").read_metrics()]
    assert scores[1]["r2"] > 0.3
    assert scores[-1]["box"] > scores[0]["box"]


def test_what_cannot_be_distilled_is_told(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--student: 'vit' was found, but expected tiny, unet, resnet50"):
        config(images, student="vit")
    with pytest.raises(InputError, match="--view: 36 was found, but expected a multiple of 8 from 32 on"):
        distil(config(images, student="tiny", view=36), tmp_path / "wrong", quiet=True)
    assert not (tmp_path / "wrong" / "distil.json").exists()
    with pytest.raises(InputError, match=r"in none of 12 images did '.*' see an object, but expected some"):
        distil(config(images, labelled="none"), tmp_path / "blind", quiet=True)
    distil(config(images, steps=2), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="a distillation with another steps was found"):
        distil(config(images, steps=4), tmp_path / "run", quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").touch()
    with pytest.raises(InputError, match="files but no distillation were found"):
        distil(config(images), tmp_path / "other", quiet=True)

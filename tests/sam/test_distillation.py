from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from knowsam.config import Config, SamSettings
from knowsam.functional.losses import distillation_loss, segmentation_loss
from knowsam.methods.supervised import SupervisedOptions
from knowsam.sam import SamDistillation, SamStep
from knowsam.sam.distillation import EMPTY_STEPS
from knowsam.sam.loading.build import resize_input
from knowsam.sam.teacher import SamTeacher
from knowsam.training.build import build_method, record_sam_choices
from knowsam.types import IGNORE, Progress
from support.small_sam import small_sam
from support.tiny_vit_sams import small_lite_medsam

SIZE, K = (32, 48), 3
START = Progress(0, 100)


@pytest.fixture
def distillation() -> SamDistillation:
    sam = small_sam()
    resize_input(sam, SIZE)
    torch.manual_seed(0)
    return SamDistillation(SamTeacher(sam, K), temperature=4.0, kd_weight=0.5).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def label() -> Tensor:
    label = torch.randint(0, K, (2, *SIZE), generator=torch.Generator().manual_seed(1))
    label[1] = IGNORE
    return label


def student_logits(seed: int) -> Tensor:
    return torch.randn(2, K, *SIZE, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_terms_and_their_weighted_sum(distillation: SamDistillation, image: Tensor, label: Tensor) -> None:
    students = [student_logits(2), student_logits(3)]
    step = distillation(image, students, label, START, mask_prompt=students[0])
    logits = distillation.teacher(image, students[0])
    assert torch.equal(step.logits, logits)
    torch.testing.assert_close(step.terms["sam_sup"], segmentation_loss(logits, label))
    kd = [distillation_loss(z, logits, temperature=4.0) for z in students]
    torch.testing.assert_close(step.terms["sam_kd"], (kd[0] + kd[1]) / 2)
    torch.testing.assert_close(step.loss, step.terms["sam_sup"] + 0.5 * step.terms["sam_kd"])


@pytest.mark.parametrize(("ramp", "factor"), [(False, 1.0), (True, math.exp(-5 * 0.7**2))])
def test_the_weight_of_the_distillation_follows_the_run(
    distillation: SamDistillation, image: Tensor, label: Tensor, ramp: bool, factor: float
) -> None:
    distillation.kd_ramp = ramp
    step = distillation(image, [student_logits(2)], label, Progress(30, 100))
    torch.testing.assert_close(step.loss, step.terms["sam_sup"] + 0.5 * factor * step.terms["sam_kd"])


def test_the_graphs_of_sam_and_students_are_disjoint(
    distillation: SamDistillation, image: Tensor, label: Tensor
) -> None:
    student = student_logits(2)
    step = distillation(image, [student], label, START, mask_prompt=student)
    assert not step.logits.requires_grad
    sams = [p for p in distillation.parameters() if p.requires_grad]
    by_sup = torch.autograd.grad(step.terms["sam_sup"], [student, *sams], retain_graph=True, allow_unused=True)
    by_kd = torch.autograd.grad(step.terms["sam_kd"], [student, *sams], allow_unused=True)
    assert by_sup[0] is None
    assert any(g is not None and g.abs().max() > 0 for g in by_sup[1:])
    assert by_kd[0].abs().max() > 0
    assert all(g is None for g in by_kd[1:])


def test_the_students_mean_is_the_default_prompt(distillation: SamDistillation, image: Tensor, label: Tensor) -> None:
    students = [student_logits(2), student_logits(3)]
    step = distillation(image, students, label, START)
    assert torch.equal(step.logits, distillation.teacher(image, torch.stack(students).mean(dim=0)))


def test_sam_learns_from_corrupted_prompts_on_labelled_images_alone(
    distillation: SamDistillation, image: Tensor, label: Tensor
) -> None:
    students = [student_logits(2)]
    plain = distillation(image, students, label, START)
    distillation.prompt_spoil = 1.0
    torch.manual_seed(0)
    corrupted = distillation(image, students, label, START)
    assert not torch.equal(corrupted.logits[0], plain.logits[0])
    torch.testing.assert_close(corrupted.logits[1], plain.logits[1])  # image 1 has no label
    assert corrupted.terms["sam_sup"] != plain.terms["sam_sup"]


def test_students_do_not_learn_from_answers_to_corrupted_prompts(
    distillation: SamDistillation, image: Tensor, label: Tensor
) -> None:
    student = student_logits(2)
    distillation.prompt_spoil = 1.0
    torch.manual_seed(0)
    step = distillation(image, [student], label, START)
    (gradient,) = torch.autograd.grad(step.terms["sam_kd"], student)
    assert gradient[0].count_nonzero() == 0  # image 0 is labelled, its prompt corrupted
    assert gradient[1].count_nonzero() > 0
    distillation.prompt_spoil = 0.0
    unlabelled_alone = distillation(image[1:], [student[1:]], label[1:], START)
    torch.testing.assert_close(step.terms["sam_kd"], unlabelled_alone.terms["sam_kd"], rtol=1e-3, atol=1e-5)


def test_at_sams_resolution_finer_detail_is_left_to_the_students(
    distillation: SamDistillation, image: Tensor, label: Tensor
) -> None:
    student = student_logits(2)
    prompt = student.detach().clone()
    rows, columns = SIZE
    chequered = (torch.arange(rows)[:, None] + torch.arange(columns)).remainder(2) * 2.0 - 1  # 0 in any even square
    detail = 3 * chequered * torch.tensor([1.0, -1.0, 0.0]).view(K, 1, 1)
    terms = {}
    for resolution in ("image", "sam"):
        distillation.kd_resolution = resolution
        for name, shown in (("plain", student), ("detailed", student + detail)):
            terms[resolution, name] = distillation(image, [shown], label, START, mask_prompt=prompt).terms["sam_kd"]
    assert terms["image", "detailed"] > 1.1 * terms["image", "plain"]
    torch.testing.assert_close(terms["sam", "detailed"], terms["sam", "plain"], rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(terms["sam", "plain"], student)
    square = rows // distillation.teacher.masks(image, prompt).shape[-2]
    blocks = gradient.unfold(2, square, square).unfold(3, square, square)
    torch.testing.assert_close(blocks, blocks[..., :1, :1].expand_as(blocks))


def test_an_unlabelled_batch_teaches_sam_nothing(distillation: SamDistillation, image: Tensor) -> None:
    unknown = torch.full((2, *SIZE), IGNORE)
    step = distillation(image, [student_logits(2)], unknown, START)
    assert step.terms["sam_sup"] == 0
    assert step.terms["sam_kd"] > 0


def test_predict_gives_sams_answer_without_gradient(distillation: SamDistillation, image: Tensor) -> None:
    prompt = student_logits(2)
    answer = distillation.predict(image, prompt)
    assert not answer.requires_grad
    torch.testing.assert_close(answer, distillation.teacher(image, prompt))


def test_the_plug_in_in_a_loop_of_ones_own() -> None:
    """Built by name, it teaches a network that this package does not know, and itself."""
    torch.manual_seed(0)
    sam = SamDistillation.from_name("tiny", size=SIZE, classes=K, pretrained=False, kd_weight=0.5)
    network = torch.nn.Conv2d(1, K, 3, padding=1)
    image, label = torch.rand(2, 1, *SIZE), torch.randint(0, K, (2, *SIZE))
    label[1] = IGNORE
    step = sam(image, [network(image)], label, START)
    assert isinstance(step, SamStep)
    step.loss.backward()
    learning = [*network.parameters(), *(p for p in sam.parameters() if p.requires_grad)]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert all(p.grad is not None for p in learning)
    assert (sam.temperature, sam.kd_weight, sam.kd_ramp, sam.prompt_spoil) == (10.0, 0.5, False, 0.0)


def test_the_plug_in_and_the_configuration_have_the_same_settings_and_defaults() -> None:
    arguments = inspect.signature(SamDistillation.from_name).parameters
    settings = {name: field.default for name, field in SamSettings.model_fields.items() if name not in ("name", "lr")}
    settings["sam_size"] = settings.pop("size")  # beside the size of the images
    of_the_data = ("name", "size", "classes", "context")
    assert settings == {name: one.default for name, one in arguments.items() if name not in of_the_data}


def test_all_settings_reach_the_plug_in() -> None:
    settings = SamSettings(
        name="tiny", train="adapters", pretrained=False, temperature=3.0, kd_weight=0.25, kd_ramp=True,
        prompt_spoil=0.5, kd_resolution="sam", normalise="unit", adapter_init="default", size=48, prompt="box",
    )  # fmt: skip
    config = Config(sam=settings, data={"size": 32}, method="supervised", options=SupervisedOptions().model_dump())
    sam = build_method(config, in_channels=1, classes=K).sam
    assert (sam.temperature, sam.kd_weight, sam.kd_ramp) == (3.0, 0.25, True)
    assert (sam.prompt_spoil, sam.kd_resolution, sam.teacher.train_mode) == (0.5, "sam", "adapters")
    assert (sam.teacher.size, sam.teacher.prompt) == ((48, 48), "box")
    assert sam.teacher.pixel_std.flatten().tolist() == [1.0, 1.0, 1.0]
    adapter = sam.teacher.sam.mask_decoder.transformer.layers[0].mlp.adapter
    assert adapter.up.weight.count_nonzero() > 0  # `zero` would have left it at zero
    assert len(sam.teacher.prompts.heads) == K


def lite(**settings: Any) -> SamDistillation:
    return SamDistillation.from_name(small_lite_medsam(), size=SIZE, classes=K, **settings)


def test_what_auto_means_for_each_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = SamDistillation.from_name("tiny", size=SIZE, classes=K, pretrained=False).teacher
    assert (teacher.size, teacher.normalise, teacher.prompt) == (SIZE, "sam", "mask")
    teacher = lite().teacher
    assert (teacher.size, teacher.normalise, teacher.train_mode) == ((84, 128), "unit", "adapters")
    monkeypatch.setattr("knowsam.sam.distillation.resolve_device", lambda: "cuda")
    assert lite().teacher.size == (172, 256)
    assert lite(sam_size="image", normalise="sam").teacher.normalise == "sam"
    assert lite(sam_size="image").teacher.size == SIZE


def test_what_auto_meant_is_kept_in_the_configuration() -> None:
    config = Config(sam={"name": small_lite_medsam()}, data={"size": SIZE}, method="supervised",
                    options=SupervisedOptions().model_dump())  # fmt: skip
    sam = record_sam_choices(config, build_method(config, 1, K)).sam
    assert (sam.size, sam.normalise) == (128, "unit")
    assert SamDistillation.from_name(sam.name, size=SIZE, classes=K, sam_size=sam.size).teacher.size == (84, 128)
    tiny = config.model_copy(update={"sam": SamSettings(name="tiny", pretrained=False)})
    kept = record_sam_choices(tiny, build_method(tiny, 1, K)).sam
    assert (kept.size, kept.normalise) == ("image", "sam")


@pytest.mark.parametrize(("answers", "warned"), [("background", True), ("objects", False), ("late", False)])
def test_a_sam_that_answers_nothing_is_told_once(
    image: Tensor, label: Tensor, answers: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = lite(sam_size=32)
    empty, full = torch.zeros(2, K, *SIZE), torch.zeros(2, K, *SIZE)
    empty[:, 0], full[:, 1] = 1, 1
    told = []
    for step in range(2 * EMPTY_STEPS):
        has_object = answers == "objects" or (answers == "late" and step == EMPTY_STEPS - 1)
        answer = (full if has_object else empty, None)
        monkeypatch.setattr(sam.teacher, "answer", lambda *_, answer=answer: answer)
        sam(image, [student_logits(2)], label, START)
        told.append(sam.take_warning())
    assert [text is not None for text in told] == [warned and step == EMPTY_STEPS - 1 for step in range(len(told))]
    assert not warned or "check sam.normalise" in told[EMPTY_STEPS - 1]

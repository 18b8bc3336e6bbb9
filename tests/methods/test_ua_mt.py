"""What is particular to UA-MT, against a naive restatement."""

from __future__ import annotations

import math

import pytest
import torch

from knowsam.functional.schedules import uncertainty_threshold
from knowsam.types import Progress
from support.training import small_batch, small_method


@pytest.mark.parametrize(
    ("t", "factor"), [(0, 0.75 + 0.25 * math.exp(-5)), (0.5, 0.75 + 0.25 * math.exp(-1.25)), (1, 1)]
)
def test_threshold_rises_from_three_quarters_to_all_of_the_largest_entropy(t: float, factor: float) -> None:
    assert uncertainty_threshold(t, 4) == pytest.approx(factor * math.log(4))


def test_uncertainty_is_the_entropy_of_the_mean_answer() -> None:
    method = small_method("ua_mt", passes=3)
    image = small_batch().unlabelled_image
    torch.manual_seed(3)
    found = method.teacher_uncertainty(image)
    torch.manual_seed(3)
    answers = []
    for _ in range(3):
        noise = (0.1 * torch.randn_like(image)).clamp(-0.2, 0.2)
        answers.append(method.ema_teacher(image + noise).softmax(dim=1))
    mean = sum(answers) / 3
    torch.testing.assert_close(found, -(mean * mean.log()).sum(dim=1), rtol=1e-4, atol=1e-5)
    assert not torch.equal(answers[0], answers[1])  # noise and dropout differ from pass to pass


def test_only_pixels_below_the_threshold_count() -> None:
    method, batch, progress = small_method("ua_mt", passes=2), small_batch(), Progress(40, 100)
    uncertainty = torch.full((3, 32, 48), math.log(3))
    uncertainty[:, :, :12] = 0.0
    method.teacher_uncertainty = lambda image: uncertainty  # type: ignore[method-assign]
    torch.manual_seed(5)
    output = method.step(batch, progress)
    torch.manual_seed(5)
    student = method.network(torch.cat([batch.labelled_image, batch.unlabelled_image]))[2:].softmax(dim=1)
    teacher = method.noisy_answer(batch.unlabelled_image).softmax(dim=1)
    expected = ((student - teacher)[..., :12] ** 2).mean().item()
    assert output.terms["student_cons"].item() == pytest.approx(expected, rel=1e-4)
    assert output.terms["ema_certain"].item() == pytest.approx(0.25)


def test_no_certain_pixel_is_no_consistency() -> None:
    method = small_method("ua_mt", passes=1)
    method.teacher_uncertainty = lambda image: torch.full((3, 32, 48), math.inf)  # type: ignore[method-assign]
    output = method.step(small_batch(), Progress(90, 100))
    assert output.terms["student_cons"].item() == 0
    assert output.loss.item() == output.terms["student_sup"].item()

"""What is particular to the mean teacher, against a naive restatement."""

from __future__ import annotations

import math

import pytest
import torch

from knowsam.methods.base import add_noise
from knowsam.types import Progress
from support.training import small_batch, small_method


@pytest.mark.parametrize("step", [0, 10, 90])
def test_teacher_is_the_running_average_of_weights_and_statistics(step: int) -> None:
    method = small_method("mean_teacher")
    with torch.no_grad():
        for value in method.network.state_dict().values():
            value.add_(1)  # a student that has moved, counters of batch-norm included
    before = {key: value.clone() for key, value in method.ema_teacher.state_dict().items()}
    method.after_step(Progress(step, 100))
    decay = min(0.99, 1 - 1 / (step + 1))
    for key, student in method.network.state_dict().items():
        expected = decay * before[key] + (1 - decay) * student if student.is_floating_point() else student
        torch.testing.assert_close(method.ema_teacher.state_dict()[key], expected, msg=key)


def test_loss_is_supervision_plus_ramped_consistency_with_the_noisy_teacher() -> None:
    method, batch, progress = small_method("mean_teacher"), small_batch(), Progress(40, 100)
    torch.manual_seed(5)
    output = method.step(batch, progress)
    torch.manual_seed(5)
    image = torch.cat([batch.labelled_image, batch.unlabelled_image])
    student = method.network(image)[2:].softmax(dim=1)
    noise = (0.1 * torch.randn_like(batch.unlabelled_image)).clamp(-0.2, 0.2)
    teacher = method.ema_teacher(batch.unlabelled_image + noise).softmax(dim=1)
    expected = sum(((student[i] - teacher[i]) ** 2).sum().item() for i in range(3)) / student.numel()
    assert output.terms["student_cons"].item() == pytest.approx(expected, rel=1e-4)
    weight = 0.1 * math.exp(-5 * 0.6**2)
    total = output.terms["student_sup"].item() + weight * expected
    assert output.loss.item() == pytest.approx(total, rel=1e-5)


def test_noise_stays_within_its_limit_and_has_its_deviation() -> None:
    torch.manual_seed(0)
    noise = add_noise(torch.zeros(1, 1, 200, 200), 0.1, 0.2)
    assert noise.abs().max() == pytest.approx(0.2)
    assert noise.std().item() == pytest.approx(0.0938, abs=0.003)  # a normal one of .1, clipped at two deviations

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from knowsam.data.dataset import ScoringVolume
from knowsam.evaluation.metrics import dice_score
from knowsam.evaluation.scoring import Forward, ValidationScores, score_volumes
from knowsam.functional.probabilities import probabilities_at
from knowsam.inference.forward import predict_all
from knowsam.types import IGNORE
from support.training import SIZE, small_method

K = 3
PER_PASS = 4


def validate(forward: Forward, volumes: list[ScoringVolume], classes: int) -> ValidationScores:
    return ValidationScores.of(list(score_volumes(forward, volumes, classes, slices_per_pass=PER_PASS)))


def make_volume(name: str, slices: int, native: tuple[int, int], seed: int) -> ScoringVolume:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(slices, 1, 16, 16, generator=generator).half()
    labels = [torch.randint(0, K, native, generator=generator) for _ in range(slices)]
    return ScoringVolume(name, images, labels)


def fake_network(image: Tensor) -> dict[str, Tensor]:
    """Logits that depend on each image alone."""
    return {
        "a": torch.cat([image, 1 - image, 2 * (image - 0.5)], dim=1),
        "b": torch.cat([image, image.sin(), 0.3 + 0 * image], 1),
    }


@pytest.mark.parametrize("native", [(16, 16), (23, 31), (9, 12)])
def test_scores_are_dice_of_the_stacked_volume_at_native_size(native: tuple[int, int]) -> None:
    # More slices than one pass takes, so that the counts of two passes must be added.
    volumes = [make_volume("v", PER_PASS + 3, native, 0), make_volume("w", 1, (20, 20), 1)]
    scores = validate(fake_network, volumes, K)
    assert list(scores.per_volume) == ["a", "b"]
    for volume in volumes:
        for name in ("a", "b"):
            logits = fake_network(volume.images.float())[name]
            size = tuple(volume.labels[0].shape)
            predicted = probabilities_at(logits, size).argmax(dim=1).numpy()
            truth = torch.stack(volume.labels).numpy()
            expected = [dice_score(predicted == c, truth == c) for c in range(1, K)]
            assert scores.per_volume[name][volume.name] == pytest.approx(expected)


def test_scoring_looks_at_no_pixel_without_ground_truth() -> None:
    volume = make_volume("v", 2, (16, 16), 0)
    predicted = fake_network(volume.images.float())["a"].argmax(dim=1)
    # The label is right where it exists; the rest is unknown.
    labels = predicted.clone()
    labels[:, 8:] = IGNORE
    volume.labels = list(labels)
    assert validate(fake_network, [volume], K).mean("a") == 1


def test_a_class_absent_from_prediction_and_truth_counts_as_found() -> None:
    volume = make_volume("v", 1, (16, 16), 0)
    volume.labels = [torch.zeros(16, 16, dtype=torch.long)]
    scores = validate(lambda image: {"a": torch.cat([image + 9, image, image], dim=1)}, [volume], K)
    assert scores.per_volume == {"a": {"v": [1.0, 1.0]}}


def test_slices_of_a_volume_may_differ_in_size() -> None:
    volume = make_volume("v", 2, (16, 16), 0)
    volume.labels[1] = volume.labels[1][:10, :12]
    assert 0 <= validate(fake_network, [volume], K).mean() <= 1


def test_means_are_over_volumes_and_foreground_classes_of_the_first_prediction() -> None:
    scores = ValidationScores({"a": {"v": [0.2, 0.4], "w": [0.6, 1.0]}, "b": {"v": [0.0, 0.0], "w": [0.0, 0.0]}})
    assert scores.per_class() == pytest.approx([0.4, 0.7])
    assert scores.mean() == pytest.approx(0.55)
    assert scores.mean("b") == 0
    record = scores.to_json()["a"]
    assert record == {"dice": 0.55, "per_class": [0.4, 0.7], "volumes": 2, "sd": [0.28284, 0.42426]}


def test_the_log_has_each_case_in_the_order_of_its_name_without_it() -> None:
    scores = ValidationScores({"a": {"w": [0.6, 1.0], "v": [0.2, 0.4]}})
    assert scores.case_means()["a"] == [0.3, 0.8]


def test_a_single_volume_has_no_spread() -> None:
    record = ValidationScores({"a": {"v": [0.2, 0.4]}}).to_json()["a"]
    assert record == {"dice": 0.3, "per_class": [0.2, 0.4], "volumes": 1}


def test_probabilities_at_sum_to_one_and_keep_the_same_size() -> None:
    logits = torch.randn(2, K, 8, 8)
    assert torch.equal(probabilities_at(logits, (8, 8)), logits.softmax(dim=1))
    larger = probabilities_at(logits, (11, 5))
    assert larger.shape == (2, K, 11, 5)
    torch.testing.assert_close(larger.sum(dim=1), torch.ones(2, 11, 5))


@torch.no_grad()
def test_predict_all_names_every_prediction_and_the_one_in_use_first() -> None:
    method = small_method("knowsam", "tiny").eval()
    image = torch.rand(2, 1, *SIZE)
    outputs = predict_all(method.student(), image, method.sam)
    assert list(outputs) == ["fused", "unet", "vnet", "sam"]
    assert torch.equal(outputs["fused"], method.student()(image))
    assert torch.equal(outputs["sam"], method.sam.predict(image, outputs["fused"]))
    assert list(predict_all(small_method("supervised").student(), image)) == ["student"]


def test_predict_runs_without_autograd() -> None:
    seen = SimpleNamespace(grad=None)

    def predict(image: Tensor) -> dict[str, Tensor]:
        seen.grad = torch.is_grad_enabled()
        return fake_network(image)

    validate(predict, [make_volume("v", 1, (16, 16), 0)], K)
    assert seen.grad is False
    assert np.isfinite(validate(fake_network, [make_volume("v", 1, (16, 16), 0)], K).mean())

"""Maps and sums on images of a few pixels, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from knowsam.functional.uncertainty import CaseSums, disagreement_share, entropy_share, measure_uncertainty


def image(foreground: list[float]) -> Tensor:
    """`(1, 2, 1, n)` probabilities of two classes."""
    p = torch.tensor(foreground)
    return torch.stack([1 - p, p])[None, :, None]


# Prediction 1100, students 1110 and 1000.
PROBS = image([0.9, 0.6, 0.15, 0.05])
STUDENTS = [image([0.9, 0.9, 0.7, 0.1]), image([0.8, 0.3, 0.2, 0.0])]


def test_entropy_is_a_share_of_its_largest_value() -> None:
    probs = torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]).T[None, :, None]
    expected = [0, 1, math.log(2) / math.log(3)]
    np.testing.assert_allclose(entropy_share(probs)[0, 0], expected, atol=1e-6)


def test_disagreement_by_hand() -> None:
    # The same; certain of different classes; (1, 0) against (.5, .5); (.7, .3) against (.4, .6).
    a, b = image([0.3, 0.0, 0.0, 0.3]), image([0.3, 1.0, 0.5, 0.6])
    np.testing.assert_allclose(disagreement_share([a, b])[0, 0], [0, 1, 0.5, 0.3], atol=1e-6)


def test_disagreement_of_three_is_that_of_the_most_different_two() -> None:
    np.testing.assert_allclose(disagreement_share([image([0.1]), image([0.5]), image([0.8])])[0, 0], [0.7], atol=1e-6)


def test_disagreement_needs_two() -> None:
    with pytest.raises(ValueError, match="at least two"):
        disagreement_share([PROBS])


def test_sums_by_hand() -> None:
    entropy, disagreement, sums = measure_uncertainty(PROBS, STUDENTS)
    assert entropy.shape == (1, 1, 4)
    assert disagreement is not None
    np.testing.assert_array_equal(sums.view_px[:, 1], [2, 3, 1])
    np.testing.assert_allclose(sums.expected_px, [2.3, 1.7], rtol=1e-6)
    np.testing.assert_allclose(sums.expected_dice()[1], 2 * 1.5 / (2 + 1.7), rtol=1e-6)
    # Dice of 1100 with 1110, 1100 with 1000, 1110 with 1000.
    consensus = (4 / 5 + 2 / 3 + 2 / 4) / 3
    np.testing.assert_allclose(sums.consensus_dice()[1], consensus)
    np.testing.assert_allclose(sums.confidence()[1], (2 * 1.5 / 3.7 + consensus) / 2, rtol=1e-6)
    assert sums.disputed_share() == 2 / 3  # the second and third of the three pixels that anyone claims
    assert sums.uncertain_share().tolist() == [0, 0.5]
    np.testing.assert_allclose(sums.mean_entropy()[1], float(entropy[0, 0, :2].mean()), rtol=1e-6)


def test_expected_dice_is_that_of_truths_drawn_from_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(40, 40, generator=generator)
    probs = torch.stack([1 - p, p])[None]
    predicted = (p > 0.5).numpy()
    drawn = [torch.bernoulli(p, generator=generator).bool().numpy() for _ in range(200)]
    dice = [2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()) for truth in drawn]
    assert measure_uncertainty(probs)[2].expected_dice()[1] == pytest.approx(np.mean(dice), abs=2e-3)


def test_sums_add_up_over_slices() -> None:
    other = image([0.2, 0.7, 0.9, 0.4])
    whole = measure_uncertainty(torch.cat([PROBS, other]), [torch.cat([one, other]) for one in STUDENTS])[2]
    parts = measure_uncertainty(PROBS, STUDENTS)[2] + measure_uncertainty(other, [other, other])[2]
    for name in CaseSums.__dataclass_fields__:
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-6)


def test_one_view_has_no_consensus() -> None:
    _, disagreement, sums = measure_uncertainty(PROBS)
    assert disagreement is None
    assert np.isnan(sums.consensus_dice()).all()
    assert math.isnan(sums.disputed_share())
    np.testing.assert_array_equal(sums.confidence(), sums.expected_dice())


def test_class_that_is_predicted_nowhere_has_confidence_zero() -> None:
    nowhere = image([0.1, 0.2, 0.0, 0.4])
    sums = measure_uncertainty(nowhere, [nowhere, nowhere])[2]
    assert sums.predicted_px[1] == 0
    assert sums.confidence()[1] == 0
    assert sums.disputed_share() == 0

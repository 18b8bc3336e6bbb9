from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from knowsam.functional.probabilities import interpolation_matrix, most_probable_class


@pytest.mark.parametrize("K", [1, 2, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_most_probable_class_is_argmax_ties_included(K: int, layout: torch.memory_format) -> None:
    # Few levels, so that most pixels have a tie.
    scores = torch.randint(0, 3, (2, K, 7, 9)).float().to(memory_format=layout)
    assert torch.equal(most_probable_class(scores), scores.argmax(dim=1))


def test_most_probable_class_by_hand_and_without_gradient() -> None:
    scores = torch.tensor([[[0.1, 3.0, -1.0], [0.2, 3.0, -2.0], [0.0, 4.0, -1.0]]], requires_grad=True)
    label = most_probable_class(scores)
    assert label.tolist() == [[1, 2, 0]]
    assert label.dtype == torch.int64
    assert not label.requires_grad


@pytest.mark.parametrize(("old", "new"), [(8, 32), (5, 12), (16, 16), (12, 6)])
def test_a_matrix_interpolates_as_torch_does(old: int, new: int) -> None:
    logits = torch.randn(2, 3, old, old + 2)
    rows, columns = (interpolation_matrix(a, b, logits.device) for a, b in ((old, new), (old + 2, new + 1)))
    expected = F.interpolate(logits, size=(new, new + 1), mode="bilinear", align_corners=False)
    torch.testing.assert_close(rows @ logits @ columns.mT, expected, rtol=1e-5, atol=1e-5)

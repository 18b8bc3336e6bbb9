from __future__ import annotations

import pytest
import torch

from knowsam.functional.probabilities import most_probable_class


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

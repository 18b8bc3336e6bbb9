from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowsam.functional.losses import segmentation_loss
from knowsam.methods.supervised import Supervised
from knowsam.types import Progress
from support.training import small_batch, small_method

NOW = Progress(0, 10)


@pytest.mark.parametrize("network", ["unet", "vnet"])
def test_loss_is_the_segmentation_loss_of_the_labelled_half(network: str) -> None:
    method = small_method("supervised", network=network).eval()
    batch = small_batch()
    output = method.step(batch, NOW)
    assert list(output.terms) == ["student_sup"]
    assert torch.equal(output.loss, segmentation_loss(method.student()(batch.labelled_image), batch.label))


def test_unlabelled_images_are_never_looked_at() -> None:
    method = small_method("supervised").eval()
    batch = small_batch()
    loss = method.step(batch, NOW).loss
    batch.unlabelled_image = torch.full_like(batch.unlabelled_image, torch.nan)
    assert torch.equal(method.step(batch, NOW).loss, loss)
    assert not Supervised.uses_unlabelled


def test_with_sam_both_parts_are_added() -> None:
    output = small_method("supervised", "tiny").eval().step(small_batch(), NOW)
    expected: Tensor = sum(output.terms[name] for name in ("student_sup", "sam_sup", "sam_kd"))
    torch.testing.assert_close(output.loss, expected)

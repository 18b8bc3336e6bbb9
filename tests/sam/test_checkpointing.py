"""`sam.checkpointing`: the same answers and gradients to the last bit, from less that is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowsam.networks.checkpointing import compute_again
from knowsam.sam.distillation import SamDistillation
from knowsam.sam.teacher import SamTeacher
from support.small_sam import small_sam


def made(kind: str, checkpointing: bool) -> SamTeacher:
    torch.manual_seed(0)
    if kind == "tiny":
        teacher = SamDistillation.from_name("tiny", size=(64, 64), classes=2, checkpointing=checkpointing).teacher
    else:
        teacher = SamTeacher(small_sam(), classes=2)
        if checkpointing:
            for block in teacher.sam.vision_encoder.layers:
                compute_again(block)
    for weight in teacher.parameters():
        if weight.requires_grad and not weight.any():  # adapters begin at zero, where some gradients are
            torch.nn.init.normal_(weight, std=0.1)
    return teacher


def one_pass(kind: str, checkpointing: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Answer, gradients, and the bytes that were kept for the backward pass, weights left out."""
    teacher = made(kind, checkpointing)
    weights = {weight.untyped_storage().data_ptr() for weight in teacher.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    prompt = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = teacher(image, prompt)
    answer.square().mean().backward()
    gradients = {name: weight.grad for name, weight in teacher.named_parameters() if weight.grad is not None}
    return answer.detach(), gradients, sum(kept.values())


@pytest.mark.parametrize("kind", ["tiny", "sam"])
def test_answers_and_gradients_are_the_same_and_less_is_kept(kind: str) -> None:
    answer, gradients, kept = one_pass(kind, False)
    again, same, less = one_pass(kind, True)
    assert torch.equal(answer, again)
    assert gradients.keys() == same.keys()
    assert any("vision_encoder" in name for name in gradients)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, same[name]), name
    assert less < 0.9 * kept


def test_names_of_weights_stay() -> None:
    assert made("tiny", True).state_dict().keys() == made("tiny", False).state_dict().keys()

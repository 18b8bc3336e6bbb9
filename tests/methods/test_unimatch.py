"""What is particular to UniMatch, against a naive restatement."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.errors import InputError
from knowsam.methods.unimatch import UniMatch
from knowsam.networks.registry import build_network
from knowsam.types import IGNORE, Progress
from support.training import SIZE, small_batch, small_method

LATE = Progress(90, 100)


def sharpen(method: UniMatch) -> UniMatch:
    """Certain of about half of the pixels."""
    method.network.head.weight.data.mul_(8)
    return method


def naive_dice(logits: Tensor, label: Tensor) -> float:
    """Dice loss over the pixels that have a label."""
    probs, valid = logits.softmax(dim=1), label != IGNORE
    total = 0.0
    for index in range(probs.shape[1]):
        p, g = probs[:, index][valid], (label == index)[valid].float()
        total += 1 - ((2 * (p * g).sum() + 1e-10) / ((p * p).sum() + (g * g).sum() + 1e-10)).item()
    return total / probs.shape[1]


def test_the_loss_is_the_papers_sum_of_its_terms() -> None:
    output = sharpen(small_method("unimatch")).step(small_batch(), LATE)
    terms = {name: value.item() for name, value in output.terms.items()}
    assert min(terms.values()) > 0
    expected = (terms["student_sup"] + 0.5 * terms["student_strong"] + 0.5 * terms["student_features"]) / 2
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_terms_naive() -> None:
    method, batch = sharpen(small_method("unimatch")), small_batch(labelled=2, unlabelled=3)
    calls: list[Tensor] = []
    method.strong_view_original = method.strong_view

    def recorded(image: Tensor, pseudo_label: Tensor) -> tuple[Tensor, Tensor]:
        calls.extend((pseudo_label, *method.strong_view_original(image, pseudo_label)))
        return calls[-2], calls[-1]

    method.strong_view = recorded
    torch.manual_seed(5)
    output = method.step(batch, LATE)
    torch.manual_seed(5)
    encoded = method.network.encode(torch.cat([batch.labelled_image, batch.unlabelled_image]))
    both = [torch.cat([stage, F.dropout2d(stage[2:], 0.5)]) for stage in encoded]
    logits = method.network.head(method.network.decode(both)[-1])
    probs = logits[2:5].softmax(dim=1)
    pseudo = torch.full((3, *SIZE), IGNORE)
    for b in range(3):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                best = int(probs[b, :, y, x].argmax())
                if probs[b, best, y, x] >= 0.95:
                    pseudo[b, y, x] = best
    assert torch.equal(calls[0], pseudo)
    assert output.terms["share_certain"].item() == pytest.approx((pseudo != IGNORE).float().mean().item())
    assert 0.05 < output.terms["share_certain"] < 0.95
    assert output.terms["student_features"].item() == pytest.approx(naive_dice(logits[5:], pseudo), rel=1e-4)
    ce = F.cross_entropy(logits[:2], batch.label).item()
    assert output.terms["student_sup"].item() == pytest.approx((ce + naive_dice(logits[:2], batch.label)) / 2, rel=1e-4)


def test_strong_views_move_no_pixel_and_carry_the_label_of_what_is_pasted() -> None:
    torch.manual_seed(0)
    method = small_method("unimatch", cutmix=1.0)
    method.strong = torch.nn.Identity()
    image = torch.rand(4, 1, *SIZE)
    label = (image[:, 0] * 1000).long()  # says which image, and where in it
    view, view_label = method.strong_view(image, label)
    assert torch.equal((view[:, 0] * 1000).long(), view_label)
    for b in range(4):
        pasted = view_label[b] == label[b - 1]
        assert 0.01 < pasted.float().mean() < 0.45
        assert torch.equal(view_label[b][~pasted], label[b][~pasted])


def test_a_single_unlabelled_image_is_its_own_partner() -> None:
    method = sharpen(small_method("unimatch", cutmix=1.0))
    label = torch.arange(SIZE[0] * SIZE[1]).view(1, *SIZE)
    assert torch.equal(method.strong_view(torch.rand(1, 1, *SIZE), label)[1], label)
    assert method.step(small_batch(unlabelled=1), LATE).loss.isfinite()


def test_features_lose_half_of_their_channels_for_unlabelled_images_alone() -> None:
    torch.manual_seed(0)
    method, decoded = small_method("unimatch"), []
    original = method.network.decode
    method.network.decode = lambda encoded: decoded.append(encoded) or original(encoded)
    image = torch.rand(5, 1, *SIZE)
    clean, perturbed = method.clean_and_perturbed(image, 2)
    assert (len(clean), len(perturbed)) == (5, 3)
    dropped = total = 0
    for stage in decoded[0]:
        assert len(stage) == 8
        for unlabelled, copy in zip(stage[2:5], stage[5:], strict=True):
            for before, after in zip(unlabelled, copy, strict=True):
                gone = not bool(after.any())
                assert gone or torch.equal(after, 2 * before)  # what stays is doubled, as dropout does
                dropped, total = dropped + gone, total + 1
    assert dropped / total == pytest.approx(0.5, abs=0.05)


def test_nothing_is_asked_where_the_weak_view_is_not_certain() -> None:
    output = small_method("unimatch", confidence=0.9999).step(small_batch(), LATE)
    assert output.terms["share_certain"] == 0
    assert output.terms["student_strong"] == output.terms["student_features"] == 0
    assert output.loss.item() == pytest.approx(output.terms["student_sup"].item() / 2)


def test_the_weak_view_is_not_moved_by_what_it_teaches() -> None:
    method = sharpen(small_method("unimatch", feature_weight=0.0))
    weak = []
    method.network.register_forward_hook(lambda *call: weak.append(call[2]))
    output = method.step(small_batch(), LATE)
    gradient = torch.autograd.grad(output.terms["student_strong"], weak[0], allow_unused=True)[0]
    assert gradient is None
    assert torch.autograd.grad(output.terms["student_strong"], weak[1])[0].abs().max() > 0


@pytest.mark.parametrize("name", ["unet", "vnet"])
@torch.no_grad()
def test_encode_and_decode_are_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 1, 3).eval()
    image = torch.rand(2, 1, *SIZE)
    encoded = network.encode(image)
    assert [stage.shape[1] for stage in encoded] == [16, 32, 64, 128, 256]
    assert torch.equal(network.head(network.decode(encoded)[-1]), network(image))


def test_a_network_whose_features_are_out_of_reach_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'cotrained' was found, but unimatch expected a network whose features"):
        small_method("unimatch", network="cotrained")


def test_without_the_feature_view_any_network_will_do() -> None:
    output = small_method("unimatch", network="cotrained", feature_weight=0.0).step(small_batch(), LATE)
    assert "student_features" not in output.terms
    assert output.loss.isfinite()

"""What is particular to bidirectional copy-paste, against a naive restatement."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from knowsam.config import resolve_config
from knowsam.functional.mixing import copy_paste_box
from knowsam.functional.pseudo_labels import largest_components
from knowsam.methods.bcp import BidirectionalCopyPaste, paste
from knowsam.types import IGNORE, Progress
from support.training import SIZE, small_batch, small_method

LATE = Progress(90, 100)


def naive_half_seg(logits: Tensor, label: Tensor) -> float:
    """(CE + Dice) / 2 over the pixels that have a label, pixel by pixel and class by class."""
    probs, valid = logits.softmax(dim=1), label != IGNORE
    ce = sum(-math.log(p) for p in probs.permute(0, 2, 3, 1)[valid].gather(1, label[valid].unsqueeze(1)).flatten())
    dice = 0.0
    for index in range(probs.shape[1]):
        p, g = probs[:, index][valid], (label == index)[valid].float()
        dice += 1 - (2 * (p * g).sum() / ((p * p).sum() + (g * g).sum())).item()
    return (ce / int(valid.sum()) + dice / probs.shape[1]) / 2


def test_loss_is_both_mixtures_each_region_with_its_weight() -> None:
    method, batch = small_method("bcp"), small_batch(labelled=4, unlabelled=4)
    torch.manual_seed(5)
    output = method.step(batch, LATE)
    torch.manual_seed(5)
    box = copy_paste_box(SIZE, 2 / 3)
    assert int(box.sum()) == 21 * 32
    pseudo = largest_components(method.ema_teacher(batch.unlabelled_image).argmax(dim=1), 3)
    x_l, y_l, x_u = batch.labelled_image, batch.label, batch.unlabelled_image
    pairs = [(x_l[2], y_l[2], x_u[2], pseudo[2]), (x_l[3], y_l[3], x_u[3], pseudo[3])]  # unlabelled into labelled
    pairs += [(x_u[0], pseudo[0], x_l[0], y_l[0]), (x_u[1], pseudo[1], x_l[1], y_l[1])]  # labelled into unlabelled
    image, label = torch.zeros(4, 1, *SIZE), torch.zeros(4, *SIZE, dtype=torch.int64)
    for number, (background, own, foreground, other) in enumerate(pairs):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                image[number, :, y, x] = foreground[:, y, x] if box[y, x] else background[:, y, x]
                label[number, y, x] = other[y, x] if box[y, x] else own[y, x]
    logits = method.network(image).detach()
    inside, outside = label.masked_fill(~box, IGNORE), label.masked_fill(box, IGNORE)
    expected_in = 0.5 * naive_half_seg(logits[:2], inside[:2]) + naive_half_seg(logits[:2], outside[:2])
    expected_out = naive_half_seg(logits[2:], inside[2:]) + 0.5 * naive_half_seg(logits[2:], outside[2:])
    assert output.terms["student_in"].item() == pytest.approx(expected_in, rel=1e-4)
    assert output.terms["student_out"].item() == pytest.approx(expected_out, rel=1e-4)
    assert output.loss.item() == pytest.approx(expected_in + expected_out, rel=1e-4)


def test_pretraining_pastes_labelled_images_into_each_other() -> None:
    method, batch = small_method("bcp"), small_batch(labelled=4, unlabelled=0)
    torch.manual_seed(5)
    output = method.step(batch, LATE)
    torch.manual_seed(5)
    box = copy_paste_box(SIZE, 2 / 3)
    image = torch.where(box, batch.labelled_image[2:], batch.labelled_image[:2])
    label = torch.where(box, batch.label[2:], batch.label[:2])
    logits = method.network(image).detach()
    inside, outside = label.masked_fill(~box, IGNORE), label.masked_fill(box, IGNORE)
    expected = naive_half_seg(logits, inside) + naive_half_seg(logits, outside)
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)
    assert set(output.terms) == {"student_sup"}


@pytest.mark.parametrize(("labelled", "unlabelled"), [(1, 1), (1, 4), (5, 2), (3, 1)])
def test_any_two_halves_of_a_batch(labelled: int, unlabelled: int) -> None:
    seen = []
    method = small_method("bcp")
    method.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = small_batch(labelled=labelled, unlabelled=unlabelled)
    output = method.step(batch, LATE)
    assert output.loss.isfinite()
    values = torch.cat([image.flatten(1) for image in seen], dim=1)
    # Every image of the batch is in a mixture: noise pixels are unlike each other.
    for image in [*batch.labelled_image, *batch.unlabelled_image]:
        assert any(bool((mixed == image.flatten()).any()) for mixed in values)


def test_sam_gets_the_truth_of_labelled_pixels_and_nothing_elsewhere() -> None:
    method, batch = small_method("bcp", "tiny"), small_batch(labelled=2, unlabelled=2)
    given = {}

    def keep(_: object, inputs: tuple) -> None:
        given["image"], _, given["label"], _ = inputs

    method.sam.register_forward_pre_hook(keep)
    method.step(batch, LATE)
    label, area = given["label"], 21 * 32
    assert (label[0] == IGNORE).sum() == area  # unlabelled into labelled: the box is unknown
    assert (label[1] != IGNORE).sum() == area  # labelled into unlabelled: the box alone is known
    known = label[0] != IGNORE
    assert torch.equal(label[0][known], batch.label[1][known])
    assert torch.equal(given["image"][0, 0][known], batch.labelled_image[1, 0][known])


def test_pseudo_label_keeps_the_largest_piece_of_each_class_unless_switched_off() -> None:
    image, found = torch.rand(3, 1, *SIZE), {}
    for switch in (True, False):
        method = small_method("bcp", largest_component=switch)
        torch.manual_seed(0)  # the teacher's dropout
        found[switch] = method.pseudo_label(image)
    (kept, removed), (raw, nothing) = found[True], found[False]
    assert torch.equal(kept, largest_components(raw, 3))
    share = int(((raw != 0) & (kept == 0)).sum()) / int((raw != 0).sum())
    assert removed.item() == pytest.approx(share)
    assert 0 < share < 1
    assert nothing == 0


def test_paste_repeats_the_smaller_batch() -> None:
    box = torch.tensor([[True, False]])
    mixed = paste(torch.tensor([[[1, 2]]]), torch.tensor([[[3, 4]], [[5, 6]], [[7, 8]]]), box)
    assert mixed.tolist() == [[[3, 2]], [[5, 2]], [[7, 2]]]
    mixed = paste(torch.tensor([[[3, 4]], [[5, 6]], [[7, 8]]]), torch.tensor([[[1, 2]], [[0, 9]]]), box)
    assert mixed.tolist() == [[[1, 4]], [[0, 6]], [[1, 8]]]


def test_the_paper_pretrains_for_a_quarter_of_the_run_and_a_user_may_change_it() -> None:
    paper = resolve_config({"method": "bcp", "preset": "paper"})
    assert paper.train.pretrain == 0.25
    assert resolve_config({"method": "supervised", "preset": "paper"}).train.pretrain == 0
    assert resolve_config({"method": "bcp", "preset": "paper", "train": {"pretrain": 0.1}}).train.pretrain == 0.1
    assert resolve_config({"method": "bcp", "train": {"steps": 800}}).train.pretrain == 0.3  # as all short runs
    options = BidirectionalCopyPaste.Options()
    assert (options.box, options.unlabelled_weight, options.ema_decay) == (2 / 3, 0.5, 0.99)

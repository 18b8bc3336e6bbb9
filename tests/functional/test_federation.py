"""FedAvg, condensation and fusion against hand values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.functional.federation import best_answers, fedavg, foreground_dice, public_loss
from knowsam.functional.losses import segmentation_loss
from knowsam.networks import UNet
from knowsam.types import IGNORE


def test_fedavg_by_hand() -> None:
    a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([4.0, 8.0])}
    assert fedavg([a, b], [1, 2])["w"].tolist() == [3.0, 6.0]
    assert fedavg([a, b], [5, 0])["w"].tolist() == [1.0, 2.0]


def test_equal_states_stay_bit_equal_and_integer_buffers_survive() -> None:
    state = UNet(1, 2, widths=(4, 8), dropout=(0.0, 0.0)).state_dict()
    mean = fedavg([state, state, state], [3, 7, 11])
    assert mean.keys() == state.keys()
    assert all(torch.equal(mean[name], value) and mean[name].dtype == value.dtype for name, value in state.items())
    counted = [{"num_batches_tracked": torch.tensor(n)} for n in (3, 5)]
    assert fedavg(counted, [1, 1])["num_batches_tracked"].item() == 5
    assert fedavg(counted, [1, 1])["num_batches_tracked"].dtype == torch.int64


def test_the_order_of_clients_does_not_matter() -> None:
    torch.manual_seed(0)
    states = [{"w": torch.randn(100)} for _ in range(4)]
    one, other = fedavg(states, [1, 2, 3, 4]), fedavg(states[::-1], [4, 3, 2, 1])
    torch.testing.assert_close(one["w"], other["w"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("weights", [[0, 0], [1], [1, -1]])
def test_fedavg_refuses_weights_that_are_none(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="expected one above 0"):
        fedavg([{"w": torch.zeros(1)}] * 2, weights)


def answer(label: Tensor, wrong: int) -> Tensor:
    """Certain logits `(1, 2, 1, W)` that follow a label but for its first pixels."""
    found = label.clone()
    found[..., :wrong] = 1 - found[..., :wrong]
    return 8 * F.one_hot(found, 2).permute(0, 3, 1, 2).float()


LABEL = torch.tensor([[[1, 1, 1, 1, 1, 1, 1, 1, 0, 0]]])


def test_quality_is_dice_over_the_foreground() -> None:
    assert foreground_dice(answer(LABEL, 2), LABEL).item() == pytest.approx(12 / 14)
    nothing = torch.zeros_like(LABEL)
    assert foreground_dice(answer(nothing, 0), nothing).item() == 1
    ignored = LABEL.clone()
    ignored[..., :2] = IGNORE
    assert foreground_dice(answer(LABEL, 2), ignored).item() == 1


def test_condensation_takes_the_best_on_each_image() -> None:
    label = LABEL.expand(3, -1, -1)
    wrong = [[1, 2, 8], [2, 0, 7], [3, 1, 6]]  # of three clients on three images
    answers = torch.stack([torch.cat([answer(LABEL, n) for n in client]) for client in wrong])
    chosen, quality = best_answers(answers, label)
    assert torch.equal(chosen, torch.stack([answers[0, 0], answers[1, 1], answers[2, 2]]))
    # Dice of the best on the third image, 4 / 10, does not open the gate.
    torch.testing.assert_close(quality, torch.tensor([14 / 15, 1.0, 0.0]))


def test_nothing_is_distilled_where_the_learner_is_as_good() -> None:
    """RC where the global network is best, RF where a client is better than the global one."""
    own = answer(LABEL, 1).requires_grad_()
    quality = foreground_dice(answer(LABEL, 2), LABEL)
    alone = segmentation_loss(own, LABEL)
    loss = public_loss(own, LABEL, answer(LABEL, 2), quality)
    assert torch.equal(loss, alone)
    assert torch.equal(*(torch.autograd.grad(one, own, retain_graph=True)[0] for one in (loss, alone)))


def test_the_better_teacher_is_distilled_as_in_hssf() -> None:
    torch.manual_seed(0)
    label = LABEL.expand(2, -1, -1)
    own = torch.cat([answer(LABEL, 0), answer(LABEL, 5)]).requires_grad_()
    teacher = torch.cat([answer(LABEL, 1), answer(LABEL, 1)]) / 3
    loss = public_loss(own, label, teacher, foreground_dice(teacher, label))
    log_q, log_p = (F.log_softmax(z / 2, dim=1) for z in (teacher, own))
    divergence = (log_q.exp() * (log_q - log_p)).mean(dim=(1, 2, 3))  # over pixels and classes
    expected = segmentation_loss(own, label) + 10 * torch.stack([0 * divergence[0], divergence[1]]).mean()
    torch.testing.assert_close(loss, expected)
    gradient = torch.autograd.grad(loss - segmentation_loss(own, label), own)[0]
    assert gradient[0].abs().max() < 1e-8
    assert gradient[1].abs().max() > 1e-3

"""What is particular to SSS, against naive restatements."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.data.augment import weak_augmentation
from knowsam.errors import InputError
from knowsam.functional.boxes import class_places
from knowsam.methods.registry import register_method
from knowsam.methods.sss import SSS, estimated_iou
from knowsam.types import IGNORE, Batch, Progress
from support.training import SIZE, small_batch, small_method

START, LATE = Progress(0, 100), Progress(90, 100)


def seeded(method: SSS, batch: Batch | None = None, progress: Progress = LATE) -> dict[str, float]:
    torch.manual_seed(5)
    return {name: value.item() for name, value in method.step(batch or small_batch(), progress).terms.items()}


def test_the_loss_is_the_sum_of_its_terms() -> None:
    output = small_method("sss").step(small_batch(), LATE)
    assert output.loss.item() == pytest.approx(
        sum(output.terms[f"student_{name}"].item() for name in ("sup", "strong"))
    )


@pytest.mark.parametrize("pair", ["weak_strong", "strong_strong"])
@pytest.mark.parametrize("combine", ["add", "replace"])
def test_at_step_0_dfe_is_the_plain_network_and_at_step_1_all_of_it_learns(combine: str, pair: str) -> None:
    method, plain = small_method("sss", combine=combine, pair=pair), small_method("sss", combine="none")
    assert seeded(method) == seeded(plain)
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        method.step(small_batch(), LATE).loss.backward()
        optimiser.step()
    assert all(bool(parameter.grad.abs().max() > 0) for parameter in method.enhance.parameters())
    assert seeded(method) != seeded(plain)


def test_dfe_gets_the_views_that_are_named() -> None:
    batch, seen = small_batch(), {}
    for pair in ("weak_strong", "strong_strong"):
        method = small_method("sss", pair=pair)
        method.strong, method.network = torch.nn.Identity(), method.network.eval()
        method.enhance.register_forward_hook(lambda module, views, result, pair=pair: seen.update({pair: views}))
        torch.manual_seed(0)
        method.step(batch, LATE)
        weak = method.network.encode(batch.unlabelled_image)
        other, own = seen[pair]
        for level, feature in enumerate(weak):
            if pair == "weak_strong":
                torch.testing.assert_close(other[level], feature.repeat(2, 1, 1, 1))
                assert not other[level].requires_grad
            else:
                assert torch.equal(other[level], torch.cat([own[level][3:], own[level][:3]]))


def test_terms_naive() -> None:
    method, batch = small_method("sss", combine="none", memory=0), small_batch(labelled=2, unlabelled=3)
    method.network.eval()  # no dropout
    method.ema_teacher.eval()
    method.strong = torch.nn.Identity()
    method.options = method.options.model_copy(update={"cutmix": 0.0})
    rejected = torch.zeros(3, *SIZE, dtype=torch.long)
    rejected[:, :7] = IGNORE
    terms = seeded(method, dataclasses.replace(batch, unlabelled_map=rejected))
    logits = method.network(batch.unlabelled_image)
    total = known = 0.0
    for b in range(3):
        for y in range(7, SIZE[0]):
            for x in range(SIZE[1]):
                total += F.cross_entropy(logits[b, :, y, x], logits[b, :, y, x].argmax()).item()
                known += 1
    assert terms["student_strong"] == pytest.approx(total / known, rel=1e-4)
    assert terms["share_learned"] == pytest.approx(1 - 7 / SIZE[0])


def test_who_labels_the_weak_view() -> None:
    teacher = torch.zeros(1, 2, 1, 4)
    teacher[0, 1] = torch.tensor([[2.0, 2.0, -2.0, 3.0]])
    sam = torch.zeros(1, 2, 1, 4)
    sam[0, 1] = torch.tensor([[-1.0, -3.0, 3.0, 1.0]])
    rough = torch.tensor([[[1, 1, 0, IGNORE]]])

    def label(who: str, answer: Tensor | None) -> list[int]:
        return small_method("sss", K=2, teacher=who).pseudo_label(teacher, answer, rough).flatten().tolist()

    assert label("student", sam) == label("sam", None) == [1, 1, 0, IGNORE]
    assert label("sam", sam) == [0, 0, 1, 1]
    assert label("mean", sam) == [1, 0, 1, 1]


def test_sam_has_no_say_before_its_start() -> None:
    method, said = small_method("sss", "tiny", sam_start=0.5), []
    original = method.pseudo_label
    method.pseudo_label = lambda *arguments: said.append(arguments[1]) or original(*arguments)
    for step in (49, 50):
        method.step(small_batch(), Progress(step, 100))
    assert said[0] is None
    assert said[1].shape == (3, 3, *SIZE)


@pytest.mark.parametrize("sam", ["tiny", "small_lite_medsam"])
def test_the_truth_never_prompts_sam(sam: str) -> None:
    batch, seen = small_batch(), {}
    for name, label in {"truth": batch.label, "another": batch.label.flip(1, 2)}.items():
        method, prompts = small_method("sss", sam), []
        encoder, places = method.sam.teacher.sam.prompt_encoder, method.sam.teacher.sam.shared_image_embedding
        for module in (encoder.mask_embed, places):
            module.register_forward_pre_hook(lambda module, given, prompts=prompts: prompts.append(given[0].clone()))
        seeded(method, dataclasses.replace(batch, label=label))
        seen[name] = prompts
    assert len(seen["truth"]) >= 2
    assert all(torch.equal(a, b) for a, b in zip(*seen.values(), strict=True))


def test_the_objects_of_the_volume_prompt_sam_on_unlabelled_images() -> None:
    method, given = small_method("sss", "tiny"), []
    ask = method.sam.teacher.ask
    method.sam.teacher.ask = lambda image, prompt, regions, **named: (
        given.append(regions) or ask(image, prompt, regions, **named)
    )
    maps = torch.zeros(3, *SIZE, dtype=torch.long)
    maps[1, 4:9, 10:20] = 2
    maps[2, 0, 0] = IGNORE
    seeded(method, dataclasses.replace(small_batch(), unlabelled_map=maps))
    assert torch.equal(given[0][2:], maps)
    found = class_places(given[0], 3)
    assert found.found[2:].tolist() == [[False] * 3, [False, False, True], [False] * 3]


def test_a_flip_of_image_and_map_flips_the_box() -> None:
    """Maps travel with their image through the augmentation, and boxes are read off afterwards."""
    torch.manual_seed(1)
    augmentation = weak_augmentation(SIZE, "horizontal")
    augmentation.holes_p = 0.0
    own_map = torch.zeros(16, *SIZE, dtype=torch.long)
    own_map[:, 4:20, 6:18] = 1
    image = own_map[:, None].float() * 0.5 + 0.2
    warped, moved = augmentation(image, own_map)
    assert (moved[:, 10, 30:42] == 1).any(), "no image was flipped"
    assert (moved[:, 10, 6:18] == 1).all(dim=1).any(), "no image was left"
    for one, brightness, place in zip(moved, warped[:, 0], class_places(moved, 2).box[:, 1], strict=True):
        x0, y0, x1, y1 = (place * torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])).long().tolist()
        inside = one == 1
        assert inside[y0:y1, x0:x1].sum() == inside.sum()
        assert brightness[inside].mean() > brightness[one == 0].mean() + 0.2  # the object is still under its map


def test_rough_masks_are_those_of_the_ema_teacher_at_the_last_renewal() -> None:
    method, batch = small_method("sss", prompt_every=3), small_batch()
    image = torch.rand(5, 1, *SIZE)
    labelled_only = dataclasses.replace(batch, unlabelled_image=None)
    assert not method.before_step(labelled_only, Progress(0, 100))
    with torch.no_grad():
        for parameter in method.ema_teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    renewals = [method.before_step(batch, Progress(step, 100)) for step in range(4, 11)]
    assert renewals == [True, False, False, True, False, False, True]
    expected = method.accepted(method.ema_teacher.eval()(image).argmax(dim=1))
    assert torch.equal(method.train().label_volume(image), expected)
    method.ema_teacher.head.weight.data.neg_()
    assert torch.equal(method.label_volume(image), expected)
    copy = small_method("sss", prompt_every=3)
    copy.load_state_dict(method.state_dict())
    assert torch.equal(copy.label_volume(image), expected)
    assert not copy.before_step(batch, Progress(12, 100))


def test_what_does_not_belong_to_the_object_of_a_volume_is_not_learned_from() -> None:
    method = small_method("sss", K=2)
    rough = torch.zeros(6, *SIZE, dtype=torch.long)
    rough[1:5, 8:20, 8:20] = 1
    rough[2, 28:31, 40:44] = 1
    accepted = method.accepted(rough)
    assert (accepted == IGNORE).sum() == 12
    assert (accepted == 1).sum() == 4 * 144


def test_the_memory_is_filled_after_a_step_and_looked_into_at_the_next() -> None:
    method = small_method("sss", memory=4)
    looked = []
    method.attend.register_forward_hook(lambda module, given, result: looked.append(given[1].shape))
    for step in range(3):
        method.step(small_batch(), Progress(step, 100)).loss.backward()
        assert len(method.bank) == min(4, 3 * step)
        method.after_step(Progress(step, 100))
    assert looked == [(6, 3, 256)] * 2
    assert len(method.bank) == 4


def test_a_prediction_is_as_good_as_it_is_sure_of_its_foreground() -> None:
    logits = torch.zeros(2, 2, 1, 2)
    logits[0, 1, 0] = torch.tensor([0.0, 2.0]).add(1e-6)
    probs = logits.softmax(dim=1)[0, 1, 0]
    assert estimated_iou(logits)[0].item() == pytest.approx(probs.mean().item())
    assert estimated_iou(logits)[1] == 0


def test_the_student_knows_nothing_of_the_modules_around_it() -> None:
    method = small_method("sss", memory=4)
    assert not any(name.startswith(("enhance", "bank", "attend", "prompter")) for name in method.student().state_dict())
    assert method.student_spec()["name"] == "unet"


def test_a_network_whose_features_are_out_of_reach_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'cotrained' was found, but sss expected a network whose features"):
        small_method("sss", network="cotrained")
    assert small_method("sss", network="cotrained", combine="none").step(small_batch(), LATE).loss.isfinite()


def test_a_method_that_labels_volumes_must_look_at_weak_views() -> None:
    class Distorting(SSS):
        unlabelled_view = "strong"

    with pytest.raises(InputError, match=r"Distorting under 'distorting' labels volumes .* but expected 'weak'"):
        register_method("distorting", Distorting)

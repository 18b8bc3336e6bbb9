"""What is particular to preference alignment, against a naive restatement."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from knowsam.config import resolve_config
from knowsam.errors import InputError
from knowsam.functional.preference import rank_weights
from knowsam.methods import Method
from knowsam.training.build import build_method
from knowsam.types import IGNORE, Batch, Progress
from support.small_sam import small_sam
from support.training import SIZE, small_batch, small_method

LATE = Progress(90, 100)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)


def taught(sam: str = "none", K: int = 3, **options: Any) -> Any:
    """A method whose reference has an opinion, and from which network and EMA teacher have moved away."""
    method = small_method("preference", sam, K, **options)
    networks = [method.network, *([method.ema_teacher] if method.ema_teacher is not None else [])]
    for network, factor in (*((one, 300) for one in networks), (method.reference, 250)):
        for name, weight in network.named_parameters():
            if name.endswith("head.weight"):
                weight.data.mul_(factor)
    return method


def with_hidden(batch: Batch, K: int = 3) -> Batch:
    """The batch with the masks of its unlabelled half."""
    batch.unlabelled_label = small_batch(K, labelled=3, unlabelled=0, seed=7).label
    return batch


def stepped(method: Any, batch: Batch, progress: Progress = LATE) -> Any:
    torch.manual_seed(5)
    return method.step(batch, progress)


def naive_preference(z: Tensor, z_ref: Tensor, scores: Tensor, b: tuple[float, float] = (1.0, 0.5)) -> float:
    """`L_pref` from four log-likelihoods per image and foreground class, over the pixels in which candidates differ."""
    p, p_ref = z.softmax(dim=1).double(), z_ref.softmax(dim=1).double()
    found = []
    for i in range(len(z)):
        for c in range(1, z.shape[1]):
            masks = [p_ref[i, c] > t for t in THRESHOLDS]
            stack = torch.stack(masks)
            region = stack.any(0) & ~stack.all(0)
            values = scores[i, c - 1].tolist()
            if not region.any() or len(set(values)) == 1:
                continue
            ratio = torch.zeros((), dtype=torch.float64)
            for m in range(4):
                ranks = [r for r, value in enumerate(sorted(values, reverse=True)) if value == values[m]]
                weight = sum((b[0], b[1], -b[1], -b[0])[r] for r in ranks) / len(ranks)
                for probs, sign in ((p, 1), (p_ref, -1)):
                    likelihood = torch.where(masks[m], probs[i, c], 1 - probs[i, c]).log()[region].mean()
                    ratio += sign * weight * likelihood
            found.append(F.softplus(-ratio).item())
    assert found
    return sum(found) / len(found)


def naive_scores(z_ref: Tensor, target: Tensor) -> Tensor:
    """Dice of the candidates of each foreground class with a mask or probability `(B, K - 1, H, W)`."""
    p = z_ref.softmax(dim=1)[:, 1:]
    rows = []
    for t in THRESHOLDS:
        y = (p > t).float()
        rows.append(2 * (y * target).sum((2, 3)) / (y.sum((2, 3)) + target.sum((2, 3))))
    return torch.stack(rows, dim=-1)


def one_hot(label: Tensor, K: int = 3) -> Tensor:
    return torch.stack([(label == c).float() for c in range(1, K)], dim=1)


@pytest.mark.parametrize("judge", ["agreement", "confidence", "oracle_rank"])
def test_a_step_against_the_likelihoods_of_the_candidates(judge: str) -> None:
    method, batch = taught(judge=judge, ramp_end=0.0), with_hidden(small_batch())
    image, network = batch.unlabelled_image, copy.deepcopy(method.network)
    output = stepped(method, batch)
    z, z_ref = network.eval()(image), method.reference(image)
    for module in network.modules():
        module.train(isinstance(module, torch.nn.Dropout))
    torch.manual_seed(5)
    labelled = network(batch.labelled_image)  # draws its dropout before the judge draws its noise
    if judge == "agreement":
        noise = (0.1 * torch.randn_like(image)).clamp(-0.2, 0.2)
        scores = naive_scores(z_ref, method.ema_teacher.eval()(image + noise).softmax(dim=1)[:, 1:])
    else:
        target = z_ref.softmax(dim=1)[:, 1:] if judge == "confidence" else one_hot(batch.unlabelled_label)
        scores = naive_scores(z_ref, target)
    preference = naive_preference(z, z_ref, scores)
    assert output.terms["student_pref"].item() == pytest.approx(preference, rel=1e-4)
    p_ref = z_ref.softmax(dim=1)
    cuts = torch.stack([p_ref[:, 1:] > t for t in THRESHOLDS])
    region = cuts.any(0) & ~cuts.all(0)
    divergence = (p_ref * (p_ref.log() - z.log_softmax(dim=1))).sum(dim=1)
    stay = divergence[~region.any(dim=1)].mean().item()
    assert output.terms["student_stay"].item() == pytest.approx(stay, rel=1e-3)
    assert output.terms["share_ring"].item() == pytest.approx(region.float().mean().item())
    p, truth = labelled.softmax(dim=1), F.one_hot(batch.label, 3).movedim(-1, 1)
    overlap, squares = (p * truth).sum((0, 2, 3)), (p**2).sum((0, 2, 3)) + truth.sum((0, 2, 3))
    supervised = F.cross_entropy(labelled, batch.label).item() + (1 - 2 * overlap / squares).mean().item()
    assert output.terms["student_sup"].item() == pytest.approx(supervised, rel=1e-4)
    total = supervised + preference + 0.1 * stay
    assert output.loss.item() == pytest.approx(total, rel=1e-4)


def test_the_weights_of_the_terms() -> None:
    batch = small_batch()
    output = stepped(taught(anchor_weight=0.25, stay_weight=3.0, ramp_end=0.0), batch)
    terms = {name: value.item() for name, value in output.terms.items()}
    total = 0.25 * terms["student_sup"] + terms["student_pref"] + 3 * terms["student_stay"]
    assert output.loss.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("step", "u"), [(6, 0.0), (10, 0.5), (14, 1.0), (17, 1.0)])
def test_preferences_set_in_slowly_over_the_second_stage(step: int, u: float) -> None:
    # A third of the run is stage 1, and two thirds of stage 2 are the ramp.
    output = stepped(taught(ramp_end=2 / 3), small_batch(), Progress(step, 18))
    terms = {name: value.item() for name, value in output.terms.items()}
    weight = math.exp(-5 * (1 - u) ** 2)
    total = terms["student_sup"] + weight * (terms["student_pref"] + 0.1 * terms["student_stay"])
    assert output.loss.item() == pytest.approx(total, rel=1e-5)


def test_before_anything_has_moved_the_preference_costs_log_2() -> None:
    method = taught()
    method.network.load_state_dict(method.reference.state_dict())
    output = stepped(method, small_batch())
    assert output.terms["student_pref"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert output.terms["student_stay"].item() == pytest.approx(0, abs=1e-6)


def test_the_mean_over_the_image_is_the_region_s_divided_by_its_pixels() -> None:
    batch, shifts = small_batch(), {}
    for normalise in ("region", "mean"):
        method = taught(normalise=normalise, anchor_weight=0.0, stay_weight=0.0)
        method.network.load_state_dict(method.reference.state_dict())
        stepped(method, batch).loss.backward()
        shifts[normalise] = method.network.head.bias.grad.abs().max().item()
    assert 0 < shifts["mean"] < shifts["region"]


def test_the_reference_follows_the_first_stage_to_the_last_bit_and_stays_afterwards() -> None:
    method = small_method("preference")
    optimiser = torch.optim.AdamW(method.parameter_groups()[0].parameters, lr=1e-2)

    def train(unlabelled: int) -> None:
        optimiser.zero_grad()
        stepped(method.train(), small_batch(unlabelled=unlabelled)).loss.backward()
        optimiser.step()
        method.after_step(LATE)

    for _ in range(2):
        train(0)
        state = method.network.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in method.reference.state_dict().items())
    kept = copy.deepcopy(method.reference.state_dict())
    for _ in range(2):
        train(3)
    assert all(torch.equal(value, kept[key]) for key, value in method.reference.state_dict().items())
    assert not torch.equal(method.network.head.weight, kept["head.weight"])
    assert not method.reference.training
    assert method.network.training


def test_a_large_weight_keeps_the_network_at_its_reference_elsewhere() -> None:
    divergence = {}
    for weight in (0.0, 100.0):
        method, batch = small_method("preference", stay_weight=weight, judge="confidence"), small_batch()
        optimiser = torch.optim.AdamW(method.parameter_groups()[0].parameters, lr=2e-3)
        for step in range(34):
            if step == 20:
                optimiser.param_groups[0]["lr"] = 3e-4
            output = stepped(method, batch if step >= 20 else small_batch(unlabelled=0))
            optimiser.zero_grad()
            output.loss.backward()
            optimiser.step()
            method.after_step(LATE)
        divergence[weight] = output.terms["student_stay"].item()
    assert divergence[100.0] < 0.05 < 0.5 < divergence[0.0]


@pytest.mark.parametrize(("judge", "reads"), [("agreement", False), ("confidence", False), ("oracle_rank", True)])
def test_the_truth_of_unlabelled_images_matters_to_an_oracle_alone(judge: str, reads: bool) -> None:
    losses = []
    for change in (lambda y: y, lambda y: y.flip(-1), lambda y: torch.full_like(y, IGNORE)):
        batch = with_hidden(small_batch())
        batch.unlabelled_label = change(batch.unlabelled_label)
        losses.append(stepped(taught(judge=judge), batch).terms["student_pref"].item())
    assert (losses[0] != losses[1]) == reads
    assert (losses[2] == losses[0]) == (not reads)
    assert (losses[2] == 0) == reads  # nothing is known, so nothing is preferred


def test_ratings_are_those_of_the_bins_of_iou() -> None:
    method, batch = taught(judge="oracle_rating", K=2), with_hidden(small_batch(2), 2)
    z_ref = method.reference(batch.unlabelled_image)
    candidates = torch.stack([z_ref.softmax(dim=1)[:, 1:] > t for t in THRESHOLDS], dim=2)
    batch.unlabelled_label = candidates[:, 0, 0].long()  # the largest candidate is the truth
    weights = method.weights(candidates, z_ref, batch.unlabelled_image, batch.unlabelled_label)
    truth = candidates[:, :, :1]
    iou = (candidates & truth).sum((3, 4)) / (candidates | truth).sum((3, 4))
    rating = 1 + sum((iou >= edge).float() for edge in (0.4, 0.55, 0.7))
    away = rating - rating.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(weights, away / away.abs().amax(dim=-1, keepdim=True).clamp(min=1e-9))
    assert weights[..., 0].max() > 0


@pytest.mark.parametrize("sam", ["tiny", "small_lite_medsam"])
def test_sam_ranks_by_its_estimate_of_its_answers_to_the_candidates(sam: str) -> None:
    method, batch = taught(sam, judge="iou_head"), small_batch()
    z_ref = method.reference(batch.unlabelled_image)
    candidates = torch.stack([z_ref.softmax(dim=1)[:, 1:] > t for t in THRESHOLDS], dim=2)
    weights = method.weights(candidates, z_ref, batch.unlabelled_image, None)
    teacher = method.sam.teacher.eval()
    teacher.prompt = "mask"
    quality = []
    for m in range(4):
        masks = torch.cat([~candidates[:, :, m].any(1, keepdim=True), candidates[:, :, m]], dim=1)
        question = teacher.ask(batch.unlabelled_image, 20.0 * masks - 10)
        quality.append(teacher.answer(question)[1][:, 1:])
    assert weights.abs().max() == 1
    assert torch.equal(weights, rank_weights(torch.stack(quality, dim=-1), (1.0, 0.5)))
    assert stepped(method, batch).terms["student_pref"].isfinite()


@pytest.fixture(scope="module")
def hq_sam(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hq")
    small_sam(hq=True).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("sam", ["tiny", "small_lite_medsam", "hq"])
def test_on_sam_the_second_stage_teaches_its_decoder_alone(sam: str, hq_sam: str) -> None:
    method = small_method("preference", hq_sam if sam == "hq" else sam, target="sam")
    decoder = method.sam.teacher.sam.mask_decoder
    learning = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert learning > {name for name in learning if ".adapter." in name}
    first = stepped(method, small_batch(unlabelled=0))
    assert "sam_pref" not in first.terms
    first.loss.backward()
    assert method.sam.teacher.prompts.heads[0].feed_forward[2].weight.grad is not None
    method.after_step(LATE)
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), method.reference.parameters(), strict=True))
    method.zero_grad(set_to_none=True)
    output = stepped(method, small_batch())
    judged = output.terms["share_judged"] > 0
    assert output.terms["sam_pref"].item() == pytest.approx(math.log(2) if judged else 0, abs=1e-5)
    (output.terms["sam_pref"] + output.terms["sam_stay"] + output.terms["sam_sup"]).backward()
    reached = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert reached
    assert all(name.startswith("sam.teacher.sam.mask_decoder.") for name in reached)


def test_on_sam_the_reference_is_another_decoder_for_the_same_question() -> None:
    method, batch = small_method("preference", "tiny", target="sam"), small_batch()
    before = method.sam.teacher.answer(method.sam.teacher.ask(batch.unlabelled_image, torch.zeros(3, 3, *SIZE)))[0]
    with torch.no_grad():
        for parameter in method.sam.teacher.sam.mask_decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    question = method.sam.teacher.ask(batch.unlabelled_image, torch.zeros(3, 3, *SIZE), frozen=True)
    moved = method.sam.teacher.answer(question)[0]
    kept = method.sam.teacher.answer(question, method.reference)[0]
    torch.testing.assert_close(kept, before, rtol=1e-3, atol=1e-3)
    assert (moved - before).abs().max() > 0.1
    output = stepped(method, batch)
    assert output.terms["sam_stay"] > 0
    anchored = small_method("preference", "tiny", target="sam", anchor_weight=0.5, ramp_end=0.0)
    output = stepped(anchored, batch)
    terms = {name: value.item() for name, value in output.terms.items()}
    total = terms["student_sup"] + 0.5 * terms["sam_sup"] + terms["sam_kd"] + terms["sam_pref"]
    assert output.loss.item() == pytest.approx(total + 0.1 * terms["sam_stay"], rel=1e-5)


def test_saliency_learns_from_labels_of_images_in_the_first_stage_and_prompts_sam() -> None:
    method = small_method("preference", "tiny", prompts="saliency")
    first = stepped(method, small_batch(unlabelled=0))
    assert "saliency_sup" in first.terms
    first.loss.backward()
    assert method.sam.prompter.head.weight.grad is not None
    asked: list[Tensor] = []
    ask = method.sam.teacher.ask
    method.sam.teacher.ask = lambda image, prompt, *more, **named: (
        asked.append(prompt) or ask(image, prompt, *more, **named)
    )
    batch = small_batch()
    second = stepped(method, batch)
    assert "saliency_sup" not in second.terms
    assert torch.equal(asked[0], method.sam.prompter(torch.cat([batch.labelled_image, batch.unlabelled_image])))
    # Both labelled images show both classes: nothing can be learnt from that, which is said once.
    assert "class 1, 2" in method.sam.take_warning()
    stepped(method, batch)
    assert method.sam.take_warning() is None


def test_texts_are_one_more_token_and_change_nothing_in_the_beginning(tmp_path: Path) -> None:
    save_file({"texts": torch.randn(3, 7)}, tmp_path / "texts.safetensors")
    plain = small_method("preference", "tiny")
    method = small_method("preference", "tiny", prompts=f"text:{tmp_path / 'texts.safetensors'}")
    batch = small_batch()
    question = method.sam.teacher.ask(batch.unlabelled_image, torch.zeros(3, 3, *SIZE))
    tokens = plain.sam.teacher.ask(batch.unlabelled_image, torch.zeros(3, 3, *SIZE)).tokens
    nothing = method.sam.teacher.sam.prompt_encoder.not_a_point_embed.weight[0]
    assert question.tokens.shape[1] == tokens.shape[1] + 1
    torch.testing.assert_close(question.tokens[:, -1], nothing.expand(9, -1))
    stepped(method, batch).loss.backward()
    assert method.sam.teacher.text.project.weight.grad.abs().max() > 0
    held = {id(parameter) for parameter in method.parameter_groups()[1].parameters}
    assert id(method.sam.teacher.text.project.weight) in held


def refused(sam: str = "none", train: dict[str, Any] | None = None, **options: Any) -> str:
    values = {"method": "preference", "sam": sam, "options": options, "data": {"size": SIZE}}
    with pytest.raises(InputError) as caught:
        build_method(resolve_config(values, {"train": {"steps": 100, **(train or {})}}), 1, 3)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "expected" in sentence
    return sentence


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"thresholds": [0.3, 0.5, 0.4, 0.6]}, "options.thresholds: [0.3, 0.5, 0.4, 0.6] was found"),
        ({"thresholds": [0.0, 0.5]}, "increasing probabilities"),
        ({"thresholds": [0.5]}, "two or more"),
        ({"thresholds": [0.3, 0.5], "pair_weights": [1, 0.5]}, "one weight per pair of thresholds, 1 here"),
        ({"judge": "iou_head"}, "options.judge: 'iou_head' was found, but expected a SAM"),
        ({"target": "sam"}, "options.target: 'sam' was found, but expected a SAM"),
        ({"prompts": "saliency"}, "options.prompts: 'saliency' was found, but expected a SAM"),
        ({"prompts": "box"}, "student, saliency or text:FILE"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(options: dict[str, Any], said: str) -> None:
    assert said in refused(**options)


def test_a_run_without_a_first_stage_is_refused() -> None:
    assert "train.pretrain: 0 was found" in refused(train={"pretrain": 0.0})


def test_a_sam_without_an_estimate_of_its_iou_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from knowsam.sam.teacher import SamTeacher

    monkeypatch.setattr(SamTeacher, "estimates_iou", property(lambda self: False))
    assert "estimates the IoU" in refused("tiny", judge="iou_head")
    monkeypatch.undo()
    teacher = small_method("preference", "tiny").sam.teacher
    assert teacher.estimates_iou
    del teacher.sam.mask_decoder.iou_prediction_head
    assert not teacher.estimates_iou


def test_texts_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "texts.safetensors"
    assert "could not be read" in refused("tiny", prompts=f"text:{path}")
    path.write_bytes(b"no safetensors")
    assert "could not be read" in refused("tiny", prompts=f"text:{path}")
    save_file({"texts": torch.zeros(4, 7)}, path)
    sentence = refused("tiny", prompts=f"text:{path}")
    assert "(4, 7)" in sentence
    assert "3 rows, one per class" in sentence
    save_file({"texts": torch.full((3, 7), math.nan)}, path)
    assert "finite" in refused("tiny", prompts=f"text:{path}")


def test_a_text_s_path_means_the_same_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve_config({"method": "preference", "options": {"prompts": "text:a.safetensors"}})
    assert config.options["prompts"] == f"text:{tmp_path.resolve() / 'a.safetensors'}"


def test_three_candidates_and_other_weights_are_possible() -> None:
    method: Method = small_method("preference", thresholds=[0.4, 0.5, 0.6], pair_weights=[2.0])
    assert stepped(method, small_batch()).loss.isfinite()

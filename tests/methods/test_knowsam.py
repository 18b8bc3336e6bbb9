"""KnowSAM's step against the equations of the paper, written out without any function of the library's losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.config import resolve_config
from knowsam.errors import InputError
from knowsam.methods import join_halves
from knowsam.types import IGNORE, Batch, Progress
from support.training import SIZE, small_batch, small_method


def seg(logits: Tensor, label: Tensor) -> Tensor:
    """CE + Dice over the labelled pixels of the batch."""
    K = logits.shape[1]
    pixels = logits.permute(0, 2, 3, 1)[label != IGNORE]
    y = label[label != IGNORE]
    p, g = pixels.softmax(dim=1), F.one_hot(y, K).float()
    ce = -p[torch.arange(len(y)), y].log().mean()
    dice = [
        1 - (2 * (p[:, c] * g[:, c]).sum() + 1e-10) / ((p[:, c] ** 2).sum() + (g[:, c] ** 2).sum() + 1e-10)
        for c in range(K)
    ]
    return ce + sum(dice) / K


def entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(dim=1)
    return -(p * (p + 1e-6).log()).sum(dim=1)


def cons(logits: Tensor, other: Tensor) -> Tensor:
    p, q = logits.softmax(dim=1), other.softmax(dim=1)
    return -(q * p.log() + (1 - q) * (1 - p).log()).mean()


def kd(logits: Tensor, sam: Tensor, T: float = 10.0) -> Tensor:
    p, q = (logits / T).softmax(dim=1), (sam / T).softmax(dim=1)
    return T**2 * (q * (q / p).log()).sum(dim=1).mean()


def exchange_pixel_by_pixel(
    batch: Batch, fused: Tensor, teacher: Tensor, select: str, cells: int = 5, grid: int = 4
) -> tuple[Tensor, Tensor]:
    """Section 4, one pixel after the other."""
    count, (height, width) = len(batch.labelled_image), batch.label.shape[-2:]
    x = [*batch.labelled_image.numpy(), *batch.unlabelled_image.numpy()]
    y = [*batch.label.numpy(), *teacher[count:].argmax(dim=1).numpy()]
    maps = entropy(fused).numpy()
    mixed_x, mixed_y = [image.copy() for image in x], [label.copy() for label in y]
    for b in range(len(x)):
        members: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for h in range(height):
            for w in range(width):
                members.setdefault((h * grid // height, w * grid // width), []).append((h, w))
        means = {cell: np.mean([maps[b, h, w] for h, w in at]) for cell, at in members.items()}
        chosen = sorted(means, key=means.__getitem__, reverse=select == "uncertain")[:cells]
        # Labelled image b and unlabelled image b are partners; the smaller half is gone through again.
        partner = count + b % (len(x) - count) if b < count else (b - count) % count
        for cell in chosen:
            for h, w in members[cell]:
                mixed_x[b][:, h, w] = x[partner][:, h, w]
                mixed_y[b][h, w] = y[partner][h, w]
    return torch.from_numpy(np.stack(mixed_x)), torch.from_numpy(np.stack(mixed_y))


def batch_with_unannotated_pixels(labelled: int, unlabelled: int) -> Batch:
    batch = small_batch(3, labelled, unlabelled)
    batch.label[0, 20:, :10] = IGNORE
    return batch


@pytest.mark.parametrize("halves", [(2, 3), (3, 1), (2, 2)])
@pytest.mark.parametrize("select", ["uncertain", "confident"])
def test_exchange_cells_naive(halves: tuple[int, int], select: str) -> None:
    method = small_method("knowsam", ugda_select=select)
    batch = batch_with_unannotated_pixels(*halves)
    fused, teacher = torch.randn(2, sum(halves), 3, *SIZE, generator=torch.Generator().manual_seed(1))
    teacher = teacher.softmax(dim=1)
    image, label = method.exchange_cells(batch, fused, teacher)
    expected_image, expected_label = exchange_pixel_by_pixel(batch, fused, teacher, select)
    assert torch.equal(image, expected_image)
    assert torch.equal(label, expected_label)


@torch.no_grad()
def test_exchange_cells_takes_the_highest_or_the_lowest_entropy() -> None:
    # Certain everywhere but in the upper left cell of both images.
    fused = torch.zeros(2, 3, *SIZE)
    fused[:, 0] = 20.0
    fused[:, 0, :8, :12] = 0.0
    batch = small_batch(3, 1, 1)
    for select, changed in (("uncertain", True), ("confident", False)):
        method = small_method("knowsam", ugda_select=select, ugda_cells=1)
        image, _ = method.exchange_cells(batch, fused, fused.softmax(dim=1))
        assert torch.equal(image[0, :, :8, :12], batch.unlabelled_image[0, :, :8, :12]) == changed


OPTIONS = {
    "paper": {},
    "ramps": {"entropy_ramp": True, "ramp_end": 0.5, "consistency_weight": 0.7},
    "short": {"residual_fusion": True, "ugda_teacher": "mean", "standardise": True},
    "fused": {"ugda_teacher": "fused"},
    "confident": {"ugda_select": "confident", "ugda_cells": 3, "entropy_weight": 0.3, "vnet_normalisation": "batch"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("step", [10, 40])
@pytest.mark.parametrize("sam", ["none", "tiny"])
@pytest.mark.parametrize("halves", [(2, 3), (3, 1)])
@torch.no_grad()
def test_step_naive(options: dict, step: int, sam: str, halves: tuple[int, int]) -> None:
    method = small_method("knowsam", sam, **options).eval()  # no dropout: the students give the same again
    batch = batch_with_unannotated_pixels(*halves)
    if sam != "none":
        method.sam.kd_weight, method.sam.kd_ramp = 0.6, "entropy_ramp" in options
    output = method.step(batch, Progress(step, 100))

    t = step / 100
    ramp = math.exp(-5 * (1 - min(1.0, t / options.get("ramp_end", 1.0))) ** 2)
    lam = options.get("consistency_weight", 1.0) * ramp
    w_ent = options.get("entropy_weight", 0.9) * (ramp if options.get("entropy_ramp") else 1.0)
    w_kd = 0.6 * (math.exp(-5 * (1 - t) ** 2) if "entropy_ramp" in options else 1.0)
    count, y = halves[0], batch.label
    image = torch.cat([batch.labelled_image, batch.unlabelled_image])
    z = method.students.outputs(image)
    other = {"unet": "vnet", "vnet": "unet"}
    expected: dict[str, Tensor] = {}
    loss = expected["fused_sup"] = seg(z["fused"][:count], y)
    for k in ("unet", "vnet"):
        expected[f"{k}_sup"] = seg(z[k][:count], y)
        expected[f"{k}_ent"] = entropy(z[k]).mean() / math.log(3)
        expected[f"{k}_cons"] = cons(z[k], z[other[k]])
        loss = loss + 0.5 * (expected[f"{k}_sup"] + w_ent * expected[f"{k}_ent"] + lam * expected[f"{k}_cons"])
    teacher = z["fused"]
    if sam != "none":
        teacher = method.sam.teacher(image, z["fused"])
        expected["sam_sup"] = seg(teacher[:count], y)
        expected["sam_kd"] = 0.5 * (kd(z["unet"], teacher) + kd(z["vnet"], teacher))
        loss = loss + expected["sam_sup"] + w_kd * expected["sam_kd"]
    if t >= 0.24:
        # The pseudo-label is SAM's unless the option says otherwise, and the fused map's where there is no SAM.
        p_sam, p_fused = teacher.softmax(dim=1), z["fused"].softmax(dim=1)
        who = options.get("ugda_teacher", "sam")
        scores = {"sam": p_sam, "fused": p_fused, "mean": (p_sam + p_fused) / 2}[who]
        mixed_image, mixed_y = exchange_pixel_by_pixel(
            batch, z["fused"], scores, options.get("ugda_select", "uncertain"), options.get("ugda_cells", 5)
        )
        m = method.students.outputs(mixed_image)
        expected["fused_mix"] = seg(m["fused"], mixed_y)
        loss = loss + expected["fused_mix"]
        for k in ("unet", "vnet"):
            expected[f"{k}_mix_sup"] = seg(m[k], mixed_y)
            expected[f"{k}_mix_ent"] = entropy(m[k]).mean() / math.log(3)
            expected[f"{k}_mix_cons"] = cons(m[k], m[other[k]])
            expected[f"{k}_mix_pseudo"] = seg(m[k][count:], m["fused"][count:].argmax(dim=1))
            loss = loss + 0.5 * (
                expected[f"{k}_mix_sup"]
                + w_ent * expected[f"{k}_mix_ent"]
                + lam * (expected[f"{k}_mix_cons"] + expected[f"{k}_mix_pseudo"])
            )
    assert output.terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(output.terms[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(output.loss, loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("start", "step", "mixes"), [(0.5, 4, False), (0.5, 5, True), (0.0, 0, True), (1.0, 9, False)])
def test_cells_are_exchanged_from_the_start_share_on_and_never_at_1(start: float, step: int, mixes: bool) -> None:
    output = small_method("knowsam", ugda_start=start).step(small_batch(), Progress(step, 10))
    assert ("fused_mix" in output.terms) == mixes


def test_more_cells_than_the_grid_has_are_refused_before_the_run_starts() -> None:
    with pytest.raises(InputError, match=r"ugda_cells at most ugda_grid\^2 = 4"):
        resolve_config({"options": {"ugda_cells": 5, "ugda_grid": 2}})


def test_join_halves_marks_unlabelled_pixels_as_unknown() -> None:
    batch = small_batch(3, 2, 3)
    image, label = join_halves(batch)
    assert torch.equal(image, torch.cat([batch.labelled_image, batch.unlabelled_image]))
    assert torch.equal(label[:2], batch.label)
    assert (label[2:] == IGNORE).all()

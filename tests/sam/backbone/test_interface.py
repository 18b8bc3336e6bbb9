"""Who answers for a SAM, and that nothing of `transformers` is needed to ask."""

from __future__ import annotations

import torch

import knowsam.sam
from knowsam.sam.backbone.interface import interface_of
from knowsam.sam.backbone.tiny import read_config, tiny_sam
from knowsam.sam.loading.build import TINY
from support.small_sam import SIDE, small_sam


def test_the_small_sam_answers_itself() -> None:
    sam = tiny_sam(read_config(TINY))
    assert interface_of(sam) is sam
    assert interface_of(sam).learns_whole


@torch.no_grad()
def test_published_sams_are_answered_for() -> None:
    plain, fine = small_sam(), small_sam(hq=True)
    assert not interface_of(plain).learns_whole
    assert not interface_of(fine).learns_whole
    image, prompt = torch.rand(2, 3, SIDE, SIDE), torch.zeros(6, 1, 4, 4)
    assert interface_of(plain).decoder_extras(plain.vision_encoder(image), prompt, 3) == {}
    extras = interface_of(fine).decoder_extras(fine.vision_encoder(image), prompt, 3)
    assert set(extras) == {"intermediate_embeddings", "hq_token_only"}
    assert len(extras["intermediate_embeddings"][0]) == 6


def test_published_sams_see_points_and_boxes_as_tokens_alone() -> None:
    places = torch.zeros(1, 4)
    kind = torch.ones(1, 1, 1, dtype=torch.bool)
    answer = interface_of(small_sam()).draw_prompts(
        torch.zeros(1, 4, 4), places[:, :2], kind[:, 0, 0], places, kind, kind
    )
    assert answer is None


def test_the_package_hands_its_names_on() -> None:
    from knowsam.sam.distillation import SamDistillation, SamStep
    from knowsam.sam.loading.build import build_sam
    from knowsam.sam.teacher import SamTeacher

    found = [getattr(knowsam.sam, name) for name in knowsam.sam.__all__]
    assert found == [SamDistillation, SamStep, SamTeacher, build_sam]
    assert set(knowsam.sam.__all__) <= set(dir(knowsam.sam))
    assert not hasattr(knowsam.sam, "absent")

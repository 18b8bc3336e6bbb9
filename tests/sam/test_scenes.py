from __future__ import annotations

import pytest
import torch

from knowsam.sam.pretrain.scenes import LAYERS, REGIONS, Scenes, draw_scenes
from knowsam.sam.pretrain.steps import outlines
from knowsam.sam.pretrain.targets import boxes_of, choose_targets, jitter_boxes, largest_piece, points_in


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene_of(
    layer: list[list[int]], kinds: dict[int, int] | None = None, outer: dict[int, int] | None = None
) -> Scenes:
    """One scene with this map of shapes (0 the background); kinds and outer shapes are their own unless said otherwise.

    Shape 1 is the first layer above the regions.
    """
    own = torch.arange(LAYERS)[None].clone()
    kind, around = own.clone(), own.clone()
    for index, value in (kinds or {}).items():
        kind[0, REGIONS + index] = REGIONS + value
    for index, value in (outer or {}).items():
        around[0, REGIONS + index] = REGIONS + value
    drawn = torch.tensor(layer)[None]
    drawn = torch.where(drawn > 0, REGIONS + drawn, 0)
    return Scenes(torch.zeros(1, 3, *drawn.shape[-2:]), drawn, kind, around)


def anything(number: int) -> torch.Tensor:
    """Objects of one scene that need not be one piece."""
    return torch.zeros(1, number, dtype=torch.bool)


def test_scenes_follow_the_generator_and_differ_among_each_other() -> None:
    first, again = draw_scenes(3, (32, 48), generator()), draw_scenes(3, (32, 48), generator())
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.layer, again.layer)
    assert not torch.equal(first.layer[0], first.layer[1])
    assert not torch.equal(first.image, draw_scenes(3, (32, 48), generator(1)).image)


def test_scenes_are_images_in_range_with_several_objects() -> None:
    scenes = draw_scenes(32, (64, 64), generator())
    assert scenes.image.shape == (32, 3, 64, 64)
    assert scenes.image.isfinite().all()
    assert 0 <= scenes.image.min() < 0.05
    assert 0.95 < scenes.image.max() <= 1
    # Not every image uses the whole range, but none is constant.
    spread = scenes.image.amax(dim=(1, 2, 3)) - scenes.image.amin(dim=(1, 2, 3))
    assert spread.min() > 0.3
    objects = [len(layer.unique()) for layer in scenes.layer]
    assert sum(objects) / len(objects) > 4
    grey = (scenes.image[:, 0] - scenes.image[:, 1]).abs().amax(dim=(1, 2)) < 1e-6
    assert 0.3 < grey.float().mean() < 0.9  # grey and colour


def test_an_object_can_be_seen_against_what_is_around_it() -> None:
    """Without noise the brightness of two kinds differs: nobody could learn from objects that do not show."""
    scenes = draw_scenes(48, (64, 64), generator(3))
    contrasts = []
    for image, layer in zip(scenes.image.mean(dim=1), scenes.layer, strict=True):
        for index in layer.unique():
            inside = layer == index
            if index and 30 < inside.sum() < 2000:
                contrasts.append(float((image[inside].mean() - image[~inside].mean()).abs()))
    assert sum(contrasts) / len(contrasts) > 0.1


def test_targets_are_what_the_scene_shows() -> None:
    # Shape 4 lies inside shape 3; 5 and 6 look alike.
    layer = [[0, 3, 3, 3], [0, 3, 4, 3], [5, 3, 3, 3], [0, 0, 6, 6]]
    scene = scene_of(layer, kinds={6: 5}, outer={4: 3})
    drawn = choose_targets(scene, anything(400), generator())
    found = {tuple(mask.flatten().int().tolist()) for mask in drawn.mask[0, drawn.weight[0] > 0]}
    shown = torch.tensor(layer).flatten()

    def pixels(*layers: int) -> tuple[int, ...]:
        return tuple(int(value in layers) for value in shown.tolist())

    assert pixels(3) in found  # the ring
    assert pixels(3, 4) in found  # filled
    assert pixels(5, 6) in found  # all of a kind
    assert pixels(0) in found  # the background
    assert all(sum(mask) > 0 for mask in found)


def test_a_box_or_a_point_asks_for_one_piece_of_one_look() -> None:
    # Shape 4 lies inside shape 3 and cuts nothing off; 5 is in two pieces and looks like 6.
    layer = torch.zeros(12, 16, dtype=torch.int64)
    layer[1:7, 1:7], layer[3:5, 3:5] = 3, 4
    layer[9:11, 0:3], layer[9:11, 5:12], layer[1:3, 10:15] = 5, 5, 6
    drawn = choose_targets(scene_of(layer.tolist(), kinds={6: 5}, outer={4: 3}), ~anything(400), generator())
    right = (layer == 5) & (torch.arange(16) >= 5)
    expected = {tuple(piece.flatten().int().tolist()) for piece in (layer == 3, layer == 4, right, layer == 6)}
    assert {tuple(mask.flatten().int().tolist()) for mask in drawn.mask[0]} == expected
    assert (drawn.weight == 1).all()


def test_of_a_region_only_one_piece_is_asked_for_alone() -> None:
    drawn = Scenes(
        torch.zeros(1, 3, 4, 6), torch.tensor([[1, 1, 0, 0, 0, 1]] * 4)[None], *[torch.arange(LAYERS)[None]] * 2
    )
    found = {tuple(mask[0].int().tolist()) for mask in choose_targets(drawn, anything(400), generator()).mask[0]}
    assert (1, 1, 0, 0, 0, 0) in found  # alone
    assert (1, 1, 0, 0, 0, 1) in found  # as all of a kind
    assert (0, 0, 0, 0, 0, 1) not in found


def test_rings_and_large_objects_are_asked_for_more_often() -> None:
    # Equal areas: 2 has a hole (3), 4 none. 5 is a tenth of their size.
    layer = torch.zeros(12, 20, dtype=torch.int64)
    layer[0:6, 0:5], layer[2, 2:4] = 2, 3
    layer[0:6, 6:11], layer[5, 9:11] = 4, 0
    layer[8, 0:3] = 5
    drawn = choose_targets(scene_of(layer.tolist(), outer={3: 2}), ~anything(6000), generator()).mask[0]
    often = {index: float((drawn == (layer == index)).all(dim=2).all(dim=1).float().mean()) for index in (2, 3, 4, 5)}
    assert often[2] / often[4] == pytest.approx(2, rel=0.1)
    assert often[4] / often[5] == pytest.approx((28 / 3) ** 0.3, rel=0.15)


def test_in_some_scenes_regions_lie_side_by_side_without_a_background() -> None:
    layers = draw_scenes(200, (32, 32), generator()).layer
    regions = torch.stack([(layers == index).flatten(1).any(dim=1) for index in range(1 + REGIONS)], dim=1)
    tissue = regions[:, 3:].any(dim=1)  # other scenes use two of them
    assert 0.2 < tissue.float().mean() < 0.4
    assert regions[tissue].float().sum(dim=1).mean() > 4


def test_largest_piece_by_hand() -> None:
    mask = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], [[0.0] * 4] * 3])
    assert largest_piece(mask).tolist() == [[[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], [[0] * 4] * 3]


def test_an_object_of_a_senseless_size_does_not_count() -> None:
    drawn = choose_targets(scene_of([[3] * 8] * 8), anything(20), generator())
    assert drawn.weight.sum() == 0  # it fills the image, and the background is not to be seen


def test_boxes_of_by_hand() -> None:
    mask = torch.zeros(2, 6, 8)
    mask[0, 2:5, 1:4] = 1
    assert boxes_of(mask).tolist() == [[1, 2, 4, 5], [0, 0, 8, 6]]


def test_jittered_boxes_stay_within_a_twentieth_of_their_side() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]]).expand(500, -1)
    moved = jitter_boxes(boxes, generator()) - boxes
    assert moved[:, ::2].abs().max() <= 1
    assert moved[:, 1::2].abs().max() <= 2
    assert 0.4 < (moved != 0).float().mean() < 0.6


def test_points_lie_at_the_centre_of_a_pixel_of_the_region() -> None:
    region = torch.zeros(50, 5, 7)
    region[:, 3, 2] = region[:, 1, 6] = 1
    assert {tuple(point) for point in points_in(region, generator()).tolist()} == {(2.5, 3.5), (6.5, 1.5)}


def test_outlines_by_hand() -> None:
    layer = torch.tensor([[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5]]])
    assert outlines(layer, 2)[0, 0].tolist() == [[0, 0], [0, 1]]
    layer[0, 0, 1:] = 7  # its left and lower neighbours differ
    assert outlines(layer, 2)[0, 0].tolist() == [[1, 1], [0, 1]]

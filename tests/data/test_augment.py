from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.data.augment import (
    HOLE_FRACTION,
    Augmentation,
    Flip,
    IntensityAugmentation,
    blur_matrix,
    erase_holes,
    spline_basis,
    strong_augmentation,
    weak_augmentation,
)
from knowsam.training.host_waits import HostWaits
from knowsam.types import IGNORE

SIZE = (40, 64)
HOLE_H, HOLE_W = round(SIZE[0] * HOLE_FRACTION), round(SIZE[1] * HOLE_FRACTION)


def blocks(batch: int, seed: int = 0) -> Tensor:
    """Label maps of 8x8 px blocks of classes 0..3, `(B, H, W)`."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 4, (batch, SIZE[0] // 8, SIZE[1] // 8), generator=generator)
    return small.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)


def only_space() -> Augmentation:
    """Flips and affine maps, nothing that changes a value."""
    return Augmentation(SIZE, brightness_p=0.0, distortion_p=0.0, holes=(1, 1), holes_p=0.0)


def test_flips_and_affine_move_label_and_image_alike() -> None:
    torch.manual_seed(0)
    label = blocks(32)
    image, moved = only_space()((label.float().unsqueeze(1) + 1) / 4, label)
    known = moved != IGNORE
    # The image is interpolated: between two blocks, and between a block and the black outside, it lies between their
    # values. Where the surroundings are all of one class it is the label.
    same = ((image.squeeze(1) * 4 - 1) - moved).abs() < 0.05
    surroundings = F.pad(moved.float(), (2, 2, 2, 2), value=IGNORE).unfold(1, 5, 1).unfold(2, 5, 1).flatten(3)
    inner = known & (surroundings.amax(dim=3) == surroundings.amin(dim=3))
    assert inner.float().mean() > 0.1
    assert same[inner].all()
    assert same[known].float().mean() > 0.75
    assert not torch.equal(moved, label)


@pytest.mark.parametrize("flip", ["both", "horizontal", "vertical", "none"])
@pytest.mark.parametrize("make", [weak_augmentation, strong_augmentation])
def test_only_the_flips_asked_for_happen(make: Callable[..., Augmentation], flip: Flip) -> None:
    # A bright quarter; a shift, a rotation by 10 degrees and a distortion leave its centre of mass on its side.
    torch.manual_seed(0)
    image = torch.zeros(64, 1, *SIZE)
    image[..., :20, :32] = 1
    moved = make(SIZE, flip)(image)[0].mean(1)
    rows, columns = moved.sum(2), moved.sum(1)
    down = rows[:, 20:].sum(1) > rows[:, :20].sum(1)
    right = columns[:, 32:].sum(1) > columns[:, :32].sum(1)
    assert bool(down.any()) == (flip in ("both", "vertical"))
    assert bool(right.any()) == (flip in ("both", "horizontal"))


def test_what_comes_in_from_outside_the_image_is_ignored() -> None:
    torch.manual_seed(0)
    image, label = only_space()(torch.ones(32, 1, *SIZE), torch.zeros(32, *SIZE, dtype=torch.long))
    # Interpolation with the black outside leaves less than half of the brightness there.
    assert image.squeeze(1)[label == IGNORE].max() <= 0.5
    assert label.unique().tolist() == [IGNORE, 0]
    outside = (label == IGNORE).float().mean((1, 2))
    assert 0 < outside.mean() < 0.2
    assert (outside == 0).any()  # images that were flipped at most lose nothing


def test_pixels_without_ground_truth_stay_so() -> None:
    torch.manual_seed(0)
    label = torch.full((4, *SIZE), IGNORE)
    assert torch.equal(only_space()(torch.rand(4, 1, *SIZE), label)[1], label)


def test_flips_alone_are_exact() -> None:
    torch.manual_seed(0)
    label = blocks(16)
    image, moved = only_space()(label.float().unsqueeze(1) / 4, label)
    exact = [
        torch.equal(moved[b], flipped) and torch.equal(image[b, 0], flipped / 4)
        for b in range(16)
        for flipped in [label[b].flip(axes) for axes in ((), (0,), (1,), (0, 1))]
    ]
    assert sum(exact) >= 4  # half of the images have no affine map


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [weak_augmentation, strong_augmentation])
def test_values_stay_in_the_unit_range_and_shapes_as_they_were(make: type, channels: int) -> None:
    torch.manual_seed(0)
    image, label = make(SIZE)(torch.rand(8, channels, *SIZE))
    assert image.shape == (8, channels, *SIZE)
    assert label is None
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.isfinite().all()


@pytest.mark.parametrize("make", [weak_augmentation, strong_augmentation])
def test_the_input_is_not_changed(make: type) -> None:
    torch.manual_seed(0)
    image = torch.rand(8, 1, *SIZE)
    before = image.clone()
    make(SIZE)(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("make", [weak_augmentation, strong_augmentation])
def test_the_global_seed_decides_everything(make: type) -> None:
    image, augment = torch.rand(8, 1, *SIZE), make(SIZE)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(image)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_strong_augmentation_refuses_a_label() -> None:
    with pytest.raises(ValueError, match="without label"):
        strong_augmentation(SIZE)(torch.rand(1, 1, *SIZE), torch.zeros(1, *SIZE, dtype=torch.long))


def test_strong_distorts_beyond_what_weak_does() -> None:
    # A straight edge stays straight under flips and affine maps, and does not under a distortion.
    torch.manual_seed(0)
    distort = Augmentation(SIZE, brightness_p=0.0, distortion_p=1.0, holes=(1, 1), holes_p=0.0)
    image = torch.zeros(64, 1, *SIZE)
    image[..., 32:] = 1.0

    def straight(picture: Tensor) -> bool:
        """The edge's place in each row, where it is within the picture, lies on one line."""
        rows = picture[0, 12:-12].clamp(0, 1)
        edge = (rows.diff(dim=1).abs() * torch.arange(SIZE[1] - 1)).sum(1) / rows.diff(dim=1).abs().sum(1)
        return bool((edge.diff().diff().abs() < 0.05).all())

    displaced = distort.distortion(64)[0].abs().amax((1, 2, 3)) > 0
    assert 0.5 < displaced.float().mean() < 1  # three of four get one of the two at least
    plain = Augmentation(SIZE, brightness_p=0.0, distortion_p=0.0, holes=(1, 1), holes_p=0.0)
    assert sum(not straight(one) for one in distort(image)[0]) > sum(not straight(one) for one in plain(image)[0])


def test_a_turn_keeps_angles_whatever_the_shape_of_the_image() -> None:
    torch.manual_seed(0)
    augment = only_space()
    value = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.15, 1.03, 0.02, -0.03]])
    places, moved = augment.places(value, torch.ones(1, 1, 1, dtype=torch.bool))
    assert moved.all()
    pixels = places[0] * torch.tensor([SIZE[1], SIZE[0]]) / 2
    along_x, along_y = pixels.diff(dim=1), pixels.diff(dim=0)
    torch.testing.assert_close(along_x.norm(dim=-1), torch.full(along_x.shape[:2], 1 / 1.03), rtol=1e-4, atol=0)
    torch.testing.assert_close(along_y.norm(dim=-1), torch.full(along_y.shape[:2], 1 / 1.03), rtol=1e-4, atol=0)
    assert (along_x[:-1] * along_y[:, :-1]).sum(-1).abs().max() < 1e-4


def test_a_spline_passes_through_its_points_and_bends_between_them() -> None:
    points = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5]])
    basis = spline_basis(points)
    torch.testing.assert_close(basis[:5], torch.eye(5), atol=1e-5, rtol=0)
    shift = torch.tensor([[0.1, 0.0]]).expand(5, 2)
    torch.testing.assert_close(basis @ shift, torch.tensor([[0.1, 0.0]]).expand(6, 2), atol=1e-5, rtol=0)
    corner_alone = torch.zeros(5, 1).index_fill(0, torch.tensor([3]), 1.0)
    assert 0.1 < (basis @ corner_alone)[5] < 0.9


def test_the_blur_of_displacements_is_a_gaussian_one() -> None:
    signal = torch.rand(1, 1, 50)
    radius = 8
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / 4.0) ** 2)
    expected = F.conv1d(signal, (taps / taps.sum()).view(1, 1, -1), padding=radius)
    torch.testing.assert_close(signal @ blur_matrix(50, 4.0).T, expected)


@pytest.mark.parametrize("make", [weak_augmentation, strong_augmentation])
def test_a_gpu_need_not_wait_for_an_augmentation(make: Callable[..., Augmentation]) -> None:
    with torch.device("meta"):
        image, label = torch.rand(4, 1, *SIZE), torch.zeros(4, *SIZE, dtype=torch.long)
    augment = make(SIZE).to("meta")
    with HostWaits() as waits:
        augment(image, label if make is weak_augmentation else None)
    assert not waits.found


def test_holes_have_the_stated_size() -> None:
    torch.manual_seed(0)
    erased = erase_holes(torch.ones(64, 1, *SIZE), (1, 1), p=1.0).squeeze(1) == 0
    for one in erased:
        rows, columns = one.any(dim=1).nonzero(), one.any(dim=0).nonzero()
        assert one.sum() == HOLE_H * HOLE_W
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (HOLE_H, HOLE_W)


def test_holes_are_as_many_as_asked_for() -> None:
    torch.manual_seed(0)
    area = HOLE_H * HOLE_W
    erased = (erase_holes(torch.ones(64, 2, *SIZE), (5, 8), p=1.0) == 0).sum((2, 3))
    assert torch.equal(erased[:, 0], erased[:, 1])  # all channels
    assert erased.max() <= 8 * area
    assert erased.float().mean() > 4.5 * area  # 6.5 on average, less what overlaps
    assert erased.min() > 2 * area


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_holes_come_with_their_probability(p: float, share: float) -> None:
    torch.manual_seed(0)
    erased = (erase_holes(torch.ones(400, 1, *SIZE), (5, 8), p) == 0).flatten(1).any(dim=1)
    assert erased.float().mean().item() == pytest.approx(share, abs=0.1 * (0 < p < 1))


def test_holes_reach_every_border() -> None:
    torch.manual_seed(0)
    erased = (erase_holes(torch.ones(400, 1, *SIZE), (5, 8), 1.0) == 0).any(dim=0).squeeze(0)
    assert all(edge.any() for edge in (erased[0], erased[-1], erased[:, 0], erased[:, -1]))
    assert erased.float().mean() > 0.99


@pytest.mark.parametrize("channels", [1, 3])
def test_intensities_change_and_stay_in_the_unit_range(channels: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(40, channels, *SIZE)
    changed = IntensityAugmentation(channels)(image)
    assert changed.shape == image.shape
    assert (changed.min() >= 0) & (changed.max() <= 1)
    same = sum(torch.equal(one, other) for one, other in zip(changed, image, strict=True))
    assert same / 40 == pytest.approx(0.2 * 0.5, abs=0.1)  # neither jitter nor blur
    torch.manual_seed(0)
    assert torch.equal(IntensityAugmentation(channels)(torch.rand(40, channels, *SIZE)), changed)


def test_intensities_change_without_moving_a_pixel() -> None:
    torch.manual_seed(0)
    image = torch.zeros(64, 1, *SIZE)
    image[..., 20, 30] = 1.0
    brightest = IntensityAugmentation(1)(0.2 + 0.4 * image).flatten(1).argmax(dim=1)
    assert set(brightest.tolist()) == {20 * SIZE[1] + 30}


def test_intensities_are_changed_in_full_precision_amid_mixed_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert IntensityAugmentation(1)(torch.rand(8, 1, *SIZE)).dtype == torch.float32

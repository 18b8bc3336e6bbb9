"""What every network of the table must keep."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from knowsam.errors import InputError
from knowsam.networks import CoTrainedStudents, ExternalNetwork, FusionHead, UNet, VNet
from knowsam.networks.input import standardise_image
from knowsam.networks.registry import NETWORKS, build_network
from knowsam.sam.network import SamNetwork

every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
@pytest.mark.parametrize(("channels", "K"), [(1, 4), (3, 2)])
@torch.no_grad()
def test_network_gives_logits_of_the_images_size(name: str, channels: int, K: int) -> None:
    network = build_network(name, channels, K)
    assert network.stride == 16
    assert network(torch.rand(2, channels, 32, 48)).shape == (2, K, 32, 48)


@every_network
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 1, 3)
    network(torch.rand(2, 1, 32, 48)).square().sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == [n for n, p in network.named_parameters() if not p.requires_grad]


@every_network
@pytest.mark.parametrize("standardise", [False, True])
@torch.no_grad()
def test_standardise_makes_a_network_blind_to_brightness_and_contrast(name: str, standardise: bool) -> None:
    torch.manual_seed(0)
    network = build_network(name, 3, 2, standardise=standardise).eval()
    image = torch.rand(2, 3, 32, 32)
    difference = (network(40 * image + 7) - network(image)).abs().max()
    assert (difference < 1e-3) if standardise else (difference > 0.1)


@every_network
@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((1, 3, 40, 32), ["40x32", "divisible by 16", "48x32"]),
        ((1, 3, 32, 33), ["32x33", "32x48"]),
        ((1, 1, 32, 32), ["(1, 1, 32, 32)", "(B, 3, H, W)"]),
        ((3, 32, 32), ["(3, 32, 32)"]),
    ],
)
def test_a_shape_that_does_not_fit_is_named(name: str, shape: tuple[int, ...], parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        build_network(name, 3, 2)(torch.rand(shape))
    assert all(part in str(error.value) for part in parts)


@every_network
@torch.no_grad()
def test_an_images_prediction_does_not_depend_on_its_batch(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 1, 2, standardise=True).eval()
    image = torch.rand(2, 1, 32, 32) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(network(image)[:1], network(image[:1]), rtol=1e-4, atol=1e-5)


def test_the_table_names_the_classes() -> None:
    own = {"unet": UNet, "vnet": VNet, "cotrained": CoTrainedStudents, "sam_student": SamNetwork}
    assert own == NETWORKS


def test_build_network_passes_arguments_on() -> None:
    assert isinstance(build_network("vnet", 1, 2, normalisation="batch").encoder[0][0][1], torch.nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("u-net", {}, "did you mean 'unet'"),
        ("CoTrain", {}, "did you mean 'cotrained'"),
        ("vnet", {"normalization": "batch"}, "did you mean 'normalisation'"),
    ],
)
def test_build_network_names_the_nearest(name: str, arguments: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_network(name, 3, 2, **arguments)


def test_build_network_needs_two_classes() -> None:
    with pytest.raises(InputError, match="1 classes"):
        build_network("unet", 3, 1)


@pytest.mark.subprocess
def test_import_is_light() -> None:
    code = (
        "import sys, knowsam.networks;sys.exit(' '.join({'transformers', 'kornia', 'accelerate'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


def test_standardise_image_hand_value() -> None:
    image = torch.tensor([[[[0.0, 2.0]], [[4.0, 6.0]]], [[[5.0, 5.0]], [[5.0, 5.0]]]])
    found = standardise_image(image)
    expected = torch.tensor([-3.0, -1.0, 1.0, 3.0]) / 5**0.5  # mean 3, variance 5, over channels and pixels together
    torch.testing.assert_close(found[0].flatten(), expected)
    assert torch.equal(found[1], torch.zeros(2, 1, 2))


def test_standardise_image_of_a_constant_image_has_a_finite_gradient() -> None:
    image = torch.full((1, 1, 4, 4), 0.3, requires_grad=True)
    standardise_image(image).square().sum().backward()
    assert image.grad.isfinite().all()


@every_network
@torch.no_grad()
def test_parts_stand_alone_and_leave_the_whole_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 1, 3, standardise=True).eval()
    image = 3 * torch.rand(2, 1, 32, 48) - 1
    before = network.outputs(image)
    parts = network.parts()
    assert list(parts) == (list(before) if len(before) > 1 else [])
    for part, alone in parts.items():
        torch.testing.assert_close(alone(image), before[part])
    after = network.outputs(image)
    assert all(torch.equal(before[output], after[output]) for output in before)
    assert torch.equal(next(iter(before.values())), network(image))


@every_network
@torch.no_grad()
def test_the_deepest_stage_is_the_one_of_most_channels_and_fewest_pixels(name: str) -> None:
    network, seen = build_network(name, 1, 2).eval(), []
    network.deepest_stage().register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    network(torch.rand(3, 1, 32, 48))
    assert seen == [(3, 128, 4, 6) if name == "sam_student" else (3, 256, 2, 3)]


@torch.no_grad()
def test_an_external_network_has_one_prediction_no_ties_and_no_stage_to_look_at() -> None:
    network = ExternalNetwork("mine", torch.nn.Conv2d(1, 2, 1), 1, 2)
    image = torch.rand(2, 1, 16, 32)
    assert list(network.outputs(image)) == ["student"]
    assert torch.equal(network.outputs(image)["student"], network(image))
    assert network.parts() == {}
    assert network.near_tie(image).shape == (2, 16, 32)
    assert not network.near_tie(image).any()
    assert network.deepest_stage() is None


@torch.no_grad()
def test_a_tie_of_one_student_reaches_as_far_as_the_fusion_head() -> None:
    """A change of one pixel's logits changes the fused map exactly where `FusionHead.radius` says."""
    torch.manual_seed(0)
    head = FusionHead(2).eval()
    unet, vnet = torch.randn(1, 2, 24, 24), torch.randn(1, 2, 24, 24)
    changed = unet.clone()
    changed[..., 12, 12] += 50
    rows = (head(unet, vnet) != head(changed, vnet)).any(dim=1)[0].any(dim=1).nonzero()
    assert (int(rows.min()), int(rows.max())) == (12 - head.radius, 12 + head.radius)

"""The structure of the two students and of the head that fuses them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from knowsam.networks import CoTrainedStudents, FusionHead, UNet, VNet
from knowsam.networks.batch_norm import BatchNorm2d
from knowsam.networks.cotrained import agreement_map, certainty_map


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_and_operations_of_the_paper() -> None:
    with torch.device("meta"):
        students, counter = CoTrainedStudents(3, 2), FlopCounterMode(display=False)
        with counter:
            students(torch.zeros(1, 3, 256, 256))
    assert count(students) == 5_250_856
    assert count(students.unet) + count(students.vnet) + count(students.fusion) == 5_250_856
    assert counter.get_total_flops() == pytest.approx(18.0e9, rel=2e-3)


def test_unet_dropout_grows_with_depth_and_is_absent_on_the_way_up() -> None:
    network = UNet(1, 2)
    down, up = (
        [m.p for m in part.modules() if isinstance(m, nn.Dropout)] for part in (network.encoder, network.decoder)
    )
    assert down == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert up == [0, 0, 0, 0]


def test_unet_of_three_stages_needs_a_smaller_stride() -> None:
    network = UNet(1, 2, widths=(4, 8, 16), dropout=(0, 0, 0))
    assert network.stride == 4
    assert network(torch.rand(2, 1, 12, 20)).shape == (2, 2, 12, 20)


@pytest.mark.parametrize("normalisation", ["none", "batch"])
@torch.no_grad()
def test_vnet_naive(normalisation: str) -> None:
    """The network written out: which convolutions, and which tensor each skip is."""
    torch.manual_seed(0)
    network = VNet(3, 4, widths=(2, 3, 4, 5, 6), normalisation=normalisation).eval()
    state = network.state_dict()

    def layer(name: str, x: Tensor) -> Tensor:
        weight, bias = state[f"{name}.0.weight"], state.get(f"{name}.0.bias")
        if name.startswith("up"):
            x = F.conv_transpose2d(x, weight, bias, stride=2)
        else:
            size = weight.shape[-1]
            x = F.conv2d(x, weight, bias, stride=1 if size == 3 else 2, padding=size // 3)
        if normalisation == "batch":
            x = F.batch_norm(x, state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"],
                             state[f"{name}.1.weight"], state[f"{name}.1.bias"])  # fmt: skip
        return F.relu(x)

    image = torch.rand(1, 3, 32, 16)
    x1 = layer("encoder.0.0", image)
    x2 = layer("down.0", x1)
    x3 = layer("down.1", layer("encoder.1.1", layer("encoder.1.0", x2)))
    x4 = layer("down.2", layer("encoder.2.2", layer("encoder.2.1", layer("encoder.2.0", x3))))
    x5 = layer("down.3", layer("encoder.3.2", layer("encoder.3.1", layer("encoder.3.0", x4))))
    x = layer("encoder.4.2", layer("encoder.4.1", layer("encoder.4.0", x5)))
    x = layer("up.0", x) + x4
    x = layer("decoder.0.2", layer("decoder.0.1", layer("decoder.0.0", x)))
    x = layer("up.1", x) + x3
    x = layer("decoder.1.2", layer("decoder.1.1", layer("decoder.1.0", x)))
    x = layer("up.2", x) + x2
    x = layer("decoder.2.1", layer("decoder.2.0", x))
    x = layer("up.3", x) + x1
    x = F.conv2d(layer("decoder.3.0", x), state["head.weight"], state["head.bias"])
    torch.testing.assert_close(network(image), x, rtol=1e-4, atol=1e-5)


def test_vnet_normalisation() -> None:
    def kinds(normalisation: str) -> list[type]:
        return [type(m) for m in VNet(3, 2, normalisation=normalisation).modules()]

    assert kinds("none").count(BatchNorm2d) == 0
    assert kinds("batch").count(BatchNorm2d) == 12 + 9 + 4 + 4 == kinds("batch").count(nn.ReLU)
    with pytest.raises(ValueError, match="'group'"):
        VNet(3, 2, normalisation="group")


def test_vnet_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    weight = VNet(3, 2).encoder[4][1][0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.01)
    assert ((weight / weight.std()) ** 4).mean().item() == pytest.approx(3, abs=0.1)  # normal: 3, uniform: 1.8


def test_agreement_map_equals_xor_at_one_half_for_two_classes() -> None:
    u, v = torch.randn(2, 4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    xor = (u.softmax(1) > 0.5) ^ (v.softmax(1) > 0.5)
    found = agreement_map(u, v)
    assert torch.equal(found, ~xor)
    assert 0.2 < found.float().mean() < 0.8


def test_agreement_map_sees_a_disagreement_where_no_class_passes_one_half() -> None:
    u, v = torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.3, 0.4]]).log().view(2, 1, 3, 1, 1)
    assert not ((u.softmax(1) > 0.5) ^ (v.softmax(1) > 0.5)).any()  # the comparison at .5 is blind here
    assert agreement_map(u, v).flatten().tolist() == [False, True, False]


@pytest.mark.parametrize("K", [2, 3, 5])
def test_certainty_map_has_the_range_of_two_classes(K: int) -> None:
    certain = torch.zeros(1, K, 1, 1)
    certain[:, 0] = 50
    assert certainty_map(torch.zeros(1, K, 1, 1)).item() == pytest.approx(1 - math.log(2), abs=1e-5)
    assert certainty_map(certain).item() == pytest.approx(1, abs=1e-5)


def test_fusion_gradient_reaches_both_students_and_its_maps_do_not_cut_it() -> None:
    torch.manual_seed(0)
    u, v = (torch.randn(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    FusionHead(3)(u, v).square().sum().backward()
    assert u.grad.abs().max() > 0
    assert v.grad.abs().max() > 0


@torch.no_grad()
def test_fusion_is_the_same_for_every_order_of_the_two_students_only_if_trained_so() -> None:
    torch.manual_seed(0)
    head = FusionHead(2).eval()
    u, v = torch.randn(2, 1, 2, 8, 8)
    assert (head(u, v) - head(v, u)).abs().max() > 1e-4


@torch.no_grad()
def test_cotrained_outputs() -> None:
    torch.manual_seed(0)
    students = CoTrainedStudents(1, 3, vnet_normalisation="batch", standardise=True).eval()
    image = torch.rand(1, 1, 32, 48)
    outputs = students.outputs(image)
    assert list(outputs) == ["fused", "unet", "vnet"]
    standard = (image - image.mean()) / image.std(correction=0)
    for name, network in (("unet", students.unet), ("vnet", students.vnet)):
        torch.testing.assert_close(outputs[name], network(standard), rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs["fused"], students.fusion(outputs["unet"], outputs["vnet"]))
    assert torch.equal(outputs["fused"], students(image))
    for a, b in itertools.combinations(outputs.values(), 2):
        assert (a - b).abs().max() > 1e-3

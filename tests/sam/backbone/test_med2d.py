from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from knowsam.errors import InputError
from knowsam.sam.backbone.med2d import ChannelSpatialBranch
from knowsam.sam.loading.resize import resize_input
from knowsam.sam.teacher import SamTeacher
from support.original_sam import published_sam
from support.small_sam import SIDE


@torch.no_grad()
def test_branch_restated_with_functions() -> None:
    torch.manual_seed(0)
    branch = ChannelSpatialBranch(dim=8, hidden=2)
    weights = branch.state_dict()
    x = torch.randn(2, 4, 6, 8).permute(0, 3, 1, 2)
    gate = F.adaptive_avg_pool2d(x, 1).flatten(1) @ weights["channel.0.weight"].T
    gate = torch.sigmoid(F.relu(gate) @ weights["channel.2.weight"].T)
    down = F.relu(F.conv2d(x * gate[:, :, None, None], weights["spatial.0.weight"], stride=2, padding=1))
    up = F.relu(F.conv_transpose2d(down, weights["spatial.2.weight"], stride=2, padding=1))
    expected = F.layer_norm((x + up).permute(0, 2, 3, 1), [8])
    torch.testing.assert_close(branch(x.permute(0, 2, 3, 1)), expected)


def test_branches_belong_to_the_frozen_base_and_ours_come_on_top() -> None:
    sam = published_sam(med2d=True)
    resize_input(sam, (32, 48))
    names = SamTeacher(sam, 2).trainable_parameter_names()
    assert not any(".branch." in name for name in names)
    assert "sam.vision_encoder.layers.0.mlp.adapter.up.weight" in names


def test_an_odd_grid_is_refused_because_the_branch_halves_it() -> None:
    sam = published_sam(med2d=True)
    with pytest.raises(InputError, match=r"40x64.*adapters of SAM-Med2D.*multiples of 16"):
        resize_input(sam, (40, 64))
    resize_input(sam, (48, SIDE))
    assert sam.vision_encoder(torch.rand(1, 3, 48, SIDE))[0].shape[-2:] == (6, 8)

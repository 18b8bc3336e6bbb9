"""Networks of the real MONAI, where it is installed (it is by `make test`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from knowsam.config import resolve_config
from knowsam.errors import InputError
from knowsam.inference.predictor import Predictor
from knowsam.networks.registry import build_network
from knowsam.training.run import train
from support.folders import make_folder

pytest.importorskip("monai", reason="the extra monai is not installed")

SMALL = {"channels": [4, 8], "strides": [2]}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("UNet", SMALL), ("BasicUNet", {"features": [4, 4, 8, 8, 8, 4]}), ("SegResNet", {"init_filters": 8})],
)
def test_a_network_of_monai_by_name_and_arguments(name: str, arguments: dict[str, Any]) -> None:
    network = build_network(f"monai:{name}", in_channels=1, classes=3, **arguments)
    logits = network(torch.rand(2, 1, 32, 48))
    assert logits.shape == (2, 3, 32, 48)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("Unett", {}, "did you mean 'Unet'"),
        ("UNet", SMALL | {"spatial_dims": 3}, "follows from the data"),
        ("UNet", SMALL | {"chanels": 1}, "channels"),
        ("UNet", {"channels": [4, 8]}, "cannot be built"),
    ],
)
def test_mistakes_are_one_sentence(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_network(f"monai:{name}", in_channels=1, classes=3, **arguments)


def test_a_network_of_monai_trains_and_predicts(tmp_path: Path) -> None:
    config = resolve_config(
        {
            "method": "mean_teacher",
            "data": {"path": str(make_folder(tmp_path / "data")), "size": 32},
            "sam": "none",
            "train": {"steps": 2, "batch": [2, 2], "validate_every": 2, "report": False},
            "options": {"network": "monai:UNet", "network_arguments": SMALL},
        }
    )
    train(config, tmp_path / "run", quiet=True)
    predictor = Predictor(tmp_path / "run")
    assert type(predictor.student).__name__ == "ExternalNetwork"
    assert predictor.student(torch.rand(1, 1, 32, 32)).shape[-2:] == (32, 32)

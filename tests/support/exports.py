"""Students to export: random weights, but masks in which every class occurs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from knowsam.data.preprocess import Preprocessing
from knowsam.networks import CoTrainedStudents, UNet
from knowsam.networks.registry import build_network
from knowsam.runs.student_file import StudentInfo, save_student

SIZE = (32, 48)
NAMES = ("background", "liver", "Lähmung")
VALIDATION = {
    name: {"dice": 0.55, "per_class": [0.4, 0.7], "volumes": 2, "sd": [0.28284, 0.42426]}
    for name in ("fused", "unet", "vnet")
}
COTRAINED = {"residual_fusion": True, "standardise": True}


class ShallowStudents(CoTrainedStudents):
    """Co-trained students of two stages each: the exporter takes half a minute to trace the ones of nine."""

    def __init__(
        self, in_channels: int, classes: int, standardise: bool = False, residual_fusion: bool = False
    ) -> None:
        super().__init__(in_channels, classes, standardise=standardise, residual_fusion=residual_fusion)
        self.unet = UNet(in_channels, classes, widths=(8, 16), dropout=(0.1, 0.1))
        self.vnet = UNet(in_channels, classes, widths=(4, 8), dropout=(0.1, 0.1))


def shallow_unet(in_channels: int, classes: int, standardise: bool = False) -> UNet:
    """A U-Net of two stages."""
    return UNet(in_channels, classes, widths=(8, 16), dropout=(0.1, 0.1), standardise=standardise)


SHALLOW: dict[str, Any] = {"unet": shallow_unet}
"""In the place of `NETWORKS.own`'s, where not the network is tested but the files that it is kept in."""


class ExportedFile(NamedTuple):
    """A student and the file made of it."""

    student: Path
    onnx: Path


def make_student(
    path: Path,
    name: str = "cotrained",
    size: tuple[int, int] = SIZE,
    mask_values: tuple[int, ...] | None = None,
    **arguments: Any,
) -> Path:
    """Writes a student of three classes for grey images."""
    spec = {"name": name, "in_channels": 1, "classes": len(NAMES), **arguments}
    torch.manual_seed(0)
    student: Any = build_network(**spec)
    is_cotrained = isinstance(student, CoTrainedStudents)
    with torch.no_grad():
        image = torch.rand(8, 1, *size)
        for part in (student.unet, student.vnet) if is_cotrained else (student,):
            # Otherwise one class wins everywhere, by next to nothing.
            part.head.weight *= 20
            part.head.bias -= part.eval()(image).mean(dim=(0, 2, 3))
        if is_cotrained:  # a correction that starts at zero would leave the fusion head untested
            nn.init.normal_(student.fusion.fuse[3].weight, std=0.05)
    info = StudentInfo(spec, Preprocessing(size, 1), NAMES, 7, VALIDATION, "0.1", mask_values)
    save_student(path, student.eval(), info)
    return path

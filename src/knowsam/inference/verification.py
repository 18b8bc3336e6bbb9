"""Check that an exported file predicts what the network it was made of predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from knowsam.inference.files import list_inputs
from knowsam.inference.predictor import SLICES_PER_PASS
from knowsam.io import read_image
from knowsam.networks import SegmentationNetwork
from knowsam.presentation.text import count_text

TOLERANCE = 1e-4
"""Largest difference of a probability: 100 times what two libraries' float32 convolutions were seen to differ by."""

LARGEST_EXCUSED_SHARE = 0.01
REAL_FILES = 20
NOISE = 0.1


@dataclass
class Verification:
    """How an exported file compares with its network.

    Attributes:
        largest: Largest difference of a probability, ties left out.
        images: Images compared, slices of a volume counted each.
        pixels: Pixels compared.
        ties: Pixels that differ by more, and may, see `SegmentationNetwork.near_tie`.
    """

    largest: float = 0.0
    images: int = 0
    pixels: int = 0
    ties: int = 0

    def __str__(self) -> str:
        ties = f", {count_text(self.ties, 'pixel')} at a student's tie left out" if self.ties else ""
        return (
            f"largest difference from torch {self.largest:.1e} (tolerance {TOLERANCE:.0e})"
            f" on {count_text(self.images, 'image')}{ties}"
        )


def verification_batches(
    preprocessing: Preprocessing, stride: int, images: str | Path | None = None
) -> Iterator[Tensor]:
    """Make prepared images of several batch sizes and sizes, H != W among them: noise, then real ones if given.

    Args:
        preprocessing: How images become network input.
        stride: What H and W are multiples of.
        images: An image, or a folder of which at most 20 files, evenly spread, are taken.

    Returns:
        `(B, C, H, W)` float32 in [0, 1], one batch at a time.

    Raises:
        InputError: If there are no such images.
    """
    files = [] if images is None else list_inputs(Path(images))
    spread = np.linspace(0, len(files) - 1, min(REAL_FILES, len(files))).round().astype(int)
    return _batches(preprocessing, stride, [files[index] for index in spread])


def _batches(preprocessing: Preprocessing, stride: int, files: list[Path]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    height, width = preprocessing.size
    sizes = (height, width), (height, width + stride), (height + stride, width), (2 * stride, 3 * stride)
    for batch, (h, w) in zip((1, 3, 2, 5), sizes, strict=True):
        regions = torch.rand(batch, preprocessing.in_channels, h // stride, w // stride, generator=generator)
        noise = torch.rand(batch, preprocessing.in_channels, h, w, generator=generator)
        smooth = F.interpolate(regions, size=(h, w), mode="bilinear", align_corners=False)
        yield (1 - NOISE) * smooth + NOISE * noise
    for file in files:
        yield from preprocessing.slices(read_image(file)).split(SLICES_PER_PASS)


@torch.inference_mode()
def verify(
    exported: Callable[[Tensor], Tensor], network: SegmentationNetwork, batches: Iterator[Tensor], path: Path
) -> Verification:
    """Compare an exported file with its network on every batch.

    Args:
        exported: Images -> probabilities, through the file.
        network: Images -> logits.
        batches: Prepared images.
        path: The file, for messages.

    Raises:
        InputError: If a probability differs by more than `TOLERANCE`, or is not finite.
    """
    result = Verification()
    for image in batches:
        expected, found = network(image).softmax(dim=1), exported(image)
        if found.shape != expected.shape:
            raise _differs(path, f"have the shape {tuple(found.shape)}, not {tuple(expected.shape)},", image)
        difference = (found - expected).abs().amax(dim=1)
        outside = ~(difference <= TOLERANCE)  # this way round, NaN is outside
        excused = torch.zeros_like(outside)
        if outside.any() and bool(difference.isfinite().all()):
            excused = outside & network.near_tie(image)
        if (outside & ~excused).any() or excused.float().mean() > LARGEST_EXCUSED_SHARE:
            raise _differs(path, f"differ from the network's by up to {float(difference.max()):.1e}", image)
        result.largest = max(result.largest, float(difference[~excused].max()))
        result.images += len(image)
        result.pixels += difference.numel()
        result.ties += int(excused.sum())
    return result


def _differs(path: Path, how: str, image: Tensor) -> InputError:
    return InputError(
        f"{path}: the exported probabilities {how} on images of shape {tuple(image.shape)}, but expected at most"
        f" {TOLERANCE:.0e}; nothing was written; try other versions of torch and onnxruntime (those of constraints.txt"
        " were tested)."
    )

"""The state dict of LiteMedSAM or MobileSAM as a `TinyVitSam`: names and sizes of its encoder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from knowsam.errors import InputError
from knowsam.sam.loading.report import require_known_keys
from knowsam.sam.loading.sizes import TinyVitSizes

FIRST_KEY = "image_encoder.patch_embed.seq.0.c.weight"
KERNELS = {1: False, 3: True}
"""Side of the first convolution's kernel -> whether it halves the image."""

STEM_AND_STAGES = ("image_encoder.patch_embed.", "image_encoder.layers.")
RENAMING = (
    (r"^image_encoder\.patch_embed\.seq\.", "vision_encoder.stem."),
    (r"^image_encoder\.layers\.", "vision_encoder.stages."),
    (r"\.mlp\.norm\.", ".layer_norm2."),
    (r"\.mlp\.fc(\d)\.", r".mlp.lin\1."),
    (r"\.c\.weight$", ".convolution.weight"),
    (r"\.bn\.", ".norm."),
)
"""Original name of a TinyViT's weight -> ours: all rules, one after the other."""

CLASSIFIER = ("image_encoder.norm_head.", "image_encoder.head.")
"""Beginnings of the names of what classified photographs before TinyViT became SAM's encoder; no SAM uses it."""


def is_tiny_vit(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict's encoder is a TinyViT."""
    return FIRST_KEY in state


def translate_tiny_vit(key: str) -> str | None:
    """Return the name that a weight of a TinyViT has here; None for SAM's own parts, its neck among them."""
    if not key.startswith(STEM_AND_STAGES):
        return None
    for pattern, replacement in RENAMING:
        key = re.sub(pattern, replacement, key)
    return key


def read_sizes(state: Mapping[str, Tensor], path: Path) -> TinyVitSizes:
    """Read the sizes of a TinyViT off its tensors.

    Args:
        state: The state dict under the original names, which `is_tiny_vit`.
        path: Its file, for messages.

    Raises:
        InputError: If the tensors are not those of a TinyViT as both published SAMs have it.
    """
    stages = 1 + max(int(found[1]) for key in state if (found := re.match(r"image_encoder\.layers\.(\d+)\.", key)))
    first = "image_encoder.layers.0.blocks.0.conv1.c.weight"
    merging = [f"image_encoder.layers.{index}.downsample.conv3.c.weight" for index in range(stages - 1)]
    biases = [f"image_encoder.layers.{index}.blocks.0.attn.attention_biases" for index in range(1, stages)]
    perceptrons = [f"image_encoder.layers.{index}.blocks.0.mlp.fc1.weight" for index in range(1, stages)]
    neck = "image_encoder.neck.0.weight"
    require_known_keys(path, [key for key in (first, *merging, *biases, *perceptrons, neck) if key not in state], [])
    kernel, areas = state[FIRST_KEY].shape[-1], [state[key].shape[1] for key in biases]
    windows = [math.isqrt(area) for area in areas]
    if kernel not in KERNELS or stages < 2 or [side**2 for side in windows] != areas:
        raise InputError(
            f"{path}: a TinyViT whose first convolution covers {kernel}x{kernel} px, with {stages} stages and"
            f" {areas} biases of attention was found, but expected 1x1 px as in LiteMedSAM or 3x3 px as in MobileSAM,"
            " two stages or more, and squares; load the weights it was tuned from."
        )
    return TinyVitSizes(
        widths=(state[first].shape[1], *(state[key].shape[0] for key in merging)),
        depths=tuple(_blocks(state, index) for index in range(stages)),
        heads=tuple(state[key].shape[0] for key in biases),
        windows=tuple(windows),
        expanded=state[first].shape[0],
        perceptrons=tuple(state[key].shape[0] for key in perceptrons),
        strided=KERNELS[kernel],
        channels=state[neck].shape[0],
    )


def classifier_keys(state: Mapping[str, Any]) -> list[str]:
    """Return the keys of the classifier that MobileSAM's file still holds."""
    return [key for key in state if key.startswith(CLASSIFIER)]


def _blocks(state: Mapping[str, Tensor], stage: int) -> int:
    """How many blocks a stage has."""
    return len(
        {found[1] for key in state if (found := re.match(rf"image_encoder\.layers\.{stage}\.blocks\.(\d+)", key))}
    )

"""A SAM by name: sizes of the paper, a tiny one for two cores, or a path."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import nn

from knowsam.errors import InputError, did_you_mean
from knowsam.sam.checkpoint import load_original
from knowsam.sam.hub import load_folder, load_hub
from knowsam.sam.load_report import LoadReport, report_of
from knowsam.sam.resize import resize_input
from knowsam.sam.sizes import SIZES

NAMES = ("none", "tiny", *SIZES)
RANDOM = "random weights"
TINY = Path(__file__).parent / "tiny"
"""The small SAM that comes with the package, a Hugging Face directory."""


def build_sam(name: str, image_size: tuple[int, int], pretrained: bool = True) -> tuple[nn.Module, LoadReport]:
    """Build a promptable SAM whose encoder takes images of `image_size`.

    Args:
        name: `"tiny"` (1.3 M parameters, patch 8, random weights), `"vit_b"`, `"vit_l"`, `"vit_h"`, the path of a
            Hugging Face directory (`SamModel`, `SamHQModel`), or the path of an original checkpoint (`.pth`).
        image_size: `(H, W)` in pixels, multiples of the patch size.
        pretrained: For the three ViT sizes: load the published weights (from the local cache or the hub); False
            builds the size with random weights, for measurements.

    Returns:
        The `transformers` model in training mode, and what was loaded (`LoadReport.pretrained` is False for random
        weights).

    Raises:
        InputError: For a name that is neither known nor a path, weights that cannot be had or are no SAM's, or a size
            that SAM cannot be resized to.
    """
    path = Path(name).expanduser()
    sam: Any
    if name == "tiny":
        sam = random_tiny()
        report = report_of(sam, name, RANDOM, None)
    elif name in SIZES and not pretrained:
        sam = _random_sam(_size_config(name, max(image_size)))
        report = report_of(sam, name, RANDOM, None)
    elif name in SIZES:
        sam, report = load_hub(name)
    elif path.is_dir():
        sam, report = load_folder(path, name)
    elif path.is_file():
        sam, report = load_original(path, name)
    else:
        raise _unknown(name)
    return sam.train(), dataclasses.replace(report, resized=resize_input(sam, image_size))


def check_sam_name(name: str) -> None:
    """Whether a name can mean a SAM at all; its weights are not looked at.

    Raises:
        InputError: If it is neither known nor a path that exists.
    """
    if name not in NAMES and not Path(name).expanduser().exists():
        raise _unknown(name)


def absolute_name(name: str) -> str:
    """The same SAM under a name that holds from any directory: paths that exist become absolute."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in NAMES and path.exists() else name


def _unknown(name: str) -> InputError:
    if {"/", "\\", "~", "."} & set(name):
        return InputError(
            f"sam: '{name}' was found, but there is no such file or directory; expected a Hugging Face directory of a"
            " SamModel or an original checkpoint (.pth); check the path, and correct sam.name in config.yaml if the"
            " weights of a run were moved."
        )
    return InputError(
        f"sam: '{name}' was found, but expected one of {', '.join(NAMES)}, a Hugging Face directory or a .pth file"
        f"{did_you_mean(name, NAMES)}"
    )


def random_tiny() -> Any:
    """The bundled SAM's architecture with random weights: what its pretraining starts from."""
    from transformers import SamConfig

    return _random_sam(SamConfig.from_dict(json.loads((TINY / "config.json").read_text(encoding="utf-8"))))


def _size_config(name: str, image_size: int) -> Any:
    from transformers import SamConfig, SamPromptEncoderConfig, SamVisionConfig

    return SamConfig(
        vision_config=SamVisionConfig(image_size=image_size, **SIZES[name]),
        prompt_encoder_config=SamPromptEncoderConfig(image_size=image_size),
    )


def _random_sam(config: Any) -> Any:
    """Random weights that a signal gets through; transformers' own (standard deviation 1e-10) leave it dead."""
    from transformers import SamModel

    sam: Any = SamModel(config)
    for module in sam.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(sam.vision_encoder.pos_embed, std=0.02)
    # SAM's own scale; with transformers' (half of the width) neighbouring places would have nothing in common.
    nn.init.normal_(sam.shared_image_embedding.positional_embedding)
    return sam.train()

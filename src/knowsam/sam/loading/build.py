"""Build a SAM by name: a published size, the bundled small one, or a path."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from knowsam.errors import InputError, did_you_mean
from knowsam.runs.device import resolve_device
from knowsam.sam.loading.hub import load_folder, load_hub
from knowsam.sam.loading.lite_medsam import NAME as LITE_MEDSAM
from knowsam.sam.loading.lite_medsam import find_lite_medsam, load_lite_medsam, note_on
from knowsam.sam.loading.original import load_original
from knowsam.sam.loading.report import LoadReport, report_of
from knowsam.sam.loading.resize import resize_input
from knowsam.sam.loading.sizes import SIZES, SIZES_2, TinyVitSizes
from knowsam.storage import not_finite

AUTO = "auto"
NAMES = (AUTO, "none", "tiny", LITE_MEDSAM, *SIZES, *SIZES_2)
RANDOM = "random weights"
TINY = Path(__file__).parents[1] / "weights"
"""The small SAM that comes with the package, as `knowsam sam pretrain` wrote it (docs/sam-tiny.md)."""
TINY_SHA256 = "70910743f3b7dfb7718bdd54f5b8cf26c3139d9515cfd37a6151b140896edd1c"


def build_sam(name: str, image_size: tuple[int, int], pretrained: bool = True) -> tuple[nn.Module, LoadReport]:
    """Build a promptable SAM whose encoder takes images of `image_size`: `load_sam` and `resize_input`.

    Args:
        name: See `load_sam`.
        image_size: `(H, W)` in pixels, multiples of the patch size.
        pretrained: See `load_sam`.

    Returns:
        The `transformers` model in training mode, and what was loaded (`LoadReport.pretrained` is False for random
        weights).

    Raises:
        InputError: For a name that is neither known nor a path, weights that cannot be found or are no SAM's, or a size
            that SAM cannot be resized to.
    """
    sam, report = load_sam(name, pretrained, max(image_size))
    return sam, dataclasses.replace(report, resized=resize_input(sam, image_size))


def load_sam(name: str, pretrained: bool = True, random_side: int = 1024) -> tuple[nn.Module, LoadReport]:
    """Load a promptable SAM as it is, for the size of images it was made for.

    Args:
        name: `"auto"` (see `settled_name`), `"tiny"` (2.8 M parameters, patch 8, bundled with the package),
            `"lite_medsam"` (9.8 M, patch 4, from an installed package), `"vit_b"`, `"vit_l"`, `"vit_h"`,
            `"sam2_tiny"`, `"sam2_small"`, `"sam2_base_plus"`, `"sam2_large"`, the path of a Hugging Face directory
            (`SamModel`, `SamHQModel`, `Sam2Model`), or the path of an original checkpoint (`.pth`).
        pretrained: For the names: load the weights (bundled ones, installed ones, or published ones from the local
            cache or the hub); False builds the size with random weights, for measurements.
        random_side: Side in pixels of the images that a random `vit_*` is made for; SAM 2 is made for 1024.

    Returns:
        The model in training mode, and what was loaded.

    Raises:
        InputError: For a name that is neither known nor a path, or weights that cannot be found or are no SAM's.
    """
    name = settled_name(name)
    path = Path(name)
    sam: Any
    if name in NAMES and name != "none" and not pretrained:
        sam = _random_named(name, random_side)
        report = report_of(sam, name, RANDOM, None)
    elif name == "tiny":
        sam, report = _load_tiny()
    elif name == LITE_MEDSAM:
        sam, report = load_lite_medsam()
    elif name in SIZES or name in SIZES_2:
        sam, report = load_hub(name)
    elif path.is_dir():
        sam, report = load_folder(path, name)
    elif path.is_file():
        sam, report = load_original(path, name)
        report = dataclasses.replace(report, note=note_on(report))
    else:
        raise _unknown(name)
    if wrong := not_finite(sam.state_dict()):
        raise InputError(
            f"sam: a weight that is not finite was found in {wrong} of '{name}', but expected numbers; copy or download"
            " its files again, or pretrain it with a lower rate."
        )
    return sam.train(), report


def check_sam_name(name: str) -> None:
    """Check that a name can mean a SAM; its weights are not read.

    Raises:
        InputError: If it is neither known nor a path that exists.
    """
    if name not in NAMES and not Path(name).expanduser().exists():
        raise _unknown(name)


def settled_name(name: str) -> str:
    """Return a name that means the same SAM on any machine and from any directory.

    `"auto"` becomes `"lite_medsam"` on a GPU where that is installed, `"tiny"` elsewhere (docs/decisions.md); a path
    that exists becomes absolute.
    """
    if name == AUTO:
        return LITE_MEDSAM if resolve_device() != "cpu" and find_lite_medsam() is not None else "tiny"
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in NAMES and path.exists() else name


def _unknown(name: str) -> InputError:
    if {"/", "\\", "~", "."} & set(name):
        return InputError(
            f"sam: '{name}' was found, but there is no such file or directory; expected a Hugging Face directory of a"
            " SamModel or Sam2Model, or an original checkpoint (.pth); check the path, and correct sam.name in"
            " config.yaml if the weights of a run were moved."
        )
    return InputError(
        f"sam: '{name}' was found, but expected one of {', '.join(NAMES)}, a Hugging Face directory or a .pth file"
        f"{did_you_mean(name, NAMES)}"
    )


def _load_tiny() -> tuple[nn.Module, LoadReport]:
    """Load the bundled SAM, and check that it is the one that was shipped."""
    sam, report = load_folder(TINY, "tiny", "bundled with knowsam")
    if report.sha256 != TINY_SHA256:
        raise InputError(
            f"{TINY / 'model.safetensors'}: weights of sha256 {report.sha256} were found, but expected {TINY_SHA256} as"
            " shipped; install knowsam again, or give a directory of your own weights as sam.name."
        )
    return sam, report


def _random_named(name: str, side: int) -> Any:
    """A SAM of a known size with random weights."""
    # Late: these import transformers, which a run without SAM does not need.
    from knowsam.sam.backbone.tiny import read_config, tiny_sam
    from knowsam.sam.backbone.tiny_vit import tiny_vit_sam

    if name == "tiny":
        return tiny_sam(read_config(TINY))
    if name == LITE_MEDSAM:
        return _with_signal(tiny_vit_sam(TinyVitSizes(), {}, {}))
    return _random_sam_2(name) if name in SIZES_2 else _random_sam(_size_config(name, side))


def _size_config(name: str, image_size: int) -> Any:
    from transformers import SamConfig, SamPromptEncoderConfig, SamVisionConfig

    return SamConfig(
        vision_config=SamVisionConfig(image_size=image_size, **SIZES[name]),
        prompt_encoder_config=SamPromptEncoderConfig(image_size=image_size),
    )


def _random_sam(config: Any) -> Any:
    """Build a SAM with random weights that keep activations at scale 1; with those of transformers they vanish."""
    from transformers import SamModel

    sam = _with_signal(SamModel(config))
    nn.init.trunc_normal_(sam.vision_encoder.pos_embed, std=0.02)
    return sam.train()


def _random_sam_2(name: str) -> Any:
    """A SAM 2 of a known size with random weights, among them those of the positions."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    size = dict(SIZES_2[name])
    heads, width = size.pop("heads"), size["hidden_size"]
    widths = [width * 2**stage for stage in range(4)]
    hiera = Sam2HieraDetConfig(
        **size, num_attention_heads=heads, embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[heads * 2**stage for stage in range(4)],
    )  # fmt: skip
    vision = Sam2VisionConfig(backbone_config=hiera, backbone_channel_list=widths[::-1])
    sam: Any = _with_signal(Sam2Model(Sam2Config(vision_config=vision)))
    for table in (sam.vision_encoder.backbone.pos_embed, sam.vision_encoder.backbone.pos_embed_window):
        nn.init.trunc_normal_(table, std=0.02)
    own = sam.prompt_encoder.shared_embedding.positional_embedding
    own.copy_(sam.shared_image_embedding.positional_embedding)  # one and the same in every published file
    return sam.train()


def _with_signal(sam: Any) -> Any:
    for module in sam.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return sam

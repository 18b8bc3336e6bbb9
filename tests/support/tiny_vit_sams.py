"""Files of LiteMedSAM's and MobileSAM's layouts with few random weights, made by naming ours backwards."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knowsam.sam.backbone.tiny_vit import tiny_vit_sam
from knowsam.sam.loading.sizes import TinyVitSizes
from support.original_sam import original_name
from support.small_sam import TOKENS

SMALL = {
    "widths": (8, 8, 12, 16), "depths": (1, 2, 1, 1), "heads": (2, 3, 4), "windows": (2, 5, 3), "expanded": 16,
    "perceptrons": (16, 20, 24), "channels": TOKENS,
}  # fmt: skip
BACK = (
    (".stem.", ".patch_embed.seq."), (".stages.", ".layers."), (".layer_norm2.", ".mlp.norm."), (".lin", ".fc"),
    (".convolution.", ".c."), ("local_conv.norm.", "local_conv.bn."), ("conv1.norm.", "conv1.bn."),
    ("conv2.norm.", "conv2.bn."), ("conv3.norm.", "conv3.bn."), ("seq.0.norm.", "seq.0.bn."),
    ("seq.2.norm.", "seq.2.bn."),
)  # fmt: skip


def small_tiny_vit_sam(strided: bool = False, seed: int = 0) -> Any:
    """A `TinyVitSam` with random weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    sam = tiny_vit_sam(
        TinyVitSizes(strided=strided, **SMALL),
        {"hidden_size": TOKENS},
        {"hidden_size": TOKENS, "mlp_dim": TOKENS, "num_attention_heads": 8, "iou_head_hidden_dim": TOKENS,
         "layer_norm_eps": 1e-5},
    )  # fmt: skip
    for name, parameter in sam.named_parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        if name.endswith("attention_biases"):
            nn.init.normal_(parameter)
    for module in sam.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return sam.eval()


def tiny_vit_state(sam: Any) -> dict[str, Tensor]:
    """The state dict that the original project would have saved."""
    state = {}
    for key, value in sam.state_dict().items():
        if key == "prompt_encoder.shared_embedding.positional_embedding":  # the original has it once
            continue
        if key.startswith(("vision_encoder.stem.", "vision_encoder.stages.")):
            name = key.replace("vision_encoder.", "image_encoder.", 1)
            for ours, theirs in BACK:
                name = name.replace(ours, theirs)
        else:
            name = original_name(key)
        state[name] = value.clone()
    return state


def save_tiny_vit(path: Path, strided: bool = False, **changes: Any) -> Path:
    """Write a state dict with some of its entries changed, or taken away by None."""
    state = {**tiny_vit_state(small_tiny_vit_sam(strided)), **changes}
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


@functools.cache
def small_lite_medsam() -> str:
    """The path of a small file of LiteMedSAM's layout, one for all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="small-lite-medsam-"))
    return str(save_tiny_vit(folder / "lite.pth"))

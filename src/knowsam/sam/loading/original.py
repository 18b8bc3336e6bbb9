"""An original segment-anything state dict (SAM, SAM-HQ, MedSAM, SAM-Med2D, LiteMedSAM, MobileSAM) as a model of ours.

The names are translated by one table, the sizes are read off the tensors, and every key must be accounted for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.io.checks import unreadable
from knowsam.sam.backbone.med2d import insert_branches
from knowsam.sam.loading.report import LoadReport, report_of, require_known_keys, weights_sha256
from knowsam.sam.loading.sizes import SIZES
from knowsam.sam.loading.tiny_vit import FIRST_KEY as TINY_VIT_KEY
from knowsam.sam.loading.tiny_vit import classifier_keys, is_tiny_vit, read_sizes, translate_tiny_vit

ORIGINALS = "state dict of an original SAM, SAM-HQ, MedSAM, SAM-Med2D, LiteMedSAM or MobileSAM"
FIRST_KEY = "image_encoder.patch_embed.proj.weight"
SAM_2_KEYS = "image_encoder.trunk."
"""Beginning of names in the files of the original SAM 2, which are not read."""
POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
BRANCH = "image_encoder.blocks.0.Adapter.channel.0.weight"
HQ_FEATURES = "mask_decoder.compress_vit_feat.0.weight"
# The decoder's number of heads leaves no trace in any tensor; every published SAM has eight.
DECODER_HEADS = 8
# The original decoder's norms have PyTorch's epsilon, transformers' default is another.
DECODER_NORM_EPS = 1e-5
# Where no layer has a table of its own length, the published sizes say which of so many layers are global.
GLOBAL_LAYERS = {size["num_hidden_layers"]: size["global_attn_indexes"] for size in SIZES.values()}

RENAMING = (
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.(\d+)\.Adapter\.", r"vision_encoder.layers.\1.mlp.branch."),
    (r"^image_encoder\.blocks\.(\d+)\.", r"vision_encoder.layers.\1."),
    (r"^image_encoder\.patch_embed\.proj\.", r"vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.neck\.0\.", r"vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", r"vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", r"vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", r"vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", r"vision_encoder."),
    (r"^prompt_encoder\.pe_layer\.positional_\w+$", r"shared_image_embedding.positional_embedding"),
    (r"^prompt_encoder\.point_embeddings\.", r"prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", r"prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", r"prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", r"prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", r"prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", r"prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", r"mask_decoder.transformer.layer_norm_final_attn."),
    (r"^mask_decoder\.output_upscaling\.0\.", r"mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", r"mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", r"mask_decoder.upscale_conv2."),
    (r"^mask_decoder\.hf_token\.", r"mask_decoder.hq_token."),
    (r"^mask_decoder\.hf_mlp\.", r"mask_decoder.hq_mask_mlp."),
    (r"^mask_decoder\.compress_vit_feat\.0\.", r"mask_decoder.compress_vit_conv1."),
    (r"^mask_decoder\.compress_vit_feat\.1\.", r"mask_decoder.compress_vit_norm."),
    (r"^mask_decoder\.compress_vit_feat\.3\.", r"mask_decoder.compress_vit_conv2."),
    (r"^mask_decoder\.embedding_encoder\.0\.", r"mask_decoder.encoder_conv1."),
    (r"^mask_decoder\.embedding_encoder\.1\.", r"mask_decoder.encoder_norm."),
    (r"^mask_decoder\.embedding_encoder\.3\.", r"mask_decoder.encoder_conv2."),
    (r"^mask_decoder\.embedding_maskfeature\.0\.", r"mask_decoder.mask_conv1."),
    (r"^mask_decoder\.embedding_maskfeature\.1\.", r"mask_decoder.mask_norm."),
    (r"^mask_decoder\.embedding_maskfeature\.3\.", r"mask_decoder.mask_conv2."),
)
"""Original name -> transformers' name: the first rule that fits; what none fits has the same name in both."""

EXPLAINED_UNUSED = {
    "pixel_mean": "SAM's pixel normalisation is a constant here",
    "pixel_std": "SAM's pixel normalisation is a constant here",
}


def load_original(path: Path, name: str) -> tuple[nn.Module, LoadReport]:
    """Build the model an original checkpoint was saved from.

    Args:
        path: A file written by `torch.save`: the state dict, or a mapping that holds it (`{"model": ...}`).
        name: The name it goes by, for the report.

    Returns:
        A promptable `SamModel` (`SamHQModel` for SAM-HQ, `TinyVitSam` for LiteMedSAM and MobileSAM) in evaluation mode,
        and what was loaded.

    Raises:
        InputError: If the file cannot be read, is no SAM, or has a key too many or too few.
    """
    state, unused = _state_dict(path)
    sam = _empty_model(state, path)
    explained = EXPLAINED_UNUSED | dict.fromkeys(classifier_keys(state), "of the classifier that the encoder once was")
    translated = {
        # Batch normalisation counts its steps in whole numbers.
        translate(key, state): value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key not in explained
    }
    unused |= {key: reason for key, reason in explained.items() if key in state}
    # One matrix in the original, one with two names in transformers.
    translated["prompt_encoder.shared_embedding.positional_embedding"] = state[POSITIONS].float()
    expected = sam.state_dict()
    require_known_keys(
        path,
        [key for key in expected if key not in translated],
        [key for key in translated if key not in expected],
        {
            key: f"{list(value.shape)} instead of {list(expected[key].shape)}"
            for key, value in translated.items()
            if key in expected and expected[key].shape != value.shape
        },
    )
    sam.load_state_dict(translated, strict=True, assign=True)
    sam.tie_weights()
    return sam.eval(), report_of(sam, name, str(path), weights_sha256([path]), unused)


def translate(key: str, state: Mapping[str, Tensor]) -> str:
    """An original key under transformers' name.

    Args:
        key: Without the prefix that wrappers put before `image_encoder` and its sisters.
        state: The whole state dict, which says how deep the perceptrons are and whether adapters stand beside them.
    """
    if is_tiny_vit(state) and (own := translate_tiny_vit(key)) is not None:
        return own
    new = key
    for pattern, replacement in RENAMING:
        new, found = re.subn(pattern, replacement, key)
        if found:
            break
    if BRANCH in state:
        new = re.sub(r"^(vision_encoder\.layers\.\d+\.mlp)\.lin", r"\1.base.lin", new)
    perceptron = re.match(r"(mask_decoder\..*)\.layers\.(\d+)\.(weight|bias)$", key)
    if perceptron is None:
        return new
    # A perceptron's first and last layer have names of their own in transformers, those between are counted from 0.
    old, index = perceptron[1], int(perceptron[2])
    last = _count(state, rf"{re.escape(old)}\.layers\.(\d+)\.weight") - 1
    part = "proj_in" if index == 0 else "proj_out" if index == last else f"layers.{index - 1}"
    return f"{new.rsplit('.layers.', 1)[0]}.{part}.{perceptron[3]}"


def _state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file without wrapper and prefix, and what lay beside them."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch stumbles over a file that is no checkpoint in many ways
        if "weights_only" in str(error).lower() or "weights only" in str(error).lower():
            raise InputError(
                f"{path}: objects other than tensors and plain values were found, but expected the {ORIGINALS}, because"
                " a file with objects can run code; where it came from, save its state dict alone."
            ) from error
        raise unreadable(path, ORIGINALS, error) from error
    unused: dict[str, str] = {}
    state = loaded if isinstance(loaded, Mapping) else {}
    if _prefix(state) is None:
        inner = [key for key, value in state.items() if isinstance(value, Mapping) and _prefix(value) is not None]
        if len(inner) == 1:
            unused = {str(key): f"beside '{inner[0]}', which holds the model" for key in state if key != inner[0]}
            state = state[inner[0]]
    prefix = _prefix(state)
    if prefix is None:
        inner_names = [key for value in state.values() if isinstance(value, Mapping) for key in value]
        if any(str(key).startswith(SAM_2_KEYS) for key in [*state, *inner_names]):
            raise InputError(
                f"{path}: a file of the original SAM 2 was found, but expected the folder of a Hugging Face Sam2Model;"
                " give such a folder, or use sam=sam2_tiny to sam2_large."
            )
        names = ", ".join([str(key) for key in state][:3]) or type(loaded).__name__
        raise InputError(
            f"{path}: {names} and no '{FIRST_KEY}' were found, but expected the {ORIGINALS}; give such a file, or the"
            " folder of a Hugging Face SamModel."
        )
    strangers = [str(key) for key, value in state.items() if not _is_weight(key, value, prefix)]
    require_known_keys(path, [], strangers)
    return {key.removeprefix(prefix): value for key, value in state.items()}, unused


def _prefix(state: Mapping[Any, Any]) -> str | None:
    """Find the prefix of the original names: `""`, `"module."`, ...; None if this is no SAM."""
    found = [
        key.removesuffix(end)
        for key in state
        for end in (FIRST_KEY, TINY_VIT_KEY)
        if isinstance(key, str) and key.endswith(end)
    ]
    return found[0] if len(found) == 1 else None


def _is_weight(key: Any, value: Any, prefix: str) -> bool:
    return isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)


def _empty_model(state: Mapping[str, Tensor], path: Path) -> Any:
    """The model whose sizes fit the tensors, without weights."""
    from transformers import SamConfig, SamHQConfig, SamHQModel, SamModel

    from knowsam.sam.backbone.tiny_vit import tiny_vit_sam

    of_vit = ("image_encoder.pos_embed", "image_encoder.neck.0.weight", "image_encoder.blocks.0.mlp.lin1.weight")
    needed = (
        *(() if is_tiny_vit(state) else of_vit),
        POSITIONS, "prompt_encoder.mask_downscaling.3.weight", "mask_decoder.mask_tokens.weight",
        "mask_decoder.iou_prediction_head.layers.0.weight", "mask_decoder.transformer.layers.0.mlp.lin1.weight",
        "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight",
    )  # fmt: skip
    require_known_keys(path, [key for key in needed if key not in state], [])
    is_hq = HQ_FEATURES in state
    try:
        if is_tiny_vit(state):
            with torch.device("meta"):
                return tiny_vit_sam(read_sizes(state, path), _prompt_sizes(state), _decoder_sizes(state))
        vision, decoder = _vision_sizes(state, path), _decoder_sizes(state)
        if is_hq:
            decoder["vit_dim"] = state[HQ_FEATURES].shape[0]
        prompt = {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            **_prompt_sizes(state),
        }
        model_class, config_class = (SamHQModel, SamHQConfig) if is_hq else (SamModel, SamConfig)
        config: Any = config_class(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        with torch.device("meta"):
            sam = model_class(config)
            if BRANCH in state:
                insert_branches(sam, hidden=state[BRANCH].shape[0])
    except InputError:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        ZeroDivisionError,
        RuntimeError,
    ) as error:  # sizes that no SAM can have together, such as a width its heads do not divide
        raise InputError(
            f"{path}: tensors whose sizes do not go together were found ({error}), but expected the {ORIGINALS}."
        ) from error
    return sam


def _vision_sizes(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    width, channels, patch, _ = state[FIRST_KEY].shape
    depth = _count(state, r"image_encoder\.blocks\.(\d+)\.norm1\.weight")
    _, height, grid, _ = state["image_encoder.pos_embed"].shape
    tables = [state.get(f"image_encoder.blocks.{index}.attn.rel_pos_h") for index in range(depth)]
    lengths = [len(table) for table in tables if table is not None]
    if channels != 3 or height != grid or len(lengths) != depth:
        raise InputError(
            f"{path}: an encoder for {channels} channels, a grid of {height}x{grid} tokens and {len(lengths)} tables of"
            f" relative positions in {depth} layers were found, but expected 3 channels, a square grid and a table in"
            " each layer, as in every published SAM; load the weights it was tuned from."
        )
    window, global_layers = _windows(lengths, grid, path)
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // tables[0].shape[1],  # type: ignore[union-attr]  # no table is None here
        "mlp_dim": state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        "output_channels": state["image_encoder.neck.0.weight"].shape[0],
        "qkv_bias": "image_encoder.blocks.0.attn.qkv.bias" in state,
        "image_size": grid * patch,
        "patch_size": patch,
        "window_size": window,
        "global_attn_indexes": global_layers,
        "num_pos_feats": state[POSITIONS].shape[1],
    }


def _windows(lengths: list[int], grid: int, path: Path) -> tuple[int, list[int]]:
    """Side of the windows in tokens, and the global layers: those whose tables span the grid (2 x side - 1 entries)."""
    spanning = [index for index, length in enumerate(lengths) if length == 2 * grid - 1]
    windowed = {length for length in lengths if length != 2 * grid - 1}
    if not windowed:  # windows as large as the grid look global: only the published sizes know
        return grid, GLOBAL_LAYERS.get(len(lengths), spanning)
    if len(windowed) > 1 or min(windowed) % 2 == 0:
        raise InputError(
            f"{path}: tables of {sorted(set(lengths))} relative positions were found, but expected {2 * grid - 1} in"
            f" the global layers for a grid of {grid}x{grid} tokens and one odd number in all others; load the weights"
            " it was tuned from."
        )
    return (windowed.pop() + 1) // 2, spanning


def _prompt_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "hidden_size": state["mask_decoder.mask_tokens.weight"].shape[1],
        "mask_input_channels": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        "num_point_embeddings": _count(state, r"prompt_encoder\.point_embeddings\.(\d+)\.weight"),
    }


def _decoder_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    tokens, width = state["mask_decoder.mask_tokens.weight"].shape
    inner = state["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0]
    return {
        "hidden_size": width,
        "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        "num_hidden_layers": _count(state, r"mask_decoder\.transformer\.layers\.(\d+)\.norm1\.weight"),
        "num_attention_heads": DECODER_HEADS,
        "attention_downsample_rate": width // inner,
        "num_multimask_outputs": tokens - 1,
        "iou_head_depth": _count(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight"),
        "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        "layer_norm_eps": DECODER_NORM_EPS,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many keys fit the pattern."""
    return sum(re.fullmatch(pattern, key) is not None for key in state)

"""SAMs whose encoder is a TinyViT: LiteMedSAM and MobileSAM.

TinyViT (Wu et al., 2022) begins with convolutions, goes on with attention in windows, and halves the grid between its
stages but for the last. Nothing in it depends on the size of the input: positions within a window are all it knows.
Its batch normalisation never learns statistics here. A teacher that sees a few images at a time would spoil them, so
that they are part of the convolution before them (`ConvNorm`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamVisionEncoderOutput, SamVisionNeck

from knowsam.sam.backbone.interface import SamInterface
from knowsam.sam.loading.sizes import TINY_VIT_GRID, TinyVitSizes


class TinyVitSam(SamInterface, SamModel):
    """A `SamModel` with a `TinyVit` as encoder; images of any size whose sides are multiples of the patch."""

    keeps_attention = True
    has_positions = False
    keeps_scale = True

    def __init__(self, config: Any, sizes: TinyVitSizes) -> None:
        super().__init__(config)
        self.vision_encoder = TinyVit(sizes, config.vision_config)  # type: ignore[assignment]

    def encoder_blocks(self, sam: Any) -> list[Any]:
        """Return the blocks with attention."""
        return [block for stage in sam.vision_encoder.stages[1:] for block in stage.blocks]


def tiny_vit_sam(sizes: TinyVitSizes, prompt: dict[str, Any], decoder: dict[str, Any]) -> TinyVitSam:
    """Build a `TinyVitSam` with PyTorch's random weights.

    Args:
        sizes: Of the encoder.
        prompt: Of the prompt encoder: settings of `SamPromptEncoderConfig` beside image and patch size.
        decoder: Of the mask decoder: settings of `SamMaskDecoderConfig`.
    """
    made_for = TINY_VIT_GRID * sizes.patch
    image = {"image_size": made_for, "patch_size": sizes.patch}
    vision = {
        "hidden_size": sizes.widths[-1], "output_channels": sizes.channels, "num_attention_heads": sizes.heads[-1],
        "num_pos_feats": sizes.channels // 2, "window_size": sizes.windows[0], "num_hidden_layers": 0,
        "global_attn_indexes": [], **image,
    }  # fmt: skip
    config: Any = SamConfig(
        vision_config=vision, prompt_encoder_config={**prompt, **image}, mask_decoder_config=decoder
    )
    sam: Any = TinyVitSam(config, sizes)
    sam.config.vision_config.num_hidden_layers = sum(sizes.depths)
    return sam


class TinyVit(nn.Module):
    """The encoder: normalised images `(B, 3, H, W)` -> the embedding `(B, channels, H / patch, W / patch)`."""

    def __init__(self, sizes: TinyVitSizes, config: Any) -> None:
        super().__init__()
        width, kernel = sizes.widths[0], 3 if sizes.strided else 1
        stride = 2 if sizes.strided else 1
        self.stem = nn.Sequential(
            ConvNorm(3, width // 2, kernel, stride), nn.GELU(), ConvNorm(width // 2, width, kernel, stride)
        )
        stages: list[nn.Module] = []
        for index, width in enumerate(sizes.widths):
            count = range(sizes.depths[index])
            if index == 0:
                blocks: list[nn.Module] = [ConvBlock(width, sizes.expanded) for _ in count]
            else:
                heads, window = sizes.heads[index - 1], sizes.windows[index - 1]
                blocks = [WindowBlock(width, heads, window, sizes.perceptrons[index - 1]) for _ in count]
            following = sizes.widths[index + 1 : index + 2]
            halving = index + 2 < len(sizes.widths)
            stages.append(Stage(blocks, [Merging(width, to, 2 if halving else 1) for to in following]))
        self.stages = nn.ModuleList(stages)
        self.neck = SamVisionNeck(config)

    def forward(self, pixel_values: Tensor, **arguments: Any) -> Any:
        """See the class."""
        x = self.stem(pixel_values)
        for stage in self.stages:
            x = stage(x)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(x.permute(0, 2, 3, 1)))


class Stage(nn.Module):
    """Blocks, and what leads to the next stage; both over `(B, C, h, w)`."""

    def __init__(self, blocks: list[nn.Module], downsample: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample[0] if downsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` -> `(B, C', h', w')`."""
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class ConvNorm(nn.Module):
    """A convolution without bias, followed by batch normalisation with the statistics of pretraining: one convolution.

    The statistics are those of the file in training mode, too. Scale and shift of the normalisation are weights like
    others.
    """

    def __init__(self, channels: int, to: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, to, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(to)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` -> `(B, C', h / stride, w / stride)`."""
        norm, convolution = self.norm, self.convolution
        assert norm.running_var is not None  # a layer that tracks them has them
        assert norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return F.conv2d(
            x, convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale,
            convolution.stride, convolution.padding, groups=convolution.groups,
        )  # fmt: skip


class ConvBlock(nn.Module):
    """Widen, depth-wise 3x3, shrink, with a skip: `gelu(x + conv3(gelu(conv2(gelu(conv1(x))))))`."""

    def __init__(self, width: int, expanded: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, expanded)
        self.conv2 = ConvNorm(expanded, expanded, 3, groups=expanded)
        self.conv3 = ConvNorm(expanded, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` -> the same shape."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Merging(nn.Module):
    """From one stage's width to the next, on half the grid where the stride is 2."""

    def __init__(self, width: int, to: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, to)
        self.conv2 = ConvNorm(to, to, 3, stride, groups=to)
        self.conv3 = ConvNorm(to, to)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` -> `(B, C', h / stride, w / stride)`."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowBlock(nn.Module):
    """Attention in windows, a depth-wise 3x3 across their borders, a perceptron; skips around the first and the last.

    Adapters find attention and perceptron under the names they have in transformers' layers; both take tokens
    `(B, h, w, C)`.
    """

    def __init__(self, width: int, heads: int, window: int, hidden: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.layer_norm2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` -> the same shape."""
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + self.attn(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (tokens + self.mlp(self.layer_norm2(tokens))).permute(0, 3, 1, 2)


class Perceptron(nn.Module):
    """`lin2(gelu(lin1(x)))` over the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(..., C)` -> `(..., C)`."""
        return self.lin2(F.gelu(self.lin1(tokens)))


class WindowAttention(nn.Module):
    """Attention within square windows, with a learned bias for each distance along rows and columns.

    A grid that is no multiple of the window is padded below and on the right with zeros, which take part as in
    pretraining: their normalised tokens are the norm's bias.

    Args:
        width: C, of a token.
        heads: Of attention.
        window: Side of a window in tokens.
    """

    offsets: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        # Not `arange`: on the meta device, where a model is built before its file is read, a buffer has no content.
        with torch.device("cpu"):
            self.register_buffer("offsets", distances(window), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, h, w, C)`, not normalised -> the same shape."""
        height, width = tokens.shape[1:3]
        side = self.window
        padded = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        cut = (
            padded.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
        )  # (B, rows, cols, s, s, C)
        cut = cut.flatten(0, 2).flatten(1, 2)
        query, key, value = self.qkv(self.norm(cut)).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.offsets].to(query.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)  # (windows, heads, s * s, d)
        joined = self.proj(attended.transpose(1, 2).flatten(2)).unflatten(1, (side, side))
        joined = joined.unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return joined[:, :height, :width]


def distances(window: int) -> Tensor:
    """Index of the bias for each pair of tokens of a window, `(window^2, window^2)`: rows apart * side + columns."""
    place = torch.arange(window)
    apart = (place[:, None] - place).abs()  # (side, side)
    return (apart[:, None, :, None] * window + apart[None, :, None, :]).flatten(2, 3).flatten(0, 1)

"""The bundled small SAM: SAM's parts, built to learn mask refinement from little.

Encoder, prompt encoder and two-way decoder are SAM's, with three changes that a small budget of training needs (SAM
learned the same from a billion masks):

- convolutions instead of one linear map turn pixels into tokens, and their finer maps go to the decoder as well;
- the decoder mixes neighbouring image tokens after they have attended to the prompt; in SAM image tokens attend to
  prompt tokens alone;
- the mask prompt also enters at its own resolution, where the decoder makes its mask; boxes and points are drawn into
  it beside being tokens, because a prompt that is aligned with the image is learned in few steps.

Adapters, prompts and the teacher treat it like any `SamModel`; `SamInterface` says what is different.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamVisionAttention, SamVisionEncoder

from knowsam.sam.backbone.attention import window_attention
from knowsam.sam.backbone.interface import SamInterface
from knowsam.sam.loading.resize import resize_grid

MODEL_TYPE = "knowsam_tiny"
"""`model_type` in the `config.json` of such a SAM."""
HALF, QUARTER = 32, 64
"""Channels of the encoder's maps at a half and a quarter of the image's size."""
MASK_MAPS = 2
"""A mask prompt as probability and as bounded logits."""
BOX_LOGIT, POINT_LOGIT, POINT_WIDTH = 6.0, 12.0, 2.5
"""How boxes and points are drawn: their logits at the centre, a point's standard deviation in mask-prompt pixels."""


class Encoded(NamedTuple):
    """What the encoder gives.

    Attributes:
        embedding: `(B, dim, H / 8, W / 8)`.
        half: `(B, HALF, H / 2, W / 2)`.
        quarter: `(B, QUARTER, H / 4, W / 4)`.
    """

    embedding: Tensor
    half: Tensor
    quarter: Tensor


class TinySam(SamInterface, SamModel):
    """A `SamModel` with the changes above; patch 8, no windows."""

    learns_whole = True
    finer_maps = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        dim = config.prompt_encoder_config.hidden_size
        self.vision_encoder = TinyEncoder(config.vision_config)
        self.mask_decoder = TinyDecoder(config.mask_decoder_config)
        self.prompt_encoder.mask_embed = MaskEncoder(dim)  # type: ignore[assignment]

    def decoder_extras(self, encoded: Encoded, mask_prompt: Tensor, per_image: int) -> dict[str, Any]:
        """Return the encoder's finer maps, and the mask prompt at its own resolution."""
        return {"half": encoded.half, "quarter": encoded.quarter, "mask_prompt": mask_prompt}

    def draw_prompts(
        self, prompt: Tensor, point: Tensor, inside: Tensor, box: Tensor, has_point: Tensor, has_box: Tensor
    ) -> Tensor:
        """Add points to the masks (`draw_points`), replace masks by boxes (`draw_boxes`)."""
        size = (prompt.shape[-2], prompt.shape[-1])
        prompt = prompt + torch.where(has_point, draw_points(point, inside, size), 0.0)
        return torch.where(has_box, draw_boxes(box, size), prompt)


def tiny_sam(config: dict[str, Any]) -> TinySam:
    """Build a `TinySam` from the content of its `config.json`, with random weights that keep activations at scale 1."""
    values = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "dtype")}
    sam: Any = TinySam(SamConfig.from_dict(values))
    for module in sam.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Mix):
            nn.init.zeros_(module.shrink.weight)  # a block begins as the identity
    nn.init.trunc_normal_(sam.vision_encoder.pos_embed, std=0.02)
    # SAM's own scale; with transformers' (half of the width) neighbouring places would have nothing in common.
    nn.init.normal_(sam.shared_image_embedding.positional_embedding)
    return sam


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


class Stem(nn.Module):
    """Three halvings by convolution: images -> tokens `(B, H / 8, W / 8, width)`, and the maps before them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.to_half = nn.Sequential(_halving(channels, HALF), _convolution(HALF, HALF), _convolution(HALF, HALF))
        self.to_quarter = nn.Sequential(_halving(HALF, QUARTER), Mix(QUARTER))
        self.to_eighth = nn.Sequential(_halving(QUARTER, width), Mix(width), Mix(width))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(B, C, H, W)` -> tokens, half, quarter."""
        half = self.to_half(image)
        quarter = self.to_quarter(half)
        return self.to_eighth(quarter).permute(0, 2, 3, 1), half, quarter


class TinyAttention(SamVisionAttention):
    """A vision layer's attention over the whole grid, computed as `window_attention` does.

    Attributes:
        most_keys: Above so many tokens, those of the 128 x 128 px it was trained with, keys are pooled: the time then
            grows with the tokens, not with their square.
    """

    most_keys: ClassVar[int] = 256

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, output_attentions: bool | None = None
    ) -> tuple[Tensor, None]:
        """Tokens `(B, h, w, width)` -> the same shape; attention weights are not kept."""
        return window_attention(self, hidden_states, 0), None


class TinyEncoder(SamVisionEncoder):
    """SAM's encoder behind a `Stem`; images of any size whose sides are multiples of 8."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.patch_embed = Stem(config.num_channels, config.hidden_size)  # type: ignore[assignment]
        for layer in self.layers:
            layer.attn = TinyAttention(config, window_size=0)

    def forward(self, pixel_values: Tensor, **arguments: Any) -> Encoded:
        """Normalised images `(B, C, H, W)` -> `Encoded`."""
        tokens, half, quarter = self.patch_embed(pixel_values)
        assert self.pos_embed is not None  # the configuration asks for it
        tokens = tokens + resize_grid(self.pos_embed, (tokens.shape[1], tokens.shape[2]))
        for layer in self.layers:
            tokens = layer(tokens)
        return Encoded(self.neck(tokens), half, quarter)


class MaskEncoder(nn.Module):
    """Mask logits `(N, 1, 4 g_h, 4 g_w)` -> dense prompt `(N, dim, g_h, g_w)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_halving(MASK_MAPS, 32), _halving(32, 64), nn.Conv2d(64, dim, 1))

    def forward(self, logits: Tensor) -> Tensor:
        """See the class."""
        return self.layers(mask_maps(logits))


class TinyDecoder(SamMaskDecoder):
    """SAM's two-way decoder between two rounds of mixing, and an upscaling with the finer maps and the mask prompt."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        dim = config.hidden_size
        del self.upscale_conv1, self.upscale_conv2, self.upscale_layer_norm
        self.before, self.after = Mix(dim), Mix(dim)
        self.to_quarter = nn.ConvTranspose2d(dim, dim // 4, 2, stride=2)
        self.quarter_skip = nn.Conv2d(QUARTER, dim // 4, 1)
        self.at_quarter = _convolution(dim // 4, dim // 4)
        self.to_half = nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2)
        self.half_skip = nn.Conv2d(HALF, dim // 8, 1)
        self.mask_skip = nn.Conv2d(MASK_MAPS, dim // 8, 1)
        self.at_half = nn.Sequential(_convolution(dim // 8, dim // 8), nn.Conv2d(dim // 8, dim // 8, 3, padding=1))

    def forward(  # type: ignore[override]
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        half: Tensor,
        quarter: Tensor,
        mask_prompt: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As SAM's, for one prompt `(N, 1, T, dim)` per entry of the batch.

        Args:
            image_embeddings: `(N, dim, g_h, g_w)`.
            image_positional_embeddings: The same shape.
            sparse_prompt_embeddings: `(N, 1, T, dim)`.
            dense_prompt_embeddings: `(N, dim, g_h, g_w)`.
            multimask_output: Three masks instead of one.
            half: `Encoded.half` of the B images, N = B * P.
            quarter: `Encoded.quarter`.
            mask_prompt: Mask logits `(N, 1, 4 g_h, 4 g_w)`, 0 where there is none.

        Returns:
            Logits `(N, 1, M, 4 g_h, 4 g_w)` and estimated IoU `(N, 1, M)`.
        """
        count, dim, height, width = image_embeddings.shape
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(count, 1, -1, -1)
        image = self.before(image_embeddings + dense_prompt_embeddings)
        tokens, image = self.transformer(
            point_embeddings=torch.cat([own, sparse_prompt_embeddings], dim=2),
            image_embeddings=image,
            image_positional_embeddings=image_positional_embeddings,
            attention_similarity=None,
            target_embedding=None,
        )
        image = self.after(image.transpose(2, 3).reshape(count, dim, height, width))
        per_image = count // half.shape[0]
        image = self.to_quarter(image) + self.quarter_skip(quarter).repeat_interleave(per_image, dim=0)
        image = self.to_half(image + self.at_quarter(image))
        image = (
            image + self.half_skip(half).repeat_interleave(per_image, dim=0) + self.mask_skip(mask_maps(mask_prompt))
        )
        image = image + self.at_half(image)
        masks = slice(1, None) if multimask_output else slice(0, 1)
        weights = torch.stack(
            [mlp(tokens[:, 0, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)][masks], dim=1
        )
        logits = (weights @ image.flatten(2)).view(count, 1, -1, *image.shape[-2:])
        return logits, self.iou_prediction_head(tokens[:, :, 0])[..., masks]


class Mix(nn.Module):
    """A residual block over `(N, C, h, w)`: depth-wise 5x5, norm, widen, GELU, shrink."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.GroupNorm(1, channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.shrink = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x + self.shrink(F.gelu(self.widen(self.norm(self.depthwise(x)))))


def draw_boxes(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw boxes as mask prompts: largest in the centre, 0 on the edges, negative outside, linear in between.

    Args:
        box: `(N, 4)` x0, y0, x1, y1 as shares of the image, x0 < x1, y0 < y1.
        size: `(h, w)` of the mask prompt.

    Returns:
        Logits `(N, h, w)` in [-6, 6].
    """
    y, x = _pixel_centres(size, box)
    x0, y0, x1, y1 = box.view(-1, 4, 1, 1).unbind(dim=1)
    across, down = (2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)
    return BOX_LOGIT * (1 - torch.maximum(across.abs(), down.abs())).clamp(min=-1)


def draw_points(point: Tensor, inside: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw points as spots that are added to a mask prompt, positive or negative.

    Args:
        point: `(N, 2)` x, y as shares of the image.
        inside: `(N,)` bool, whether the point belongs to the object.
        size: `(h, w)` of the mask prompt.

    Returns:
        Logits `(N, h, w)` in [-12, 12].
    """
    y, x = _pixel_centres(size, point)
    dx, dy = (x - point[:, :1, None]) * size[1], (y - point[:, 1:, None]) * size[0]
    spot = (-(dx.square() + dy.square()) / (2 * POINT_WIDTH**2)).exp()
    return torch.where(inside, POINT_LOGIT, -POINT_LOGIT).view(-1, 1, 1) * spot


def _pixel_centres(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(1, h, 1)` and columns `(1, 1, w)` as shares of the image."""
    y, x = ((torch.arange(side, device=like.device) + 0.5) / side for side in size)
    return y.view(1, -1, 1), x.view(1, 1, -1)


def mask_maps(logits: Tensor) -> Tensor:
    """Mask logits `(N, 1, h, w)` -> `(N, 2, h, w)` in [-1, 1]: the sign, softened, and the size."""
    return torch.cat([(logits / 2).tanh(), (logits / 16).clamp(-1, 1)], dim=1)


def _halving(channels: int, to: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, to, 3, stride=2, padding=1), nn.GroupNorm(8, to), nn.GELU())


def _convolution(channels: int, to: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, to, 3, padding=1), nn.GroupNorm(8, to), nn.GELU())

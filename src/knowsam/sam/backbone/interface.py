"""What differs between SAMs beside their modules: the encoder's maps, drawn prompts, sizes, what learns by default.

A SAM of this package inherits from `SamInterface` and overrides it. The published ones are classes of `transformers`,
which are not subclassed; `interface_of` finds theirs. Nothing here imports `transformers`.
"""

from __future__ import annotations

from math import lcm
from typing import Any, ClassVar, NamedTuple

from torch import Tensor


class SamInterface:
    """The interface of `transformers.SamModel`; other SAMs override what is different.

    Attributes:
        learns_whole: Whether every weight learns by default. A pretrained SAM of the published sizes is frozen but for
            its adapters and prompts.
        finer_maps: Whether the decoder reads finer maps of the encoder beside the embedding.
        keeps_attention: Whether an adapter stands behind a block's attention as it is; else, where a layer of
            `transformers` cuts the windows, the attention is computed without their padding (`window_attention`).
        pads_boxes: Whether it was trained with a token for 'no point' behind the corners of a box.
        has_positions: Whether the encoder has tables of positions for one size of input.
        keeps_scale: Whether images are enlarged by default to about the size it was made for (`sam.size=auto`).
    """

    learns_whole: ClassVar[bool] = False
    finer_maps: ClassVar[bool] = False
    keeps_attention: ClassVar[bool] = False
    pads_boxes: ClassVar[bool] = False
    has_positions: ClassVar[bool] = True
    keeps_scale: ClassVar[bool] = False

    def encoder_blocks(self, sam: Any) -> list[Any]:
        """Return the encoder's blocks with attention: each has `attn`, `layer_norm2` and `mlp`."""
        return list(sam.vision_encoder.layers)

    def prepare(self, sam: Any) -> None:
        """Make a SAM a teacher that answers every prompt in the same way, in place."""

    def encode(self, sam: Any, image: Tensor) -> Any:
        """Return what the encoder gives for normalised images `(B, 3, H, W)`; its first item is the embedding."""
        return sam.vision_encoder(image)

    def patch(self, sam: Any) -> int:
        """Return the side of a token of the embedding in pixels."""
        return int(sam.config.vision_config.patch_size)

    def multiple(self, sam: Any) -> int:
        """Return what the sides of an image must be multiples of, in pixels."""
        return self.patch(sam) * (2 if getattr(sam, "needs_even_grid", False) else 1)

    def made_for(self, sam: Any) -> int:
        """Return the side in pixels of the images it was pretrained on."""
        return int(sam.config.vision_config.image_size)

    def sizes(self, sam: Any) -> dict[str, Any]:
        """Return `LoadReport.sizes`."""
        vision = sam.config.vision_config
        return {
            "class": type(sam).__name__,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "heads": vision.num_attention_heads,
            "patch_px": vision.patch_size,
            "window_tokens": vision.window_size,
            "global_layers": list(vision.global_attn_indexes),
        }

    def set_size(self, sam: Any, image_size: tuple[int, int], grid: tuple[int, int]) -> None:
        """Tell the prompt encoder the size of images and of the token grid, in place.

        Points and boxes of `transformers` come in pixels of a square input.
        """
        sam.prompt_encoder.image_embedding_size = grid
        if image_size[0] == image_size[1]:
            side = image_size[0]
            sam.prompt_encoder.input_image_size = side
            sam.config.vision_config.image_size = sam.config.prompt_encoder_config.image_size = side
            sam.config.prompt_encoder_config.image_embedding_size = grid[0]

    def point_marks(self, sam: Any) -> list[Tensor]:
        """Return what marks a point as outside, inside, a box's first or second corner: `(1, dim)` each."""
        return [entry.weight for entry in sam.prompt_encoder.point_embed]

    def decoder_extras(self, encoded: Any, mask_prompt: Tensor, per_image: int) -> dict[str, Any]:
        """Return the arguments of the mask decoder beside embedding, positions and prompts.

        Args:
            encoded: What the encoder gave for B images.
            mask_prompt: Mask logits `(B * P, 1, 4 g_h, 4 g_w)` behind the dense prompts, 0 where there is none.
            per_image: P, prompts per image.
        """
        return {}

    def draw_prompts(
        self, prompt: Tensor, point: Tensor, inside: Tensor, box: Tensor, has_point: Tensor, has_box: Tensor
    ) -> Tensor | None:
        """Draw points and boxes into mask prompts.

        Args:
            prompt: Mask logits `(N, h, w)`.
            point: `(N, 2)` x, y as shares of the image.
            inside: `(N,)` bool, whether the point belongs to the object.
            box: `(N, 4)` x0, y0, x1, y1 as shares of the image.
            has_point: `(N, 1, 1)` bool, which prompts have a point.
            has_box: `(N, 1, 1)` bool, which prompts are a box.

        Returns:
            Mask logits `(N, h, w)`; None for a SAM whose points and boxes are tokens alone.
        """
        return None


class SamHQInterface(SamInterface):
    """The interface of `transformers.SamHQModel`."""

    def decoder_extras(self, encoded: Any, mask_prompt: Tensor, per_image: int) -> dict[str, Any]:
        """Return the tokens of the first global layer; the decoder's finer mask is added to SAM's."""
        early = encoded.intermediate_embeddings[0].repeat_interleave(per_image, dim=0)
        return {"intermediate_embeddings": [early], "hq_token_only": False}


class Sam2Maps(NamedTuple):
    """What the encoder of a SAM 2 gives.

    Attributes:
        embedding: `(B, dim, H / 16, W / 16)`.
        quarter: `(B, dim / 8, H / 4, W / 4)`, as the decoder adds it.
        eighth: `(B, dim / 4, H / 8, W / 8)`.
    """

    embedding: Tensor
    quarter: Tensor
    eighth: Tensor


class Sam2Interface(SamInterface):
    """The interface of `transformers.Sam2Model` for single images: no memory of other ones.

    Its positions are stretched to any grid by itself, and its finer maps go to the decoder.
    """

    finer_maps = True
    keeps_attention = True
    pads_boxes = True
    has_positions = False

    def encoder_blocks(self, sam: Any) -> list[Any]:
        """Return Hiera's blocks."""
        return list(sam.vision_encoder.backbone.blocks)

    def prepare(self, sam: Any) -> None:
        """Take the mask for an unambiguous prompt; in evaluation mode SAM 2 may choose one of its three others."""
        sam.mask_decoder.dynamic_multimask_via_stability = False

    def encode(self, sam: Any, image: Tensor) -> Sam2Maps:
        """Return the three finest maps, projected as the decoder takes them."""
        quarter, eighth, embedding = sam.vision_encoder(image).fpn_hidden_states
        absent = sam.no_memory_embedding.view(1, -1, 1, 1)
        return Sam2Maps(embedding + absent, sam.mask_decoder.conv_s0(quarter), sam.mask_decoder.conv_s1(eighth))

    def patch(self, sam: Any) -> int:
        """Return the side of a token of the embedding in pixels: the coarsest of the three maps."""
        vision = sam.config.vision_config
        return int(vision.backbone_config.patch_stride[0] * 2 ** (vision.num_feature_levels - 1))

    def multiple(self, sam: Any) -> int:
        """Return what sides must be multiples of: all halvings, and whole windows of positions."""
        hiera = sam.config.vision_config.backbone_config
        return int(hiera.patch_stride[0] * lcm(2**hiera.num_query_pool_stages, hiera.window_size_per_stage[0]))

    def made_for(self, sam: Any) -> int:
        """Return the side in pixels of the images it was pretrained on."""
        return int(sam.config.prompt_encoder_config.image_size)

    def sizes(self, sam: Any) -> dict[str, Any]:
        """Return `LoadReport.sizes`; the windows are those of each stage."""
        hiera = sam.config.vision_config.backbone_config
        return {
            "class": type(sam).__name__,
            "width": hiera.hidden_size,
            "layers": sum(hiera.blocks_per_stage),
            "heads": hiera.num_attention_heads_per_stage[0],
            "patch_px": self.patch(sam),
            "window_tokens": list(hiera.window_size_per_stage),
            "global_layers": list(hiera.global_attention_blocks),
        }

    def set_size(self, sam: Any, image_size: tuple[int, int], grid: tuple[int, int]) -> None:
        """Tell the prompt encoder, and transformers' own forward pass, the new sizes, in place."""
        sam.prompt_encoder.image_embedding_size = grid
        sam.prompt_encoder.mask_input_size = (4 * grid[0], 4 * grid[1])
        finest = len(sam.backbone_feature_sizes) - 1
        sam.backbone_feature_sizes = [[side * 2 ** (finest - level) for side in grid] for level in range(finest + 1)]
        if image_size[0] == image_size[1]:
            sam.prompt_encoder.input_image_size = sam.config.prompt_encoder_config.image_size = image_size[0]
            sam.config.vision_config.backbone_feature_sizes = sam.backbone_feature_sizes

    def point_marks(self, sam: Any) -> list[Tensor]:
        """Return the rows of its one table."""
        return list(sam.prompt_encoder.point_embed.weight.split(1))

    def decoder_extras(self, encoded: Any, mask_prompt: Tensor, per_image: int) -> dict[str, Any]:
        """Return the finer maps."""
        maps = [encoded.quarter, encoded.eighth]
        return {"high_resolution_features": [one.repeat_interleave(per_image, dim=0) for one in maps]}


def interface_of(sam: Any) -> SamInterface:
    """Return the interface of a SAM: itself, or the one for its class of `transformers`.

    Args:
        sam: A `SamModel`, a `SamHQModel`, a `Sam2Model` or a SAM of this package.
    """
    if isinstance(sam, SamInterface):
        return sam
    own = {"sam_hq": SamHQInterface, "sam2": Sam2Interface, "sam2_video": Sam2Interface}
    return own.get(sam.config.model_type, SamInterface)()

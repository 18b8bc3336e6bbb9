"""What differs between SAMs beside their modules: arguments of the decoder, drawn prompts, what learns by default.

A SAM of this package inherits from `SamInterface` and overrides it. The published ones are classes of `transformers`,
which are not subclassed; `interface_of` finds theirs. Nothing here imports `transformers`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor


class SamInterface:
    """The interface of `transformers.SamModel`; other SAMs override what is different.

    Attributes:
        learns_whole: Whether every weight learns by default. A pretrained SAM of the published sizes is frozen but for
            its adapters and prompts.
        attends_whole_grid: Whether a block's attention takes all tokens of an image and cuts its windows itself; a
            layer of `transformers` cuts them before.
        has_positions: Whether the encoder has tables of positions for one size of input.
        keeps_scale: Whether images are enlarged by default to about the size it was made for (`sam.size=auto`).
    """

    learns_whole: ClassVar[bool] = False
    attends_whole_grid: ClassVar[bool] = False
    has_positions: ClassVar[bool] = True
    keeps_scale: ClassVar[bool] = False

    def encoder_blocks(self, sam: Any) -> list[Any]:
        """Return the encoder's blocks with attention: each has `attn`, `layer_norm2` and `mlp`."""
        return list(sam.vision_encoder.layers)

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


def interface_of(sam: Any) -> SamInterface:
    """Return the interface of a SAM: itself, or the one for its class of `transformers`.

    Args:
        sam: A `SamModel`, a `SamHQModel` or a SAM of this package.
    """
    if isinstance(sam, SamInterface):
        return sam
    return SamHQInterface() if sam.config.model_type == "sam_hq" else SamInterface()

"""Make a SAM's encoder accept images of another size."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.sam.backbone.interface import interface_of
from knowsam.sam.loading.report import Resized

SMALLEST_GRID = 4
"""Tokens per side: the learnable prompts halve the grid twice."""


def resize_input(sam: Any, image_size: tuple[int, int]) -> Resized:
    """Make an encoder accept images of another size, in place.

    The absolute positional embedding and the relative ones of the global layers are resized to the new token grid
    (bicubic and linear); the relative ones of the windowed layers belong to the window and stay. A square SAM remains
    promptable by points and boxes; transformers has no points in images that are not square.

    Args:
        sam: A `SamModel`, a `SamHQModel`, a `Sam2Model` or a SAM of this package, without adapters.
        image_size: `(H, W)` in pixels.

    Returns:
        What was resized.

    Raises:
        InputError: If the size is no multiple of what it must be one of (`SamInterface.multiple`), or too small.
    """
    encoder = sam.vision_encoder
    grid = _grid(sam, image_size)
    resized: Resized = {}

    interface = interface_of(sam)
    if not interface.has_positions:
        interface.set_size(sam, image_size, grid)
        return resized

    def replace(owner: Any, name: str, key: str, table: nn.Parameter) -> None:
        before = getattr(owner, name)
        if before.shape != table.shape:
            resized[key] = (list(before.shape), list(table.shape))
            setattr(owner, name, table)

    if encoder.pos_embed is not None:
        table = nn.Parameter(resize_grid(encoder.pos_embed.detach(), grid))
        replace(encoder, "pos_embed", "vision_encoder.pos_embed", table)
    for index, layer in enumerate(encoder.layers):
        if layer.window_size == 0 and layer.attn.use_rel_pos:
            for name, length in (("rel_pos_h", 2 * grid[0] - 1), ("rel_pos_w", 2 * grid[1] - 1)):
                table = _resize_relative(getattr(layer.attn, name), length)
                replace(layer.attn, name, f"vision_encoder.layers.{index}.attn.{name}", table)
    encoder.patch_embed.image_size = image_size
    interface.set_size(sam, image_size, grid)
    return resized


def _grid(sam: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    interface = interface_of(sam)
    patch, multiple = interface.patch(sam), interface.multiple(sam)
    height, width = image_size
    found = f"sam: image size {height}x{width} was found, but this SAM cuts images into patches of {patch} px"
    if height % patch or width % patch:
        raise InputError(f"{found}; choose a data.size or sam.size whose sides are multiples of {patch}.")
    grid = (height // patch, width // patch)
    if min(grid) < SMALLEST_GRID:
        raise InputError(
            f"{found} and needs {SMALLEST_GRID} of them along each side; choose a data.size or sam.size of at"
            f" least {SMALLEST_GRID * patch}x{SMALLEST_GRID * patch}."
        )
    if height % multiple or width % multiple:
        why = "having the adapters of SAM-Med2D" if getattr(sam, "needs_even_grid", False) else "being a SAM 2"
        number = "an even number" if multiple == 2 * patch else f"a multiple of {multiple // patch}"
        raise InputError(
            f"{found} and, {why}, needs {number} of them; choose a data.size or sam.size whose sides are multiples of"
            f" {multiple}."
        )
    return grid


def resize_grid(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a table of positions `(1, h, w, dim)` to another token grid, bicubically: `(1, g_h, g_w, dim)`."""
    if tuple(table.shape[1:3]) == grid:
        return table
    resized = F.interpolate(table.permute(0, 3, 1, 2), size=grid, mode="bicubic", align_corners=False, antialias=False)
    return resized.permute(0, 2, 3, 1).contiguous()


def _resize_relative(table: nn.Parameter, length: int) -> nn.Parameter:
    if table.shape[0] == length:
        return table
    resized = F.interpolate(table.detach().T[None], size=length, mode="linear", align_corners=False)
    return nn.Parameter(resized[0].T.contiguous())


def input_size(sam: Any, image_size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size at which a SAM sees images of `image_size` whose longer side becomes `side`.

    Args:
        sam: As `resize_input` takes it.
        image_size: `(H, W)` in pixels.
        side: In pixels; `resize_input` says whether the SAM can have it.

    Returns:
        `(H, W)`: the other side in proportion, to the next multiple of the patch.
    """
    step, longer = interface_of(sam).multiple(sam), max(image_size)
    height, width = (
        side if length == longer else max(smallest_side(sam), round(side * length / longer / step) * step)
        for length in image_size
    )
    return height, width


def smallest_side(sam: Any) -> int:
    """Return the smallest side in pixels that a SAM takes."""
    step, patch = interface_of(sam).multiple(sam), interface_of(sam).patch(sam)
    return -(-SMALLEST_GRID * patch // step) * step

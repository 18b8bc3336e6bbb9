"""Pasting parts of one image into another, as pure functions of tensors.

Two make the uncertainty-guided data augmentation (docs/method.md, section 4). With the entropy maps of the fused
prediction, for labelled images `x_l` (labels `y_l`) and unlabelled images `x_u` (pseudo-labels `y_u`):

    mask_u = uncertain_cells(entropy_u)
    mask_l = uncertain_cells(entropy_l)
    x_mix_u, y_mix_u = exchange(x_u, x_l, mask_u), exchange(y_u, y_l, mask_u)
    x_mix_l, y_mix_l = exchange(x_l, x_u, mask_l), exchange(y_l, y_u, mask_l)

`copy_paste_box` and `cutmix_boxes` draw other masks for `exchange`, from torch's global generator: those of BCP and of
CutMix.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor


def uncertain_cells(
    entropy: Tensor, cells: int = 5, grid: int = 4, select: Literal["uncertain", "confident"] = "uncertain"
) -> Tensor:
    """Mark each image's cells of highest (or lowest) mean entropy (docs/method.md, section 4).

    The image is cut into `grid` x `grid` cells: pixel `(h, w)` lies in cell `(h * grid // H, w * grid // W)`,
    so every pixel lies in exactly one cell and cells differ by at most one pixel in height and width.

    Args:
        entropy: `(B, H, W)`, any unit; NaN counts as the highest.
        cells: How many cells to mark per image, in [0, grid * grid].
        grid: Cells along each axis, at most H and W.
        select: `"uncertain"` marks the cells of highest mean entropy, `"confident"` those of lowest.

    Returns:
        `(B, H, W)` float32, 1 in the marked cells and 0 elsewhere; no gradient.

    Raises:
        ValueError: If a number does not fit the image or `select` is unknown.
    """
    images, height, width = entropy.shape
    if not 1 <= grid <= min(height, width):
        raise ValueError(f"grid is {grid}, expected 1 to {min(height, width)} for a {height}x{width} entropy map")
    if not 0 <= cells <= grid * grid:
        raise ValueError(f"cells is {cells}, expected 0 to {grid * grid} for a {grid}x{grid} grid")
    if select not in ("uncertain", "confident"):
        raise ValueError(f'select is {select!r}, expected "uncertain" or "confident"')
    # Means of slices, not adaptive pooling (its windows overlap where H is not divisible) and not a scatter
    # (on a GPU its order of summation, and with it the choice between near-equal cells, would change from run
    # to run).
    values = entropy.detach().float()
    rows = torch.stack([values[:, a:b].mean(dim=1) for a, b in pairwise(_bounds(height, grid))], dim=1)
    means = torch.stack([rows[:, :, a:b].mean(dim=2) for a, b in pairwise(_bounds(width, grid))], dim=2)
    chosen = means.flatten(1).topk(cells, dim=1, largest=select == "uncertain").indices
    marked = torch.zeros_like(means.flatten(1)).scatter_(1, chosen, 1.0).view(images, grid, grid)
    row_of = torch.arange(height, device=entropy.device) * grid // height
    column_of = torch.arange(width, device=entropy.device) * grid // width
    return marked[:, row_of][:, :, column_of]


def exchange(own: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Paste `other` into `own` where the mask is 1 (docs/method.md, section 4).

    Image b receives from image `b % B2`, so the two batches may differ in size.

    Args:
        own: `(B, ..., H, W)`: images `(B, C, H, W)` or labels `(B, H, W)`, any dtype.
        other: `(B2, ..., H, W)` of the same dtype and, but for B2, the same shape; B2 >= 1.
        mask: `(B, H, W)`, 1 or True where `other` is taken, 0 or False where `own` stays.

    Returns:
        Tensor of `own`'s shape and dtype; every pixel is one of the two, never a blend.

    Raises:
        ValueError: If shapes or dtypes do not fit each other.
    """
    if own.shape[1:] != other.shape[1:] or own.dtype != other.dtype or len(other) == 0:
        raise ValueError(
            f"cannot paste {other.dtype} {tuple(other.shape)} into {own.dtype} {tuple(own.shape)}: "
            "expected the same dtype and shape but for the first axis, which must not be empty"
        )
    if mask.shape != (own.shape[0], *own.shape[-2:]):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected {(own.shape[0], *own.shape[-2:])} (B, H, W)")
    if len(other) != len(own):
        other = cycled(other, len(own))
    inside = mask.bool().view(len(own), *[1] * (own.ndim - 3), *own.shape[-2:])
    return torch.where(inside, other, own)


def cycled(tensor: Tensor, count: int) -> Tensor:
    """`count` items of the first axis, repeated from its start where it ends: `(B, ...)` -> `(count, ...)`."""
    return tensor[torch.arange(count, device=tensor.device) % len(tensor)]


def halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """First and second half of a batch; of an odd number both have the middle item.

    Args:
        tensor: `(B, ...)`, B >= 1.

    Returns:
        Two views of `(ceil(B / 2), ...)`.
    """
    half = (len(tensor) + 1) // 2
    return tensor[:half], tensor[len(tensor) - half :]


def copy_paste_box(size: tuple[int, int], side: float, device: torch.device | str | None = None) -> Tensor:
    """One box at a random place: `1 - M` of bidirectional copy-paste (BCP).

    Args:
        size: H and W in pixels.
        side: Height and width of the box as a share of the image's, in (0, 1].
        device: Where the result is needed.

    Returns:
        `(H, W)` bool, True inside; every place at which the box fits is equally likely.
    """
    height, width = (max(1, round(length * side)) for length in size)
    top, left = (
        torch.randint(0, whole - part + 1, (1, 1), device=device)
        for whole, part in zip(size, (height, width), strict=True)
    )
    y, x = torch.arange(size[0], device=device).view(-1, 1), torch.arange(size[1], device=device)
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def cutmix_boxes(
    count: int,
    size: tuple[int, int],
    p: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: float = 0.3,
    device: torch.device | str | None = None,
) -> Tensor:
    """A box for each image, or none: what CutMix replaces (Yun et al., 2019; drawn as in UniMatch).

    A box of the share `a` of the image's area and of aspect `r`, both relative to the image, is `H sqrt(a r)` high and
    `W sqrt(a / r)` wide. `a` is uniform over `area`; `r` over what of [aspect, 1 / aspect] lets the box fit; its place
    over all places at which it does.

    Args:
        count: B.
        size: H and W in pixels.
        p: Probability that an image gets a box.
        area: Smallest and largest share of the image.
        aspect: Smallest r, in (0, 1].
        device: Where the result is needed.

    Returns:
        `(B, H, W)` bool, True inside.
    """
    draw = torch.rand(5, count, 1, 1, device=device)
    share = area[0] + (area[1] - area[0]) * draw[0]
    lowest, highest = share.clamp(min=aspect), (1 / share).clamp(max=1 / aspect)
    ratio = lowest + (highest - lowest) * draw[1]
    height = (size[0] * (share * ratio).sqrt()).int().clamp(max=size[0])
    width = (size[1] * (share / ratio).sqrt()).int().clamp(max=size[1])
    top = (draw[2] * (size[0] - height + 1)).int()
    left = (draw[3] * (size[1] - width + 1)).int()
    y, x = torch.arange(size[0], device=device).view(-1, 1), torch.arange(size[1], device=device)
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width) & (draw[4] < p)


def _bounds(size: int, grid: int) -> list[int]:
    """Cell i holds the pixels from bound i up to bound i + 1: those h with `h * grid // size == i`."""
    return [-(-i * size // grid) for i in range(grid + 1)]

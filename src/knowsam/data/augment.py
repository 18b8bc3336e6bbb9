"""Weak and strong augmentation of whole batches, on whatever device they are (docs/method.md, section 5; UniMatch).

All randomness comes from torch's global generator of the images' device, which the training loop seeds anew at every
step. Every image has its own draw; what its dice leave out stays as it was to the last bit. Nothing is read back from
the device, so that a GPU can record a step and replay it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from kornia.augmentation import ColorJitter, RandomGaussianBlur
from torch import Tensor, nn

from knowsam.functional.mixing import cutmix_boxes, exchange
from knowsam.types import IGNORE

Flip = Literal["both", "horizontal", "vertical", "none"]

BRIGHTNESS, CONTRAST = 0.2, (0.8, 1.2)
"""Largest change of brightness, added to values in [0, 1], and range of the factor of contrast."""

TURN_DEGREES, SHIFT, SCALE, AFFINE_P = 10.0, 0.0625, (0.95, 1.05), 0.5
"""Largest rotation, largest shift as a share of the side, range of the scale; and how probable the three are."""

ELASTIC_REACH, ELASTIC_SIGMA = 0.6, 1 / 12
"""Displacements are noise in [-.6, .6] of half a side, blurred by a Gaussian of a twelfth of the longer side."""

SPLINE_REACH = 0.1
"""Largest displacement of a spline's five points, in halves of a side."""

HOLE_FRACTION = 1 / 20  # side of an erased hole, as a share of the image's side

JITTER_P, BLUR_P = 0.8, 0.5
BLUR_SIGMA_PX = (0.1, 2.0)
BLUR_KERNEL = (11, 11)  # beyond 5 px a Gaussian of 2 px has 1 % of its weight left


class Augmentation(nn.Module):
    """Flips, brightness and contrast, shift-scale-rotate, optional elastic distortion, erased holes.

    All that moves pixels is one field of sampling places, so that an image is interpolated once at most.

    Args:
        image_size: `(H, W)` in pixels.
        brightness_p: Probability of a change of brightness, and of contrast, per image.
        distortion_p: Probability of a distortion, elastic or by a thin-plate spline; only for images without label.
        holes: Smallest and largest number of erased holes.
        holes_p: Probability that an image gets holes.
        flip: Which flips there are: `"both"`, `"horizontal"` (left and right of the picture), `"vertical"`, `"none"`.
    """

    probability: Tensor
    low: Tensor
    span: Tensor
    grid: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        brightness_p: float,
        distortion_p: float,
        holes: tuple[int, int],
        holes_p: float,
        flip: Flip = "both",
    ) -> None:
        super().__init__()
        self.size, self.holes, self.holes_p = image_size, holes, holes_p
        draws = {  # probability, smallest value, largest value
            "brightness": (brightness_p, -BRIGHTNESS, BRIGHTNESS),
            "contrast": (brightness_p, *CONTRAST),
            "horizontal": (0.5 if flip in ("both", "horizontal") else 0.0, 0.0, 0.0),
            "vertical": (0.5 if flip in ("both", "vertical") else 0.0, 0.0, 0.0),
            "affine": (AFFINE_P, math.radians(-TURN_DEGREES), math.radians(TURN_DEGREES)),
            "scale": (0.0, *SCALE),
            "x": (0.0, -2 * SHIFT, 2 * SHIFT),
            "y": (0.0, -2 * SHIFT, 2 * SHIFT),
        }
        probability, low, high = torch.tensor(list(draws.values())).unbind(dim=1)
        self.register_buffer("probability", probability, persistent=False)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("span", high - low, persistent=False)
        self.register_buffer("grid", pixel_grid(image_size), persistent=False)
        self.distortion = Distortion(image_size, distortion_p / 2) if distortion_p else None

    @torch.no_grad()
    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Augment every image differently.

        Args:
            image: `(B, C, H, W)` float in [0, 1].
            label: `(B, H, W)` int64 or None; what comes in from outside the image becomes `IGNORE`.

        Returns:
            Image in [0, 1] and label, of the same shapes.
        """
        if label is not None and self.distortion is not None:
            raise ValueError("strong augmentation distorts images and is for images without label; pass label=None")
        draw = torch.rand(2, len(image), len(self.low), device=image.device)
        happens = (draw[0] < self.probability)[..., None, None].unbind(dim=1)
        value = torch.addcmul(self.low, draw[1], self.span)
        brightness, contrast = value[..., None, None, None].unbind(dim=1)[:2]
        places, moved = self.places(value, happens[4])

        image = torch.where(happens[0][:, None], (image + brightness).clamp(0, 1), image)
        image = torch.where(happens[1][:, None], (image * contrast).clamp(0, 1), image)
        image = flipped(image, happens[2][:, None], happens[3][:, None])
        image = torch.where(moved[:, None], sample(image, places, "bilinear"), image)
        image = erase_holes(image, self.holes, self.holes_p).clamp_(0, 1)
        if label is None:
            return image, None
        label = flipped(label, happens[2], happens[3])
        # Labels travel one higher as a float mask, so that zeros from outside mean "nothing is known here".
        mask = sample((label - IGNORE).unsqueeze(1).float(), places, "nearest").squeeze(1)
        return image, torch.where(moved, mask.long() + IGNORE, label)

    def places(self, value: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pixel of the result comes from, after the flips.

        Args:
            value: `(B, 8)` drawn values, in the order of `draws`.
            affine: `(B, 1, 1)` bool, which images are turned, scaled and shifted.

        Returns:
            `(B, H, W, 2)` x, y from -1 to 1 between the outer edges; and which images move at all, `(B, 1, 1)` bool.
        """
        height, width = self.size
        angle, scale, x, y = value[:, 4:].unbind(dim=1)
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        # Turned in pixels, which are square, whatever the image's shape.
        matrix = torch.stack([cosine, sine * (-height / width), x, sine * (width / height), cosine, y], dim=1)
        matrix = matrix.view(-1, 2, 3)
        if self.distortion is None:
            return self._turned(self.grid, matrix), affine
        shift, distorted = self.distortion(len(value))
        start = (self.grid + shift).clamp(-1, 1)
        return torch.where(affine[..., None], self._turned(start, matrix), start), affine | distorted

    def _turned(self, grid: Tensor, matrix: Tensor) -> Tensor:
        turned = torch.baddbmm(
            matrix[:, None, :, 2], grid.flatten(-3, -2).expand(len(matrix), -1, -1), matrix[..., :2].mT
        )
        return turned.view(-1, *self.size, 2)


class Distortion(nn.Module):
    """A smooth random displacement of an image's pixels: elastic, by a thin-plate spline, both or neither.

    Args:
        image_size: `(H, W)` in pixels.
        p: Probability of each of the two.
    """

    blur_rows: Tensor
    blur_columns: Tensor
    spline: Tensor

    def __init__(self, image_size: tuple[int, int], p: float) -> None:
        super().__init__()
        self.size, self.p = image_size, p
        sigma = max(image_size) * ELASTIC_SIGMA
        self.register_buffer("blur_rows", blur_matrix(image_size[0], sigma), persistent=False)
        self.register_buffer("blur_columns", blur_matrix(image_size[1], sigma), persistent=False)
        self.register_buffer("spline", spline_basis(pixel_grid(image_size)), persistent=False)

    def forward(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw displacements for a batch.

        Args:
            count: B.

        Returns:
            `(B, H, W, 2)` x, y in halves of a side; and which images are displaced at all, `(B, 1, 1)` bool.
        """
        device = self.spline.device
        happens = (torch.rand(2, count, 1, 1, device=device) < self.p).unbind()
        noise = torch.rand(count, 2, *self.size, device=device) * (2 * ELASTIC_REACH) - ELASTIC_REACH
        elastic = (self.blur_rows @ noise @ self.blur_columns.mT).permute(0, 2, 3, 1)
        points = torch.rand(count, self.spline.shape[1], 2, device=device) * (2 * SPLINE_REACH) - SPLINE_REACH
        bent = (self.spline @ points).view(count, *self.size, 2)
        # Zero times a displacement: what is left out adds nothing.
        return elastic * happens[0][..., None] + bent * happens[1][..., None], happens[0] | happens[1]


def pixel_grid(size: tuple[int, int]) -> Tensor:
    """Centres of the pixels, `(H, W, 2)` x, y, in the coordinates of `grid_sample`: from -1 to 1 between the edges."""
    y, x = ((torch.arange(side) * 2 + 1) / side - 1 for side in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def blur_matrix(side: int, sigma: float) -> Tensor:
    """The matrix `(side, side)` that blurs along an axis by a Gaussian of `sigma` pixels; outside lie zeros."""
    radius = 2 * int(sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    distance = torch.arange(side)[None] - torch.arange(side)[:, None]
    weights = (taps / taps.sum())[(distance + radius).clamp(0, 2 * radius)]
    return weights.masked_fill(distance.abs() > radius, 0.0)


def spline_basis(places: Tensor) -> Tensor:
    """How far each place moves for a displacement of each of five points: a thin-plate spline (Bookstein, 1989).

    The points are the corners and the middle; the spline through displacements `d` `(5, 2)` is the basis times `d`.

    Args:
        places: `(..., 2)` x, y in [-1, 1].

    Returns:
        `(N, 5)` float32 for N places.
    """
    points = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    places = places.reshape(-1, 2).double()

    def terms(at: Tensor) -> Tensor:
        """`r^2 log r^2` for each point, and 1, x, y: `(N, 8)`."""
        square = (at[:, None] - points).square().sum(dim=-1)
        return torch.cat([torch.special.xlogy(square, square), torch.ones_like(at[:, :1]), at], dim=1)

    own = terms(points)
    system = torch.cat([own, torch.cat([own[:, 5:].mT, own.new_zeros(3, 3)], dim=1)])
    weights = torch.linalg.solve(system, torch.cat([torch.eye(5), torch.zeros(3, 5)]).double())
    return (terms(places) @ weights).float()


def flipped(tensor: Tensor, horizontal: Tensor, vertical: Tensor) -> Tensor:
    """`(B, ..., H, W)` with left and right, top and bottom changed where these, of as many axes, are True."""
    tensor = torch.where(horizontal, tensor.flip(-1), tensor)
    return torch.where(vertical, tensor.flip(-2), tensor)


def sample(image: Tensor, places: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
    """`(B, C, H, W)` at `(B, H, W, 2)` places; zeros lie outside."""
    return F.grid_sample(image, places, mode=mode, padding_mode="zeros", align_corners=False)


def weak_augmentation(image_size: tuple[int, int], flip: Flip = "both") -> Augmentation:
    """For labelled images."""
    return Augmentation(image_size, brightness_p=0.2, distortion_p=0.0, holes=(5, 8), holes_p=0.5, flip=flip)


def strong_augmentation(image_size: tuple[int, int], flip: Flip = "both") -> Augmentation:
    """For unlabelled images."""
    return Augmentation(image_size, brightness_p=0.6, distortion_p=0.5, holes=(10, 20), holes_p=0.7, flip=flip)


class IntensityAugmentation(nn.Module):
    """Colour jitter and Gaussian blur, which leave every pixel in its place, as UniMatch has them for ACDC.

    Brightness, contrast and saturation change by up to half and the hue by up to a quarter of the circle, in four of
    five images; half of them are blurred.

    Args:
        channels: C; grey images have neither saturation nor hue.
        slices: How many neighbouring slices they are the channels of; of several the colour is left alone.
    """

    def __init__(self, channels: int, slices: int = 1) -> None:
        super().__init__()
        colour = (0.5, 0.25) if channels == 3 and slices == 1 else (0.0, 0.0)
        self.change = nn.Sequential(
            ColorJitter(0.5, 0.5, *colour, p=JITTER_P), RandomGaussianBlur(BLUR_KERNEL, BLUR_SIGMA_PX, p=BLUR_P)
        )

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Change every image differently.

        Args:
            image: `(B, C, H, W)` float32 in [0, 1].

        Returns:
            `(B, C, H, W)` float32 in [0, 1]; every pixel is where it was.
        """
        with torch.autocast(image.device.type, enabled=False):  # a method calls this amid its mixed precision
            return self.change(image).clamp_(0, 1)


def strong_view(change: nn.Module, image: Tensor, label: Tensor, cutmix: float) -> tuple[Tensor, Tensor]:
    """Change the intensities, and paste boxes of the next image of the batch into each image (CutMix).

    Args:
        change: An `IntensityAugmentation`.
        image: `(B, C, H, W)`, the weak view.
        label: `(B, H, W)`, its label.
        cutmix: Probability that an image gets a box.

    Returns:
        A strong view and its label, of the same shapes.
    """
    height, width = image.shape[-2:]
    boxes = cutmix_boxes(len(image), (height, width), cutmix, device=image.device)
    view = change(image)
    return exchange(view, view.roll(1, dims=0), boxes), exchange(label, label.roll(1, dims=0), boxes)


def erase_holes(image: Tensor, count: tuple[int, int], p: float) -> Tensor:
    """Black square holes of `HOLE_FRACTION` of the sides at random places.

    Args:
        image: `(B, C, H, W)`.
        count: Smallest and largest number of holes per image.
        p: Probability that an image gets any.

    Returns:
        A new tensor `(B, C, H, W)`.
    """
    batch, _, height, width = image.shape
    device = image.device
    most = count[1]
    hole_h, hole_w = max(1, round(height * HOLE_FRACTION)), max(1, round(width * HOLE_FRACTION))
    top = torch.randint(0, height - hole_h + 1, (batch, most, 1), device=device)
    left = torch.randint(0, width - hole_w + 1, (batch, most, 1), device=device)
    number = torch.randint(count[0], most + 1, (batch, 1, 1), device=device)
    number = number * (torch.rand(batch, 1, 1, device=device) < p)
    used = torch.arange(most, device=device).view(1, most, 1) < number
    y = torch.arange(height, device=device)
    x = torch.arange(width, device=device)
    rows = (y >= top) & (y < top + hole_h) & used  # (B, holes, H)
    columns = (x >= left) & (x < left + hole_w)  # (B, holes, W)
    erased = torch.einsum("bnh,bnw->bhw", rows.to(image.dtype), columns.to(image.dtype)) > 0
    return image.masked_fill(erased.unsqueeze(1), 0)

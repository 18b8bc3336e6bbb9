"""Weak and strong augmentation of whole batches, on whatever device they are (docs/method.md, section 5; UniMatch).

All randomness comes from torch's global generator, which the training loop seeds anew at every step.
"""

from __future__ import annotations

from typing import Literal

import torch
from kornia.augmentation import (
    AugmentationSequential,
    ColorJitter,
    RandomAffine,
    RandomBrightness,
    RandomContrast,
    RandomElasticTransform,
    RandomGaussianBlur,
    RandomHorizontalFlip,
    RandomThinPlateSpline,
    RandomVerticalFlip,
)
from torch import Tensor, nn

from knowsam.functional.mixing import cutmix_boxes, exchange
from knowsam.types import IGNORE

Flip = Literal["both", "horizontal", "vertical", "none"]

HOLE_FRACTION = 1 / 20  # side of an erased hole, as a share of the image's side

JITTER_P, BLUR_P = 0.8, 0.5
BLUR_SIGMA_PX = (0.1, 2.0)
BLUR_KERNEL = (11, 11)  # beyond 5 px a Gaussian of 2 px has 1 % of its weight left


class Augmentation(nn.Module):
    """Flips, brightness and contrast, shift-scale-rotate, optional elastic distortion, erased holes.

    Args:
        image_size: `(H, W)` in pixels.
        brightness_p: Probability of a change of brightness, and of contrast, per image.
        distortion_p: Probability of an elastic or thin-plate-spline distortion; only for images without label.
        holes: Smallest and largest number of erased holes.
        holes_p: Probability that an image gets holes.
        flip: Which flips there are: `"both"`, `"horizontal"` (left and right of the picture), `"vertical"`, `"none"`.
    """

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
        self.holes, self.holes_p = holes, holes_p
        self.colour = nn.Sequential(
            RandomBrightness((0.8, 1.2), p=brightness_p), RandomContrast((0.8, 1.2), p=brightness_p)
        )
        self.space = AugmentationSequential(
            RandomHorizontalFlip(p=0.5 if flip in ("both", "horizontal") else 0.0),
            RandomVerticalFlip(p=0.5 if flip in ("both", "vertical") else 0.0),
            RandomAffine(10.0, translate=(0.0625, 0.0625), scale=(0.95, 1.05), p=0.5),
            data_keys=["input", "mask"],  # kornia resamples a "mask" with nearest neighbour
        )
        sigma = max(image_size) / 12
        kernel = 4 * int(sigma) + 1
        self.distort = (
            nn.Sequential(
                RandomElasticTransform((kernel, kernel), (sigma, sigma), (0.6, 0.6), p=distortion_p / 2),
                RandomThinPlateSpline(scale=0.1, p=distortion_p / 2),
            )
            if distortion_p
            else None
        )

    @torch.no_grad()
    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Augment every image differently.

        Args:
            image: `(B, C, H, W)` float in [0, 1].
            label: `(B, H, W)` int64 or None; what comes in from outside the image becomes `IGNORE`.

        Returns:
            Image in [0, 1] and label, of the same shapes.
        """
        if label is not None and self.distort is not None:
            raise ValueError("strong augmentation distorts images and is for images without label; pass label=None")
        image = self.colour(image)
        # Labels travel one higher as a float mask, so that the warp's zero padding means "nothing is known here".
        mask = image.new_zeros(image[:, :1].shape) if label is None else (label - IGNORE).unsqueeze(1).to(image.dtype)
        image, mask = self.space(image, mask)
        if self.distort is not None:
            image = self.distort(image)
        image = erase_holes(image, self.holes, self.holes_p).clamp_(0, 1)
        return image, None if label is None else mask.round().long().squeeze(1) + IGNORE


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

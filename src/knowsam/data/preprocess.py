"""From a file's own values and size to what the networks see, the same for training and prediction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from knowsam.data.axes import axes_sentence, majority_axis
from knowsam.errors import InputError
from knowsam.types import LUMINANCE, MedicalImage

# A picture of 8 bit has a display window already. Everything else, 8-bit volumes included, has no common scale, so each
# image is mapped by its own percentiles.
PERCENTILES = (0.5, 99.5)

FAR_SPACING = 2.0
"""A spacing that is so many times larger or smaller than that of training shows another picture."""

Normalisation = Literal["auto", "range", "percentile"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network input; travels with the weights.

    Attributes:
        size: `(H, W)` the networks work at, in pixels.
        channels: 1 (grey) or 3 (RGB).
        normalise: `"range"` divides by the integer dtype's largest value, `"percentile"` maps the image's (a volume's)
            own 0.5th..99.5th percentile to [0, 1], `"auto"` takes the first for 8-bit pictures, else the second.
        slice_axis: Axis along which volumes are cut, see `preprocessing_of`; None for the file's own
            (`Geometry.slice_axis`).
        spacing_mm: Typical spacing of the training volumes along their three axes, None where not known. Where it is,
            `slice_axis` counts axes of the patient, and formats that store slices first (HDF5) keep their own.
        context: Slices of a volume that the networks see at once, odd: the one in the middle is segmented (2.5-D).
    """

    size: tuple[int, int]
    channels: int
    normalise: Normalisation = "auto"
    slice_axis: int | None = None
    spacing_mm: tuple[float, ...] | None = None
    context: int = 1

    @property
    def in_channels(self) -> int:
        """Channels of the networks' input: those of every slice that they see."""
        return self.channels * self.context

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file header; single slices are not mentioned."""
        values = asdict(self)
        if self.context == 1:
            del values["context"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_json`."""
        spacing = values.get("spacing_mm")
        known = {"size": tuple(values["size"]), "spacing_mm": None if spacing is None else tuple(spacing)}
        return cls(**{**values, **known})

    def axis_of(self, image: MedicalImage) -> int:
        """The slice axis of a volume."""
        own = self.slice_axis is None or (self.spacing_mm is not None and image.geometry.affine is None)
        axis = image.geometry.slice_axis if own or self.slice_axis is None else self.slice_axis
        if not 0 <= axis < 3:
            raise InputError(
                f"{image.path}: slice axis {axis} was asked for, but expected 0, 1 or 2; change data.axis."
            )
        return axis

    def doubts(self, image: MedicalImage) -> list[str]:
        """What about an image makes its prediction doubtful: each the end of "images: ..."."""
        geometry = image.geometry
        found = ["the header contradicts itself; `knowsam check` says how"] if geometry.doubt else []
        if not image.is_volume or self.slice_axis is None:
            return found
        used, own = self.axis_of(image), geometry.slice_axis
        if used != own:
            found.append(f"cut along axis {used} as in training; by its own spacing it would be axis {own}")
        if self.spacing_mm is not None and geometry.spacing_mm is not None and geometry.affine is not None:
            apart = [one / other for one, other in zip(geometry.spacing_mm, self.spacing_mm, strict=True)]
            if max(*apart, *(1 / ratio for ratio in apart)) > FAR_SPACING:
                training = " x ".join(f"{step:.3g}" for step in self.spacing_mm)
                found.append(
                    f"spacing more than {FAR_SPACING:g} times larger or smaller than in training ({training} mm)"
                )
        return found

    def slices(self, image: MedicalImage) -> torch.Tensor:
        """All slices of an image, ready for the networks.

        Args:
            image: A picture `(H0, W0, C0)` or a volume `(X, Y, Z, C0)`.

        Returns:
            `(N, context * C, H, W)` float32 in [0, 1]; N = 1 for a picture.

        Raises:
            InputError: For a picture where neighbouring slices are wanted.
        """
        single = self.single_slices(image)
        return single if self.context == 1 else torch.stack([self.neighbours(single, at) for at in range(len(single))])

    def neighbours(self, single: torch.Tensor, position: int) -> torch.Tensor:
        """A slice and its neighbours on both sides as channels, beyond either end of the volume its last slice.

        Args:
            single: What `single_slices` gave, `(N, C, H, W)`.
            position: Of the slice in the middle.

        Returns:
            `(context * C, H, W)`.
        """
        reach = self.context // 2
        return single[[min(max(position + by, 0), len(single) - 1) for by in range(-reach, reach + 1)]].flatten(0, 1)

    def single_slices(self, image: MedicalImage) -> torch.Tensor:
        """As `slices`, without their neighbours: `(N, C, H, W)`."""
        if self.context > 1 and not image.is_volume:
            raise InputError(
                f"{image.path}: a picture was found, but data.context={self.context} expected volumes, whose"
                " neighbouring slices are in the same file; use data.context=1, or a network trained with it."
            )
        array = to_unit_range(image, self.normalise)
        array = np.moveaxis(array, self.axis_of(image), 0) if image.is_volume else array[None]
        tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))
        return resize(to_channels(tensor, self.channels), self.size)

    def label_slices(self, label: np.ndarray, image: MedicalImage) -> torch.Tensor:
        """Slices of an encoded label map `(H0, W0)` or `(X, Y, Z)` at native size, `(N, h, w)` int64."""
        array = np.moveaxis(label, self.axis_of(image), 0) if image.is_volume else label[None]
        return torch.from_numpy(np.ascontiguousarray(array)).long()

    def restore(self, slices: np.ndarray, image: MedicalImage) -> np.ndarray:
        """Put per-slice maps `(N, ..., h, w)` at native size back into the image's own axes `(..., *spatial)`."""
        if not image.is_volume:
            return slices[0]
        return np.moveaxis(np.moveaxis(slices, 0, -3), -3, self.axis_of(image) - 3)


def preprocessing_of(
    images: Iterable[MedicalImage],
    size: tuple[int, int],
    channels: int | None = None,
    normalise: Normalisation = "auto",
    axis: int | None = None,
    context: int = 1,
) -> tuple[Preprocessing, str | None]:
    """Decide once for a set how its images become network input.

    RGB as soon as one image has colour. Volumes are all cut along the axis that most of them would be cut along by
    themselves, that of largest spacing; the last of equally many.

    Args:
        images: The labelled training images, read as far as is needed.
        size: `(H, W)` in pixels.
        channels: 1 or 3, None to decide it.
        normalise: As in `Preprocessing`.
        axis: The slice axis, None to decide it.
        context: As in `Preprocessing`.

    Returns:
        What holds for the set, and a sentence where volumes would have chosen different axes.
    """
    colour, spacings, votes = False, [], [0, 0, 0]
    for image in images:
        colour = colour or image.array.shape[-1] == 3
        if image.is_volume and image.geometry.affine is not None:
            votes[image.geometry.slice_axis] += 1
            if image.geometry.spacing_mm is not None:
                spacings.append(image.geometry.spacing_mm)
        elif colour or channels is not None:
            break  # a set of pictures has no more to say
    if axis is None:
        axis = majority_axis(votes)
    spacing = tuple(np.median(spacings, axis=0).tolist()) if spacings else None
    found = Preprocessing(size, channels or (3 if colour else 1), normalise, axis, spacing, context)
    return found, axes_sentence(votes, axis)


def to_unit_range(image: MedicalImage, normalise: Normalisation = "auto") -> np.ndarray:
    """The image's values as float32 in [0, 1]; a constant image becomes zero under percentiles.

    Raises:
        InputError: If `"range"` is asked for on values that have no range of their own (floats, signed integers).
    """
    array = image.array
    if array.dtype == bool:
        return array.astype(np.float32)
    if normalise == "range" or (normalise == "auto" and array.dtype == np.uint8 and not image.is_volume):
        # A signed type's largest value says nothing about an image's range: CT in int16 is -1000 to 3000.
        if not np.issubdtype(array.dtype, np.unsignedinteger):
            raise InputError(
                f"{image.path}: {array.dtype} values were found, but data.normalise=range expects unsigned"
                " integers; use percentile."
            )
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    low, high = np.percentile(array, PERCENTILES)
    if high <= low:  # a small bright object on a constant background: the percentiles coincide, the extremes do not
        low, high = float(array.min()), float(array.max())
    if high <= low:
        return np.zeros(array.shape, np.float32)
    return np.clip((array.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)


def to_channels(slices: torch.Tensor, channels: int) -> torch.Tensor:
    """Grey `(N, 1, H, W)` or RGB `(N, 3, H, W)` to the wanted number of channels: repeated, or luminance."""
    found = slices.shape[1]
    if found == channels:
        return slices
    if found == 1:
        return slices.expand(-1, channels, -1, -1)
    if channels == 1 and found == 3:
        weights = torch.tensor(LUMINANCE, dtype=slices.dtype).view(1, 3, 1, 1)
        return (slices * weights).sum(dim=1, keepdim=True)
    raise InputError(f"an image of {found} channels was found, but expected 1 or 3; convert it to grey or RGB.")


def resize(slices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(N, C, h, w)` -> `(N, C, H, W)`, bilinear, anti-aliased when shrinking."""
    if tuple(slices.shape[-2:]) == size:
        return slices
    return F.interpolate(slices, size=size, mode="bilinear", align_corners=False, antialias=True)


def resize_label(label: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(N, h, w)` int64 -> `(N, H, W)`, nearest, pixel centres aligned with `resize`."""
    if tuple(label.shape[-2:]) == size:
        return label
    return F.interpolate(label.unsqueeze(1).double(), size=size, mode="nearest-exact").squeeze(1).long()

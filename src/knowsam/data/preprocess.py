"""From a file's own values and size to what the networks see, the same for training and prediction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from knowsam.errors import InputError
from knowsam.types import LUMINANCE, MedicalImage

# A picture of 8 bit has a display window already. Everything else, 8-bit volumes included, has no common scale, so each
# image is mapped by its own percentiles.
PERCENTILES = (0.5, 99.5)

Normalisation = Literal["auto", "range", "percentile"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network input; travels with the weights.

    Attributes:
        size: `(H, W)` the networks work at, in pixels.
        channels: 1 (grey) or 3 (RGB).
        normalise: `"range"` divides by the integer dtype's largest value, `"percentile"` maps the image's (a volume's)
            own 0.5th..99.5th percentile to [0, 1], `"auto"` takes the first for 8-bit pictures, else the second.
        slice_axis: Axis along which volumes are cut, None for the file's own (`Geometry.slice_axis`).
    """

    size: tuple[int, int]
    channels: int
    normalise: Normalisation = "auto"
    slice_axis: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file header."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_json`."""
        return cls(**{**values, "size": tuple(values["size"])})

    def axis_of(self, image: MedicalImage) -> int:
        """The slice axis of a volume."""
        axis = image.geometry.slice_axis if self.slice_axis is None else self.slice_axis
        if not 0 <= axis < 3:
            raise InputError(
                f"{image.path}: slice axis {axis} was asked for, but expected 0, 1 or 2; change data.axis."
            )
        return axis

    def slices(self, image: MedicalImage) -> torch.Tensor:
        """All slices of an image, ready for the networks.

        Args:
            image: A picture `(H0, W0, C0)` or a volume `(X, Y, Z, C0)`.

        Returns:
            `(N, C, H, W)` float32 in [0, 1]; N = 1 for a picture.
        """
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

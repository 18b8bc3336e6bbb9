"""The records everything passes around.

Axes are written `(B, K, H, W)`: batch, class, height, width. Volumes are `(X, Y, Z)`: towards right, anterior and
superior where their file says how it lies, else in its own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey value of a pixel (ITU-R BT.601)."""

IGNORE = -1
"""Label value of pixels without ground truth: no loss, no metric looks at them. Never a value in a file."""

SAM = "sam"
"""Name of SAM's own prediction beside those of the students: it is scored, and is no view of the student."""


@dataclass(frozen=True)
class Turn:
    """How a stored array was brought into a common orientation: its axes are put in another order, then flipped.

    Attributes:
        axes: The stored axis that each axis of the turned array comes from.
        flips: Whether each axis of the turned array runs backwards.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    def apply(self, array: np.ndarray, first: int = 0) -> np.ndarray:
        """Turn an array; `first` is the index of its first spatial axis. Returns a view."""
        behind = range(first + len(self.axes), array.ndim)
        array = np.transpose(array, [*range(first), *(first + axis for axis in self.axes), *behind])
        flipped = tuple(first + axis for axis, backwards in enumerate(self.flips) if backwards)
        return np.flip(array, flipped) if flipped else array

    def apply_to_affine(self, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The `(4, 4)` affine of the turned array, so that every voxel keeps its place; `shape` before the turn."""
        turned = affine.copy()
        for axis, (source, backwards) in enumerate(zip(self.axes, self.flips, strict=True)):
            turned[:, axis] = -affine[:, source] if backwards else affine[:, source]
            if backwards:
                turned[:, 3] += affine[:, source] * (shape[source] - 1)
        return turned

    def apply_to_lengths(self, lengths: Sequence[float]) -> tuple[float, ...]:
        """One number for each axis of a stored array, such as its spacing, in the order of the turned axes."""
        return tuple(lengths[axis] for axis in self.axes)

    @property
    def inverse(self) -> Turn:
        """The turn back."""
        axes = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return Turn(axes, tuple(self.flips[axis] for axis in axes))


@dataclass(frozen=True)
class Geometry:
    """Where an array's voxels lie in the patient.

    Attributes:
        spacing_mm: Distance of neighbouring voxels along each spatial axis of the array, in mm, or None where
            the file does not say (then distances are in px).
        slice_axis: The spatial axis of a volume along which it would be cut by itself: the axis of largest spacing, the
            last of equals; the first where the format stores slices first. 0 and unused for a picture.
        affine: `(4, 4)` matrix from voxels of the array to mm in the patient, axes towards right, anterior, superior;
            None for formats without.
        header: The file format's own header, kept so that what is written back has the same codes.
        turn: What brought the stored array into this orientation, undone on writing; None: it is as stored.
        oriented: Whether the file says how its axes lie: qform or sform code of NIfTI, orientation tag of a picture.
        doubt: What contradicts itself in the file's header, the end of a sentence that begins with its name; else "".
    """

    spacing_mm: tuple[float, ...] | None = None
    slice_axis: int = 0
    affine: np.ndarray | None = None
    header: Any = None
    turn: Turn | None = None
    oriented: bool = False
    doubt: str = ""

    def as_read(self, array: np.ndarray) -> np.ndarray:
        """An array as its file is stored, turned into these axes."""
        return array if self.turn is None else self.turn.apply(array)

    def as_stored(self, array: np.ndarray, first: int = 0) -> np.ndarray:
        """An array in these axes, turned back to how its file is stored; `first` is its first spatial axis."""
        return array if self.turn is None else self.turn.inverse.apply(array, first)

    @property
    def unit(self) -> str:
        """Unit of distances: `"mm"` where the spacing is known, else `"px"`."""
        return "px" if self.spacing_mm is None else "mm"


@dataclass(frozen=True)
class MedicalImage:
    """An image file as an array that never travels without its geometry.

    Attributes:
        array: `(H, W, C)` for a picture, `(X, Y, Z, C)` for a volume, in the file's own dtype and value range.
        geometry: Spacing and affine of the spatial axes.
        path: The file, for messages.
    """

    array: np.ndarray
    geometry: Geometry
    path: Path

    @property
    def is_volume(self) -> bool:
        """True for `(X, Y, Z, C)`."""
        return self.array.ndim == 4

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Shape without the channel axis."""
        return self.array.shape[:-1]


@dataclass(frozen=True)
class MaskStorage:
    """How a mask file stores its numbers, where that bears on what they mean.

    Attributes:
        one_bit: Black and white by its format: whatever is not 0 is the object, 1 or 255.
        lossy: Compressed with loss (JPEG): the values are near what was drawn, not equal to it.
        palette: Colour of each index of a palette that is not grey; None where the values are no indices.
    """

    one_bit: bool = False
    lossy: bool = False
    palette: tuple[tuple[int, int, int], ...] | None = None


@dataclass(frozen=True)
class MedicalLabel:
    """A label file: one integer per voxel, in the file's own values.

    Attributes:
        array: `(H, W)` or `(X, Y, Z)` int32, the values as the file has them (0/255, class indices, ...).
        geometry: Spacing and affine of the axes.
        path: The file, for messages.
        storage: How the file stores them.
    """

    array: np.ndarray
    geometry: Geometry
    path: Path
    storage: MaskStorage = MaskStorage()


@dataclass
class Batch:
    """What a method sees in one step; labelled and unlabelled halves may differ in size.

    Attributes:
        labelled_image: `(B_l, C, H, W)` float32 in [0, 1], weakly augmented.
        label: `(B_l, H, W)` int64, class index or `IGNORE`.
        unlabelled_image: `(B_u, C, H, W)` float32 in [0, 1], augmented as the method's `unlabelled_view` says, or None
            for a supervised run and while `train.pretrain` lasts.
        unlabelled_map: `(B_u, H, W)` int64, class index or `IGNORE`: what a method made of the volumes of these images
            (`Method.label_volume`), augmented with them; None for other methods.
        labelled_stems: One name per labelled image, for logs and tests.
        unlabelled_stems: One name per unlabelled image.
        unlabelled_label: `(B_u, H, W)` int64, for a method that declares it alone (`Method.opens_hidden_masks`).
    """

    labelled_image: Tensor
    label: Tensor
    unlabelled_image: Tensor | None = None
    labelled_stems: tuple[str, ...] = ()
    unlabelled_stems: tuple[str, ...] = ()
    unlabelled_label: Tensor | None = None
    unlabelled_map: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """What there is of images, labels and maps, by name."""
        names = ("labelled_image", "label", "unlabelled_image", "unlabelled_label", "unlabelled_map")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to(self, device: Any) -> Batch:
        """The same batch on another device."""
        return self.with_tensors({name: one.to(device, non_blocking=True) for name, one in self.tensors().items()})

    def with_tensors(self, tensors: Mapping[str, Any]) -> Batch:
        """The same batch with others in their places, by name."""
        return replace(self, **tensors)


class Progress(NamedTuple):
    """Where the run stands.

    Attributes:
        step: Index of the current step, from 0.
        total: Number of steps of the whole run.
    """

    step: int
    total: int

    @property
    def fraction(self) -> float:
        """`t = step / total`, in [0, 1)."""
        return self.step / self.total

    def reached(self, share: float) -> bool:
        """Whether this share of the run, in [0, 1], has passed: `t >= share`.

        A method asks this, and `weight`, rather than looking at `fraction`: then a GPU can replay a recorded step
        (`knowsam.training.cuda_graph`) without asking the method again.
        """
        return self.fraction >= share

    def weight(self, schedule: Callable[[float], float]) -> float | Tensor:
        """The value of a schedule at `t`: a number, or on a GPU a float32 scalar that each step sets anew."""
        return schedule(self.fraction)


@dataclass
class StepOutput:
    """The result of one method step.

    Attributes:
        loss: Scalar to call `backward()` on; the method's one weighted sum.
        terms: Named scalars, unweighted, for logs. `Method.step` gives them attached to the graph, so that a test can
            ask each for its gradient; `Method.forward` detaches them.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ParameterGroup:
    """Parameters that share one optimiser; which one, and its settings, is the configuration's business.

    Attributes:
        name: `"students"` or `"sam"`; also the name in logs and checkpoints.
        parameters: The trainable parameters.
    """

    name: str
    parameters: list[Parameter]

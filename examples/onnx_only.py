"""Segment an image with an exported file and nothing of knowsam: numpy, onnxruntime, and pillow or nibabel to read.

    python examples/onnx_only.py MODEL.onnx IMAGE MASK

IMAGE is a picture (MASK: .png) or a NIfTI volume (MASK: .nii.gz); the mask is stored as the image is, which is turned
before: a picture as its orientation tag says, a volume towards right, anterior, superior. All there is to know
of the model stands in the file itself. The masks are those of `knowsam predict`; copy what you need of this.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SLICES_PER_PASS = 8
ORIENTATION = 0x0112  # of EXIF
DESCRIPTION, PLANES = 270, re.compile(r"^ImageJ=.*^images=(?!1$)", re.MULTILINE | re.DOTALL)
"""Of a TIFF: ImageJ may store all planes of a stack behind one page."""
BACK = {
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"},
    **{6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"},
}
"""From the picture as shown back to its stored pixels, by the value of the orientation tag."""


class Model:
    """An ONNX file written by `knowsam export`, and what its metadata say."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.about: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map["knowsam"])
        self.preprocessing: dict[str, Any] = self.about["preprocessing"]
        self.preparation: dict[str, Any] = self.about["preparation"]

    def segment(self, image: np.ndarray, slice_axis: int | None = None) -> np.ndarray:
        """Class indices of an image at its own size.

        Args:
            image: `(H, W)`, `(H, W, 3)` or, with a slice axis, `(X, Y, Z)`; any dtype, values as stored.
            slice_axis: The axis along which a volume is cut.

        Returns:
            uint8, `(H, W)` or `(X, Y, Z)`.
        """
        values = self.to_unit_range(image, is_volume=slice_axis is not None)
        if slice_axis is not None:
            slices = np.moveaxis(values, slice_axis, 0)[:, None]
        else:
            slices = values[None, None] if values.ndim == 2 else np.moveaxis(values, -1, 0)[None]
        native = slices.shape[-2:]
        prepared = resize(self.to_channels(slices), self.preprocessing["size"], antialias=True)
        labels = []
        for first in range(0, len(prepared), SLICES_PER_PASS):
            batch = {"image": prepared[first : first + SLICES_PER_PASS]}
            probabilities = self.session.run(["probabilities"], batch)[0]
            labels.append(resize(probabilities, native, antialias=False).argmax(axis=1).astype(np.uint8))
        label = np.concatenate(labels)
        return label[0] if slice_axis is None else np.moveaxis(label, 0, slice_axis)

    def file_values(self, label: np.ndarray) -> np.ndarray:
        """Class indices -> the values that mean these classes in mask files, where these are no indices."""
        values = self.about.get("mask_values")
        return label if values is None else np.array(values, np.uint8 if max(values) < 256 else np.uint16)[label]

    def to_unit_range(self, image: np.ndarray, is_volume: bool) -> np.ndarray:
        """Values as float32 in [0, 1]: by the dtype's range, or by percentiles of the image or volume."""
        rule = self.preprocessing["normalise"]
        if rule == "range" or (rule == "auto" and image.dtype == np.uint8 and not is_volume):
            return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
        low, high = np.percentile(image, self.preparation["percentiles"])
        if high <= low:
            low, high = float(image.min()), float(image.max())
        if high <= low:
            return np.zeros(image.shape, np.float32)
        return np.clip((image.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)

    def to_channels(self, slices: np.ndarray) -> np.ndarray:
        """`(N, 1 or 3, H, W)` -> as many channels as the network takes: grey is repeated, colour becomes luminance."""
        wanted = self.preprocessing["channels"]
        if slices.shape[1] == wanted:
            return slices
        if wanted == 3:
            return np.repeat(slices, 3, axis=1)
        weights = np.array(self.preparation["luminance"], np.float32).reshape(1, 3, 1, 1)
        return (slices * weights).sum(axis=1, keepdims=True)


def resize(slices: np.ndarray, size: tuple[int, int], antialias: bool) -> np.ndarray:
    """`(N, C, h, w)` -> `(N, C, H, W)` float32, bilinear, pixel centres at halves."""
    rows = interpolation(slices.shape[-2], size[0], antialias)
    columns = interpolation(slices.shape[-1], size[1], antialias)
    return np.ascontiguousarray(rows @ slices @ columns.T)


def interpolation(old: int, new: int, antialias: bool) -> np.ndarray:
    """The `(new, old)` matrix of a 1-D bilinear resize: triangles around each new pixel's centre, rows summing to 1.

    Anti-aliasing widens the triangles by the factor of shrinking. At the border the part inside counts.
    """
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - distance / (max(scale, 1) if antialias else 1))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def read_picture(path: str) -> tuple[np.ndarray, int]:
    """`(H, W)` or `(H, W, 3)` as viewers show it, alpha dropped; and its orientation tag, 0 where there is none."""
    from PIL import Image, ImageOps

    with Image.open(path) as stored:
        if getattr(stored, "n_frames", 1) > 1 or PLANES.search(str(getattr(stored, "tag_v2", {}).get(DESCRIPTION, ""))):
            sys.exit(f"{path}: several pictures, but expected one; take the ONNX file with knowsam for stacks.")
        tag = stored.getexif().get(ORIENTATION, 0)
        return pixels(ImageOps.exif_transpose(stored)), tag


def pixels(image: Any) -> np.ndarray:
    """`(H, W)` or `(H, W, 3)` of a Pillow picture."""
    if image.mode == "1":
        return np.asarray(image, np.uint8) * np.uint8(255)
    if image.mode in ("P", "PA"):
        array = np.asarray(image.convert("RGBA"))[..., :3]
        return array[..., 0] if (array == array[..., :1]).all() else array
    if image.mode == "LA":
        return np.asarray(image)[..., 0]
    array = np.asarray(image)
    return array[..., :3] if array.ndim == 3 else array


def segment_picture(model: Model, source: str, target: str) -> None:
    from PIL import Image

    shown, tag = read_picture(source)
    label, exif = Image.fromarray(model.file_values(model.segment(shown))), Image.Exif()
    if tag in BACK:
        label = label.transpose(Image.Transpose[BACK[tag]])
        exif[ORIENTATION] = tag
    label.save(target, exif=exif)


def segment_nifti(model: Model, source: str, target: str) -> None:
    import nibabel as nib
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    image: Any = nib.load(source)
    proxy, header = image.dataobj, image.header.copy()
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    array = np.asarray(proxy) if scaled else np.asarray(proxy.get_unscaled())
    if scaled or array.dtype.kind == "f":
        array = array.astype(np.float32)
    shape, array = array.shape, array.reshape(array.shape[: 2 if array.ndim == 2 else 3])
    turn = as_stored = np.array([[axis, 1] for axis in range(array.ndim)])
    if header["qform_code"] or header["sform_code"]:
        turn = io_orientation(image.affine)[: array.ndim]
        turn[:, 0] = turn[:, 0].argsort().argsort()  # of a slice the two axes in order among themselves
    spacing = np.linalg.norm(image.affine[:3, : array.ndim], axis=0)[turn[:, 0].argsort()]
    array = apply_orientation(array, turn)
    axis = None if array.ndim == 2 else slice_axis_of(tuple(spacing), array.shape, model)
    header.set_slope_inter(None, None)
    header["cal_min"] = header["cal_max"] = 0  # the image's display window would show the mask as black
    label = apply_orientation(model.file_values(model.segment(array, axis)), ornt_transform(as_stored, turn))
    label = np.ascontiguousarray(label).reshape(shape)
    header.set_data_dtype(label.dtype)
    nib.save(type(image)(label, None, header), target)  # without an affine the header keeps its own, codes included


def slice_axis_of(spacing: tuple[float, ...], shape: tuple[int, ...], model: Model) -> int:
    """The axis the model was trained on, else the only one of length 1, else that of largest spacing (the last)."""
    if model.preprocessing["slice_axis"] is not None:
        return model.preprocessing["slice_axis"]
    thin = [axis for axis, length in enumerate(shape) if length == 1]
    if len(thin) == 1:
        return thin[0]
    if not all(np.isfinite(step) and step > 0 for step in spacing):
        spacing = (1.0, 1.0, 1.0)
    return max(axis for axis, step in enumerate(spacing) if step >= max(spacing) * 0.999)


def main(model: str, source: str, target: str) -> None:
    is_nifti = source.lower().endswith((".nii", ".nii.gz"))
    opened = Model(model)
    (segment_nifti if is_nifti else segment_picture)(opened, source, target)
    names = opened.about["class_names"]
    values = opened.about.get("mask_values") or range(len(names))
    names = ", ".join(f"{value} {name}" for value, name in zip(values, names, strict=True))
    print(f"{Path(target).name}: {names}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

"""Tiny data folders and files that tests of any part can ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SPACING_MM = (0.5, 0.75, 3.0)


def make_image(size: Sequence[int] = (32, 40), channels: int = 1, seed: int = 0) -> np.ndarray:
    """uint8 noise, `size` for one channel, else `(*size, channels)`."""
    shape = tuple(size) if channels == 1 else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def make_label(size: Sequence[int] = (32, 40), classes: int = 3) -> np.ndarray:
    """uint8 label in which every class 0..K-1 occurs, as stripes along the first axis."""
    stripes = np.arange(size[0]) * classes // size[0]
    return np.broadcast_to(stripes.reshape(-1, *[1] * (len(size) - 1)), tuple(size)).astype(np.uint8).copy()


def save_picture(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Writes a picture through Pillow and makes its folder."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_stack(
    path: Path,
    array: np.ndarray,
    spacing_mm: Sequence[float] | None = None,
    turned: int | None = None,
    ome: bool = False,
    **options: Any,
) -> Path:
    """Writes a TIFF stack `(Z, H, W)` or `(Z, H, W, 3)`, of ImageJ or OME, with spacing and orientation tag."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"axes": "ZYX" if array.ndim == 3 else "ZYXS"}
    if spacing_mm is not None and ome:
        metadata |= {f"PhysicalSize{axis}": spacing * 1000 for axis, spacing in zip("ZYX", spacing_mm, strict=True)}
    elif spacing_mm is not None:
        metadata |= {"spacing": spacing_mm[0] * 1000, "unit": "um"}
        options["resolution"] = (1 / (spacing_mm[2] * 1000), 1 / (spacing_mm[1] * 1000))
    if turned is not None:
        options["extratags"] = [(0x0112, "H", 1, turned, False)]
    tifffile.imwrite(path, array, imagej=not ome, ome=ome, metadata=metadata, **options)
    return path


def make_affine(spacing_mm: Sequence[float] = SPACING_MM) -> np.ndarray:
    """An oblique affine with these spacings and an offset."""
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * np.asarray(spacing_mm)
    affine[:3, 3] = (-12.5, 30.0, 7.25)
    return affine


def orientation_tag(tag: int) -> Any:
    """EXIF with this orientation alone."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


def turned_affine(codes: str, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """The affine of an array whose axes run towards these letters (of R L A P S I), the first voxel at 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (letter, step) in enumerate(zip(codes, spacing_mm, strict=True)):
        pair = next(one for one in ("LR", "PA", "IS") if letter in one)
        affine[("LR", "PA", "IS").index(pair), axis] = step if letter == pair[1] else -step
    return affine


def save_turned(
    path: Path, array: np.ndarray, codes: str, stated: int = 1, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
) -> Path:
    """Writes a NIfTI whose array axes run towards `codes`; `stated` 0 leaves that unsaid."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, None)
    affine = turned_affine(codes, spacing_mm)
    image.set_sform(affine, code=stated)
    image.set_qform(affine, code=stated)
    nib.save(image, path)
    return path


def save_nifti(
    path: Path,
    array: np.ndarray,
    spacing_mm: Sequence[float] = SPACING_MM,
    slope_inter: tuple[float, float] | None = None,
    codes: tuple[int, int] = (2, 1),
) -> Path:
    """Writes a NIfTI with an oblique affine; `slope_inter` is stored beside the array as given."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, None)
    affine = make_affine(spacing_mm)
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine, code=codes[1])
    image.header.set_xyzt_units("mm")
    if slope_inter is not None:
        image.header.set_slope_inter(*slope_inter)
    nib.save(image, path)
    return path


def save_hdf5(path: Path, **datasets: np.ndarray) -> Path:
    """Writes an HDF5 file with the given datasets."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file.create_dataset(name, data=array)
    return path


def make_folder(
    root: Path,
    n_images: int = 6,
    n_masks: int = 4,
    size: tuple[int, int] = (32, 40),
    classes: int = 3,
    channels: int = 1,
    suffix: str = ".png",
    mask_values: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    unlabelled: int = 0,
    masks_name: str = "masks",
) -> Path:
    """Writes `images/case_0.png`, ... and masks for the first `n_masks` of them.

    Args:
        root: The data folder, made if it is missing.
        n_images: Images in `images/`.
        n_masks: How many of them, from the first, have a mask.
        size: Height and width in px.
        classes: Number of classes in every mask.
        channels: 1 or 3.
        suffix: Of images and masks; masks of JPEG images are PNG.
        mask_values: File value of class 0..K-1, by default the class.
        groups: One group per image for `groups.csv`, by default no such file.
        unlabelled: Images `extra_0`, ... in `unlabelled/`.
        masks_name: `"masks"` or `"labels"`.

    Returns:
        `root`.
    """
    values = np.asarray(mask_values if mask_values is not None else range(classes), dtype=np.uint8)
    mask_suffix = ".png" if suffix in (".jpg", ".jpeg") else suffix
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i in range(n_images):
        save_picture(root / "images" / f"case_{i}{suffix}", make_image(size, channels, seed=i))
        if i < n_masks:
            save_picture(root / masks_name / f"case_{i}{mask_suffix}", values[make_label(size, classes)])
    for i in range(unlabelled):
        save_picture(root / "unlabelled" / f"extra_{i}{suffix}", make_image(size, channels, seed=1000 + i))
    if groups is not None:
        rows = [f"case_{i},{group}" for i, group in enumerate(groups)]
        (root / "groups.csv").write_text("\n".join(["stem,group", *rows]) + "\n")
    return root


def make_nifti_folder(
    root: Path,
    n_images: int = 4,
    n_masks: int = 3,
    shape: tuple[int, int, int] = (20, 24, 5),
    classes: int = 3,
) -> Path:
    """Writes volumes `images/vol_0.nii.gz`, ... and `labels/` for the first `n_masks`."""
    for i in range(n_images):
        save_nifti(root / "images" / f"vol_{i}.nii.gz", make_image(shape, seed=i).astype(np.int16))
        if i < n_masks:
            save_nifti(root / "labels" / f"vol_{i}.nii.gz", make_label(shape, classes))
    return root


def make_hdf5_folder(
    root: Path, patients: int = 3, depth: int = 2, size: tuple[int, int] = (32, 40), classes: int = 3
) -> Path:
    """Writes the SSL4MIS layout: all patients but the last in `train_slices.list`, the last in `val.list`."""
    train = []
    for i in range(patients):
        image = (make_image((depth, *size), seed=i) / 255).astype(np.float32)
        label = np.stack([make_label(size, classes)] * depth)
        name = f"patient{i:03d}_frame01"
        save_hdf5(root / "data" / f"{name}.h5", image=image, label=label)
        for z in range(depth):
            save_hdf5(root / "data" / "slices" / f"{name}_slice_{z}.h5", image=image[z], label=label[z])
            if i < patients - 1:
                train.append(f"{name}_slice_{z}")
    (root / "train_slices.list").write_text("\n".join(train) + "\n")
    (root / "val.list").write_text(f"patient{patients - 1:03d}_frame01\n")
    return root

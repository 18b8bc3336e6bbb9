"""What `fuzz.py` mutates: a few small valid files of every kind that this package reads, and how they are read."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from reliability.fuzz import Target
from support.folders import make_image, make_label, orientation_tag, save_hdf5, save_nifti, save_picture

SHAPE = (20, 24)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def all_targets(folder: Path) -> list[Target]:
    """Every kind of file, valid ones written below `folder`."""
    run = run_targets(folder / "finished")
    return [*reader_targets(folder), *run, *sam_targets(folder / "sam"), *onnx_targets(folder / "finished" / "run")]


def run_targets(folder: Path) -> list[Target]:
    """The files of a finished run, of its data folder and of a command line."""
    from support.cli import make_trained_run

    run = make_trained_run(folder)
    data = folder / "data"
    (data / "groups.csv").write_text("".join(f"{row}\n" for row in ("stem,group,volume", "case_0,a,", "case_1,b,v")))
    (data / "train.txt").write_text("case_0\ncase_2\n# no case\ncase_3\n")
    command = folder / "command.txt"
    command.write_text("train.lr=0.02\nsam=none\ndata.size=32x48\ntrain.steps=10\noptions.x=[1, 2]\n")
    read = {
        run / "config.yaml": _read_run,
        run / "metrics.jsonl": _read_run,
        run / "validation.jsonl": _read_run,
        run / "environment.json": _read_run,
        run / "split.json": _read_run,
        run / "data.json": _changed_files,
        run / "calibration.json": _calibration,
        run / "student.safetensors": _student,
        run / "checkpoint.pt": _checkpoint,
        data / "groups.csv": _scan,
        data / "train.txt": _scan,
        command: _overrides,
    }
    return [
        Target(f"run:{path.name}", [path], probe, text=path.suffix not in (".pt", ".safetensors"))
        for path, probe in read.items()
        if path.exists()
    ]


def _read_run(path: Path) -> str:
    from knowsam.runs.record import read_run

    return repr(read_run(path.parent).config)


def _changed_files(path: Path) -> list[str]:
    from knowsam.runs.data_record import changed_files
    from knowsam.runs.folder import RunFolder

    return changed_files(RunFolder(path.parent), {"image case_0": "0"})


def _calibration(path: Path) -> str:
    from knowsam.reliability.of_run import is_calibrated, load_calibration

    student = path.with_name("student.safetensors")
    is_calibrated(student)
    return load_calibration(student).sentence()


def _student(path: Path) -> Any:
    import torch

    from knowsam.runs.student_file import load_student

    network, info = load_student(path)
    with torch.no_grad():
        return info.step, network(torch.zeros(1, info.preprocessing.channels, 32, 32)).shape


def _checkpoint(path: Path) -> list[str]:
    from knowsam.runs.checkpoint import load_checkpoint

    return sorted(map(str, load_checkpoint(path)))


def _scan(path: Path) -> str:
    from knowsam.data.folder import scan_folder
    from knowsam.data.split import make_split

    return repr(make_split(scan_folder(path.parent)))


def _overrides(path: Path) -> str:
    """Each line as an argument of the command line; the file's name is none of its sentences' business."""
    from knowsam.config import parse_overrides, resolve_config
    from knowsam.errors import InputError

    try:
        return repr(resolve_config(parse_overrides(path.read_text("utf-8", "replace").splitlines())))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def onnx_targets(run: Path) -> list[Target]:
    """A file that `knowsam export` wrote, for `predict` and for the example that reads it without this package."""
    if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
        return []
    from knowsam.inference.export import export

    exported = export(run, run.parent / "student.onnx").path
    return [Target("onnx", [exported], _predict_onnx), Target("onnx:example", [exported], _example)]


def _predict_onnx(path: Path) -> Any:
    from knowsam.inference.predictor import Predictor

    return Predictor(path).predict(make_image(SHAPE)).label


def _example(path: Path) -> Any:
    """Its errors are Python's; what counts is that there is one, in time and memory."""
    from knowsam.errors import InputError

    sys.path.insert(0, str(EXAMPLES))
    from onnx_only import Model

    try:
        return Model(str(path)).segment(make_image(SHAPE))
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}") from error
    finally:
        sys.path.remove(str(EXAMPLES))


def sam_targets(folder: Path) -> list[Target]:
    """A teacher's configuration, weights and list of weights, and an original checkpoint."""
    from support.original_sam import save_original
    from support.small_sam import small_sam

    small_sam().save_pretrained(folder / "whole")
    small_sam().save_pretrained(folder / "parts", max_shard_size="50KB")
    original = save_original(folder / "original.pth")
    return [
        Target("sam:config.json", [folder / "whole" / "config.json"], _load_sam, text=True),
        Target("sam:weights", [folder / "whole" / "model.safetensors"], _load_sam),
        Target("sam:index", [folder / "parts" / "model.safetensors.index.json"], _load_sam, text=True),
        Target("sam:original", [original], _load_original),
    ]


def _load_sam(path: Path) -> str:
    from knowsam.sam.loading.hub import load_folder

    return load_folder(path.parent, "mine")[1].source


def _load_original(path: Path) -> str:
    from knowsam.sam.loading.original import load_original

    return load_original(path, "mine")[1].source


def reader_targets(folder: Path) -> list[Target]:
    """Images and masks in every format."""
    seeds = [*_pictures(folder / "pictures"), *_tiffs(folder / "tiffs"), *_volumes(folder / "volumes")]
    seeds += [*_hdf5(folder / "hdf5"), *_dicom(folder / "dicom")]
    by_name: dict[str, list[Path]] = {}
    for path in seeds:
        name = "nii.gz" if path.name.endswith(".nii.gz") else path.suffix[1:]
        by_name.setdefault(name, []).append(path)
    checked = ("nii.gz", "png")
    # JPEG has neither checksum nor length; what is behind the last block of a GIF or BMP has no meaning.
    return [Target(name, paths, _read, name in checked, name != "jpg") for name, paths in by_name.items()]


def _read(path: Path) -> tuple[Any, ...]:
    """The image and the mask that a file holds; the image's error if it is neither."""
    from knowsam.errors import InputError
    from knowsam.io import read_image, read_label

    found: list[Any] = []
    refused = None
    for read in (read_image, read_label):
        try:
            found.append(read(path).array)
        except InputError as error:
            refused = refused or error
            found.append(None)
    if all(array is None for array in found):
        assert refused is not None
        raise refused
    return tuple(found)


def _pictures(folder: Path) -> list[Path]:
    from PIL import Image

    grey, colour, label = make_image(SHAPE), make_image(SHAPE, 3), make_label(SHAPE)
    palette = Image.fromarray(label).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    folder.mkdir(parents=True)
    palette.save(folder / "palette.png")
    palette.save(folder / "palette.gif")
    Image.fromarray(label).convert("1").save(folder / "bit.png")
    Image.fromarray(label).convert("1").save(folder / "bit.bmp")
    return [
        *(folder / name for name in ("palette.png", "palette.gif", "bit.png", "bit.bmp")),
        save_picture(folder / "grey.png", grey, exif=orientation_tag(6)),
        save_picture(folder / "flat.png", np.zeros((60, 60), np.uint8)),
        save_picture(folder / "deep.png", grey.astype(np.uint16) * 257),
        save_picture(folder / "colour.png", colour),
        save_picture(folder / "alpha.png", np.concatenate([colour, colour[..., :1] | 255], axis=-1)),
        save_picture(folder / "grey.jpg", grey),
        save_picture(folder / "colour.jpg", colour, exif=orientation_tag(3)),
        save_picture(folder / "progressive.jpg", colour, progressive=True),
        save_picture(folder / "colour.bmp", colour),
        save_picture(folder / "label.bmp", label),
        save_picture(folder / "label.gif", label),
    ]


def _tiffs(folder: Path) -> list[Path]:
    import tifffile

    grey, colour, label = make_image(SHAPE), make_image(SHAPE, 3), make_label(SHAPE)
    stack = make_image((5, *SHAPE))
    paths = [
        save_picture(folder / f"pil_{name}.tif", array, compression=name)
        for name, array in (("tiff_deflate", colour), ("tiff_lzw", grey), ("packbits", label), ("jpeg", grey))
    ]
    written: dict[str, dict[str, Any]] = {
        "raw": {"data": grey},
        "big": {"data": grey.astype(np.uint16), "byteorder": ">"},
        "strips": {"data": colour, "rowsperstrip": 7, "compression": "zlib"},
        "tiles": {"data": label, "tile": (16, 16), "compression": "zlib"},
        "planes": {"data": np.moveaxis(colour, -1, 0), "planarconfig": "separate", "photometric": "rgb"},
        "float": {"data": grey.astype(np.float32), "bigtiff": True},
        "stack": {"data": stack, "imagej": True, "metadata": {"axes": "ZYX", "spacing": 2, "unit": "mm"}},
        "one_page": {"data": stack, "imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True},
        "ome_stack": {"data": stack, "ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeZ": 2}},
        "ome": {"data": grey, "ome": True},
    }
    for name, options in written.items():
        tifffile.imwrite(folder / f"{name}.tif", options.pop("data"), **options)
        paths.append(folder / f"{name}.tif")
    return paths


def _volumes(folder: Path) -> list[Path]:
    import nibabel as nib

    volume = make_image((6, 7, 5)).astype(np.int16)
    second = nib.Nifti2Image(volume, np.eye(4))
    folder.mkdir(parents=True)
    nib.save(second, folder / "second.nii")
    return [
        folder / "second.nii",
        save_nifti(folder / "plain.nii", volume),
        save_nifti(folder / "flat.nii", make_image((9, 8)).astype(np.float32)),
        save_nifti(folder / "packed.nii.gz", volume),
        save_nifti(folder / "scaled.nii.gz", volume, slope_inter=(2.0, 1.0)),
        save_nifti(folder / "mask.nii.gz", make_label((6, 7, 5))),
    ]


def _hdf5(folder: Path) -> list[Path]:
    import h5py

    image, label = make_image(SHAPE).astype(np.float32), make_label(SHAPE)
    paths = [save_hdf5(folder / "plain.h5", image=image, label=label)]
    for name, options in {
        "chunks": {"chunks": (8, 8), "compression": "gzip"},
        "sums": {"chunks": (8, 8), "fletcher32": True},
        "lzf": {"chunks": (20, 24), "compression": "lzf", "shuffle": True},
    }.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.create_dataset("image", data=image, **options)
            file.create_dataset("label", data=label, **options)
        paths.append(folder / f"{name}.h5")
    return paths


def _dicom(folder: Path) -> list[Path]:
    try:
        from support import dicom
    except BaseException as error:  # pytest's own way to say that the extra is not installed
        if type(error).__name__ != "Skipped":
            raise
        return []
    pixels = make_image(SHAPE).astype(np.int16)
    slices = dicom.make_slices(np.stack([pixels] * 3, axis=-1))
    colour = dicom.make_picture(make_image(SHAPE, 3), "RGB")
    packed = dicom.make_picture(make_image(SHAPE))
    packed.compress("1.2.840.10008.1.2.5")  # run lengths
    paths = [dicom.save(one, folder / f"series/{index}.dcm") for index, one in enumerate(slices)]
    volume = dicom.make_enhanced(np.stack([pixels] * 3, axis=-1), [1.0, 1.0, 1.0])
    return [
        paths[1],
        dicom.save(colour, folder / "colour/a.dcm"),
        dicom.save(packed, folder / "packed/a.dcm"),
        dicom.save(volume, folder / "enhanced/a.dcm"),
    ]

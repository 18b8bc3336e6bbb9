"""`examples/onnx_only.py` gives the masks of `knowsam predict` in an environment that has neither torch nor knowsam."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from knowsam.data.preprocess import PERCENTILES, Normalisation, Preprocessing
from knowsam.inference.export import export
from knowsam.inference.files import predict_files
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image, read_label
from knowsam.types import LUMINANCE, Geometry, MedicalImage
from support.examples import EXAMPLES, load_example
from support.exports import ExportedFile, make_student
from support.folders import make_image, orientation_tag, save_nifti, save_picture, save_stack, save_turned

TIE = 1e-4

NEEDED = ("numpy", "onnxruntime", "pillow", "nibabel")

# -I leaves PYTHONPATH and the working directory out, -S all that is installed; what the example needs comes back.
RUN_WITHOUT_TORCH = """
import importlib.util, runpy, sys
site, example, model, *paths = sys.argv[1:]
sys.path.append(site)
present = [name for name in ("torch", "knowsam", "scipy", "h5py", "onnx") if importlib.util.find_spec(name)]
if present:
    sys.exit(f"{present} can be imported")
for source, target in zip(paths[::2], paths[1::2]):
    sys.argv = [example, model, source, target]
    runpy.run_path(example, run_name="__main__")
"""


def make_inputs(folder: Path) -> list[Path]:
    """Pictures grey and RGB, 8 and 16 bit, larger and smaller than the network; volumes cut along each axis."""
    return [
        save_picture(folder / "grey.png", make_image((37, 51))),
        save_picture(folder / "large.png", make_image((131, 97), seed=1)),
        save_picture(folder / "size_of_the_network.png", make_image((32, 48), seed=2)),
        save_picture(folder / "colour.png", make_image((45, 70), channels=3, seed=3)),
        save_picture(folder / "deep.png", make_image((29, 83), seed=4).astype(np.uint16) * 40),
        save_nifti(folder / "axis2.nii.gz", make_image((21, 33, 11), seed=5).astype(np.int16) - 100),
        save_nifti(folder / "axis0.nii", make_image((5, 33, 40), seed=6), spacing_mm=(4.0, 1.0, 1.0)),
        save_turned(folder / "pir.nii.gz", make_image((33, 7, 21), seed=8), "PIR", spacing_mm=(1.0, 4.0, 1.0)),
        save_turned(folder / "unsaid.nii.gz", make_image((33, 7, 21), seed=8), "PIR", stated=0),
        save_turned(folder / "flat.nii.gz", make_image((33, 21), seed=9), "SLA"),
        save_picture(folder / "turned.png", make_image((37, 51), channels=3), exif=orientation_tag(6)),
        save_picture(folder / "mirrored.png", make_image((37, 51)), exif=orientation_tag(7)),
        save_nifti(folder / "scaled.nii.gz", make_image((40, 30, 3), seed=7), slope_inter=(0.5, -10.0), codes=(0, 3)),
    ]


def make_environment(folder: Path) -> Path:
    """A folder for the module path: links to what the example needs, what that needs in turn, and nothing else."""
    folder.mkdir()
    wanted, linked = list(NEEDED), set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in linked:
            continue
        linked.add(name)
        found = metadata.distribution(name)
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():  # a namespace is shared
                (folder / top).symlink_to(str(found.locate_file(top)))
    return folder


@pytest.mark.subprocess
def test_masks_are_those_of_predict_without_torch_and_knowsam(exported: ExportedFile, tmp_path: Path) -> None:
    sources = make_inputs(tmp_path / "in")
    predictor = Predictor(exported.student, "cpu")
    list(predict_files(predictor, tmp_path / "in", tmp_path / "torch"))
    (tmp_path / "alone").mkdir()
    pairs = [str(path) for source in sources for path in (source, tmp_path / "alone" / source.name)]
    site = make_environment(tmp_path / "site")
    command = [sys.executable, "-I", "-S", "-c", RUN_WITHOUT_TORCH]
    words = [str(site), str(EXAMPLES / "onnx_only.py"), str(exported.onnx), *pairs]
    ended = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "grey.png: 0 background, 1 liver, 2 Lähmung" in ended.stdout
    for source in sources:
        expected, found = (read_label(tmp_path / folder / source.name) for folder in ("torch", "alone"))
        assert len(np.unique(expected.array)) == 3, source.name
        # Untrained on noise: here and there two classes are alike to the last bits, and rounding decides.
        best = np.sort(predictor.predict(read_image(source), probabilities=True).probabilities, axis=0)
        decided = best[-1] - best[-2] > TIE
        assert decided.mean() > 0.99
        np.testing.assert_array_equal(found.array[decided], expected.array[decided], err_msg=source.name)
    for name in ("axis2.nii.gz", "axis0.nii", "scaled.nii.gz", "pir.nii.gz", "flat.nii.gz"):
        first, second = (nib.load(tmp_path / folder / name) for folder in ("torch", "alone"))
        assert first.header == second.header
        np.testing.assert_array_equal(first.affine, second.affine)


@pytest.mark.slow
def test_masks_have_the_values_of_the_training_masks(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student.safetensors", mask_values=(0, 4, 300))
    written = export(student, tmp_path / "model.onnx").path
    picture = save_picture(tmp_path / "in" / "a.png", make_image((37, 51)))
    volume = save_nifti(tmp_path / "in" / "b.nii.gz", make_image((21, 33, 4)))
    for source, out in ((student, "torch"), (written, "onnx")):
        list(predict_files(Predictor(source, "cpu"), tmp_path / "in", tmp_path / out))
    example = load_example("onnx_only")
    (tmp_path / "alone").mkdir()
    for source in (picture, volume):
        example.main(str(written), str(source), str(tmp_path / "alone" / source.name))
        labels = [read_label(tmp_path / folder / source.name).array for folder in ("torch", "onnx", "alone")]
        assert all(np.unique(label).tolist() == [0, 4, 300] for label in labels)
        assert all((label == labels[0]).mean() > 0.99 for label in labels)
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| 2 | Lähmung | 300 |" in card


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalise", ["auto", "percentile", "range"])
@pytest.mark.parametrize(
    "array", [make_image((37, 51)), make_image((90, 20), 3), make_image((31, 64)).astype(np.uint16)]
)
def test_images_are_prepared_as_for_training(array: np.ndarray, normalise: Normalisation, channels: int) -> None:
    preprocessing = Preprocessing((32, 48), channels, normalise)
    example = load_example("onnx_only")
    model: Any = example.Model.__new__(example.Model)  # the network is not needed here
    model.preprocessing = preprocessing.to_json()
    model.preparation = {"percentiles": PERCENTILES, "luminance": LUMINANCE}
    values = model.to_unit_range(array, is_volume=False)
    slices = model.to_channels(values[None, None] if array.ndim == 2 else np.moveaxis(values, -1, 0)[None])
    found = example.resize(slices, (32, 48), antialias=True)
    channelled = array if array.ndim == 3 else array[..., None]
    expected = preprocessing.slices(MedicalImage(channelled, Geometry(), Path("a"))).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_axis_asked_for_in_training_wins() -> None:
    example = load_example("onnx_only")
    model: Any = example.Model.__new__(example.Model)
    model.preprocessing = Preprocessing((32, 32), 1, slice_axis=1, spacing_mm=(1.0, 1.0, 5.0)).to_json()
    assert example.slice_axis_of((1.0, 1.0, 5.0), (8, 8, 8), model) == 1
    model.preprocessing = {"slice_axis": None}
    assert example.slice_axis_of((5.0, 1.0, 1.0), (8, 8, 8), model) == 0
    assert example.slice_axis_of((1.0, 1.0, 1.0), (8, 8, 8), model) == 2
    assert example.slice_axis_of((1.0, 9.0, 1.0), (1, 8, 8), model) == 0
    assert example.slice_axis_of((float("nan"), 9.0, 1.0), (8, 8, 8), model) == 2


@pytest.mark.parametrize("in_one_page", [False, True])
def test_a_stack_is_refused(in_one_page: bool, tmp_path: Path) -> None:
    path = save_stack(tmp_path / "a.tif", make_image((6, 24, 32)), truncate=in_one_page)
    with pytest.raises(SystemExit, match=r"a\.tif: several pictures"):
        load_example("onnx_only").read_picture(str(path))
    path = save_stack(tmp_path / "b.tif", make_image((1, 24, 32)))
    assert load_example("onnx_only").read_picture(str(path))[0].shape == (24, 32)

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from knowsam.errors import InputError
from knowsam.inference.onnx import load_onnx_student
from knowsam.inference.predictor import Predictor
from knowsam.io import read_image
from knowsam.runs.student_file import load_student
from support.cli import knowsam
from support.exports import NAMES, ExportedFile
from support.folders import make_image, save_nifti, save_picture

Capture = pytest.CaptureFixture[str]


def save_onnx(path: Path, operation: str = "Identity", output: str = "out", **metadata: str) -> Path:
    """Writes an ONNX file that does this with its input, with this metadata."""
    onnx = pytest.importorskip("onnx")
    shape = ["batch", 1, "height", "width"]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("image", output)]
    graph = onnx.helper.make_graph([onnx.helper.make_node(operation, ["image"], [output])], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_masks_and_probabilities_are_those_of_the_student(exported: ExportedFile, tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "a.png", make_image((37, 51), channels=3))
    volume = save_nifti(tmp_path / "b.nii.gz", make_image((20, 24, 11)).astype(np.int16))
    torch_predictor, onnx_predictor = Predictor(exported.student, "cpu"), Predictor(exported.onnx)
    for path in (picture, volume):
        image = read_image(path)
        expected, found = (predictor.predict(image, True) for predictor in (torch_predictor, onnx_predictor))
        assert set(np.unique(expected.label)) == {0, 1, 2}
        np.testing.assert_array_equal(found.label, expected.label)
        assert found.label.dtype == expected.label.dtype
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=1e-5)


def test_everything_that_belongs_to_the_student_is_read_from_the_file(exported: ExportedFile) -> None:
    assert load_onnx_student(exported.onnx)[1] == load_student(exported.student)[1]
    assert Predictor(exported.onnx).classes == len(NAMES)


def test_command_line_predicts_with_an_onnx_file(exported: ExportedFile, tmp_path: Path, capsys: Capture) -> None:
    save_picture(tmp_path / "in" / "a.png", make_image((40, 56)))
    save_nifti(tmp_path / "in" / "b.nii.gz", make_image((20, 24, 5)).astype(np.int16))
    for model, out in ((exported.onnx, "onnx"), (exported.student, "torch")):
        ended = knowsam(capsys, "predict", model, tmp_path / "in", "--out", tmp_path / out, "--overlay")
        assert ended.code == 0, ended.err
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {
        "a.png", "a_overlay.png", "b.nii.gz", "b_overlay.png",
    }  # fmt: skip
    for name in ("a.png", "a_overlay.png"):
        first, second = (np.asarray(Image.open(tmp_path / out / name)) for out in ("onnx", "torch"))
        np.testing.assert_array_equal(first, second)
    first, second = (nib.load(tmp_path / out / "b.nii.gz") for out in ("onnx", "torch"))
    np.testing.assert_array_equal(first.dataobj, second.dataobj)
    np.testing.assert_array_equal(first.affine, second.affine)


@pytest.mark.parametrize(("content", "said"), [(b"weights", "broken or truncated"), (b"", "0 bytes")])
def test_a_file_that_is_no_onnx_is_named(tmp_path: Path, capsys: Capture, content: bytes, said: str) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    save_picture(tmp_path / "a.png", make_image())
    ended = knowsam(capsys, "predict", path, tmp_path / "a.png", "--out", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.strip().count("\n") == 0  # the progress bar that was cleared leaves an empty line
    assert f"{path}: " in ended.err
    assert said in ended.err


def test_an_onnx_file_of_somebody_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other\.onnx: an ONNX file without knowsam's metadata was found"):
        Predictor(save_onnx(tmp_path / "other.onnx", author="somebody"))


def test_an_onnx_file_of_a_later_format_is_named(tmp_path: Path) -> None:
    header = json.dumps({"format": 99, "version": "9.0"})
    with pytest.raises(InputError, match=r"later\.onnx: format 99 was found.* version that wrote it \(9\.0\)"):
        Predictor(save_onnx(tmp_path / "later.onnx", knowsam=header))


def test_a_header_of_an_onnx_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cut\.onnx: a header was found that cannot be read"):
        Predictor(save_onnx(tmp_path / "cut.onnx", knowsam='{"format": '))
    with pytest.raises(InputError, match=r"list\.onnx: a header was found that cannot be read"):
        Predictor(save_onnx(tmp_path / "list.onnx", knowsam="[]"))


def test_metadata_that_are_no_text_are_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    path = save_onnx(tmp_path / "bytes.onnx", author="somebody")
    path.write_bytes(path.read_bytes().replace(b"somebody", b"someb\xff\xfey"))
    with pytest.raises(InputError, match=r"bytes\.onnx"):
        Predictor(path)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("operation", "output"), [("Identity", "out"), ("Identity", "probabilities"), ("Log", "probabilities")]
)
def test_what_an_onnx_file_gives_must_be_probabilities(
    operation: str, output: str, exported: ExportedFile, tmp_path: Path
) -> None:
    header = json.dumps(load_onnx_student(exported.onnx)[1].to_json())
    predictor = Predictor(save_onnx(tmp_path / "other.onnx", operation, output, knowsam=header))
    with pytest.raises(InputError, match=r"other\.onnx: "):
        predictor.predict(np.zeros((40, 50), np.uint8))


def test_an_onnx_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx: no such file was found"):
        Predictor(tmp_path / "model.onnx")


def test_another_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the device cuda was asked for, but expected cpu"):
        Predictor(save_onnx(tmp_path / "model.onnx"), "cuda")


def test_another_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"amp=bf16 was found, but an ONNX file"):
        Predictor(save_onnx(tmp_path / "model.onnx"), amp="bf16")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_onnx(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime was not found.* pip install 'knowsam\[export\]'"):
        Predictor(path)

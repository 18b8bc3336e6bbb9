from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from knowsam.inference import export as module
from knowsam.inference.export import export, select_network
from knowsam.inference.verification import TOLERANCE, verification_batches, verify
from knowsam.networks import CoTrainedStudents
from knowsam.networks.registry import build_network
from knowsam.runs.student_file import load_student
from support.cli import knowsam
from support.exports import COTRAINED, NAMES, SIZE, VALIDATION, ExportedFile, make_student
from support.folders import make_folder

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    return make_student(tmp_path / "run" / "student.safetensors", name="unet")


def pretend_export(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Replace the slow exporter: the file is a word, and what it computes is the network's output, changed."""
    networks: list[nn.Module] = []

    def write(network: nn.Module, header: dict[str, Any], path: Path) -> None:
        networks.append(network)
        path.write_text("new")

    monkeypatch.setattr(module, "write_onnx", write)
    monkeypatch.setattr(module, "open_onnx", lambda path: lambda image: change(networks[-1](image)))


# --- the ONNX file -------------------------------------------------------------------------------------------------


def test_the_onnx_file_gives_the_fused_probabilities_at_any_batch_and_size(exported: ExportedFile) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.onnx)
    student, _ = load_student(exported.student)
    for batch, height, width in ((1, 16, 16), (4, 64, 16), (2, 48, 80)):
        image = torch.rand(batch, 1, height, width)
        (found,) = session.run(["probabilities"], {"image": image.numpy()})
        with torch.inference_mode():
            expected = student.outputs(image)["fused"].softmax(dim=1)
        assert len(expected.argmax(dim=1).unique()) == 3
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)
    assert session.get_inputs()[0].shape == ["batch", 1, "16*h", "16*w"]


def test_the_onnx_file_says_all_that_using_it_needs(exported: ExportedFile) -> None:
    import onnx

    model = onnx.load(exported.onnx)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    (entry,) = model.metadata_props
    about = json.loads(entry.value)
    assert entry.key == "knowsam"
    assert about["class_names"] == list(NAMES)
    assert about["class_colours"] == [[0, 0, 0], [230, 159, 0], [86, 180, 233]]
    unsaid = {"slice_axis": None, "spacing_mm": None}
    assert about["preprocessing"] == {"size": [32, 48], "channels": 1, "normalise": "auto"} | unsaid
    assert about["preparation"]["percentiles"] == [0.5, 99.5]
    assert about["preparation"]["luminance"] == [0.299, 0.587, 0.114]
    assert (about["exported_network"], about["step"], about["opset"]) == ("fused", 7, 18)
    assert about["validation"] == VALIDATION
    assert about["version"] == "0.1"


def test_the_onnx_file_tells_nothing_of_the_machine_it_was_made_on(exported: ExportedFile) -> None:
    content = exported.onnx.read_bytes()
    assert str(Path(module.__file__).parent).encode() not in content
    assert b'File "' not in content


def test_beside_the_file_stand_only_its_card_and_in_it_its_checksum(exported: ExportedFile) -> None:
    assert {path.name for path in exported.onnx.parent.iterdir()} == {"model.onnx", "MODEL_CARD.md"}
    card = (exported.onnx.parent / "MODEL_CARD.md").read_text()
    assert hashlib.sha256(exported.onnx.read_bytes()).hexdigest() in card
    assert "largest difference from torch" in card


# --- the torch.export program --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_line_writes_a_program_of_one_network(tmp_path: Path, capsys: Capture) -> None:
    student = make_student(tmp_path / "run" / "student.safetensors")
    to = tmp_path / "out" / "model.pt2"
    ended = knowsam(capsys, "export", tmp_path / "run", "--to", to, "--network", "vnet")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert f"{to}: network vnet" in ended.out
    assert "largest difference from torch" in ended.out
    header = {"knowsam.json": ""}
    program = torch.export.load(to, extra_files=header).module()
    image = torch.rand(3, 1, 80, 32)
    with torch.inference_mode():
        expected = load_student(student)[0].outputs(image)["vnet"].softmax(dim=1)
        torch.testing.assert_close(program(image), expected)
    about = json.loads(header["knowsam.json"])
    assert about["exported_network"] == "vnet"
    assert about["input"]["shape"] == ["batch", 1, "height", "width"]
    with zipfile.ZipFile(to) as archive:
        assert not any(b"knowsam/export.py" in archive.read(name) for name in archive.namelist())
        assert not any("writing" in name for name in archive.namelist())


# --- which network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fused", "unet", "vnet"])
def test_each_network_of_a_student_stands_alone(tmp_path: Path, name: str) -> None:
    student, info = load_student(make_student(tmp_path / "s.safetensors", **COTRAINED))
    image = 3 * torch.rand(2, 1, *SIZE) - 1  # standardising makes a difference here
    with torch.inference_mode():
        expected = student.outputs(image)[name]
        found, part = select_network(student, info, name, tmp_path)
        assert found == name
        torch.testing.assert_close(part(image), expected)
        assert select_network(student, info, None, tmp_path)[0] == "fused"


def test_a_network_the_student_lacks_is_refused_and_those_it_has_are_named(unet: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the network 'fused' was asked for, but expected one .* has: unet\."):
        export(unet, tmp_path / "model.onnx", network="fused")
    assert not (tmp_path / "model.onnx").exists()


# --- verification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [2 * TOLERANCE, float("nan")])
def test_a_file_that_differs_is_an_error_and_replaces_nothing(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    to = tmp_path / "out" / "model.onnx"
    to.parent.mkdir()
    to.write_text("old")

    def change(probs: Tensor) -> Tensor:
        probs = probs.clone()
        probs[-1, 0, -1, -1] += wrong
        return probs

    pretend_export(monkeypatch, change)
    with pytest.raises(InputError, match=r"model\.onnx: the exported probabilities differ .* nothing was written"):
        export(unet, to)
    assert [path.name for path in to.parent.iterdir()] == ["model.onnx"]
    assert to.read_text() == "old"


def test_the_largest_difference_is_told(unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_export(monkeypatch, lambda probs: probs + 2.5e-5)
    verification = export(unet, tmp_path / "model.onnx").verification
    assert verification.largest == pytest.approx(2.5e-5, rel=0.02)
    assert verification.images == 1 + 3 + 2 + 5


def test_batches_vary_in_number_and_size_and_hold_real_images_on_request(tmp_path: Path) -> None:
    make_folder(tmp_path, n_images=3)
    batches = list(verification_batches(Preprocessing(SIZE, 1), 16, tmp_path))
    shapes = [tuple(batch.shape) for batch in batches]
    assert shapes == [(1, 1, 32, 48), (3, 1, 32, 64), (2, 1, 48, 48), (5, 1, 32, 48)] + 3 * [(1, 1, 32, 48)]
    assert all(0 <= batch.min() <= batch.max() <= 1 for batch in batches)


class TiedStudents(CoTrainedStudents):
    """The U-Net cannot decide between two classes at one pixel, (10, 10)."""

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(len(image), 2, *image.shape[-2:]).clone()
        tied = logits.clone()
        tied[:, 1, 10, 10] = 1.0
        return {"fused": logits, "unet": tied, "vnet": logits}


@pytest.mark.parametrize(("column", "excused"), [(13, True), (14, False)])
def test_a_difference_is_excused_only_where_the_fusion_head_sees_a_tie(column: int, excused: bool) -> None:
    def file(image: Tensor) -> Tensor:
        probs = network(image).softmax(dim=1)
        probs[0, :, 10, column] += torch.tensor([0.1, -0.1])
        return probs

    network, image = TiedStudents(1, 2), torch.zeros(1, 1, 32, 32)
    if excused:
        result = verify(file, network, iter([image]), Path("model.onnx"))
        assert (result.ties, result.largest, result.pixels) == (1, 0.0, 1024)
        assert "1 pixel at a student's tie left out" in str(result)
    else:
        with pytest.raises(InputError, match="differ"):
            verify(file, network, iter([image]), Path("model.onnx"))


def test_ties_do_not_excuse_a_file_that_is_wrong_everywhere() -> None:
    network = build_network("cotrained", 1, 2).eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)  # every pixel is a tie
    with pytest.raises(InputError, match="differ"):
        verify(lambda image: network(image).softmax(1) + 0.1, network, iter([torch.zeros(1, 1, 32, 32)]), Path("m"))


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_program_for_images_of_one_stride_is_refused(tmp_path: Path) -> None:
    student = make_student(tmp_path / "s.safetensors", name="unet", size=(16, 48))
    with pytest.raises(InputError, match=r"16x48 .* expected at least 32 along each axis"):
        export(student, tmp_path / "model.pt2")


def test_images_that_are_not_there_are_named_before_the_work(unet: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: nothing was found"):
        export(unet, tmp_path / "model.onnx", images=tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.pth", "model"])
def test_a_suffix_that_is_no_format_is_refused(tmp_path: Path, capsys: Capture, name: str) -> None:
    ended = knowsam(capsys, "export", tmp_path, "--to", tmp_path / name)
    assert ended.code == 2
    assert "expected .onnx (ONNX) or .pt2" in ended.err


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"student\.safetensors: no such file was found"):
        export(tmp_path, tmp_path / "model.onnx")


def test_the_card_of_another_model_is_not_replaced(unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_export(monkeypatch, lambda probs: probs)
    export(unet, tmp_path / "a.onnx")
    export(unet, tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"MODEL_CARD\.md: the card of another model was found.* that of b\.onnx"):
        export(unet, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_says_how_to_install_it(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package} was not found.* pip install 'knowsam\[export\]'"):
        export(unet, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from knowsam.networks.registry import NETWORKS
from support.cli import make_trained_run
from support.exports import COTRAINED, ExportedFile, ShallowStudents, make_student

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start: equal sums need equal threads

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the exported file is slow, because the first such test of a process waits for it to be traced."""
    for item in items:
        if "exported_file" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is absent: it is not part of the repository")
    return path


@pytest.fixture
def golden() -> Path:
    """Folder of reference tensors made with the original modules."""
    return _folder(SHARED / "golden")


@pytest.fixture
def shared_data() -> Path:
    """Folder of real images."""
    return _folder(SHARED / "data")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: six images beside it in `data`, masks for case_0 to case_3, of which some validate."""
    return make_trained_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def exported_file(tmp_path_factory: pytest.TempPathFactory) -> ExportedFile:
    """A co-trained student and its ONNX file: made once, because tracing it takes seconds."""
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    from knowsam.inference.export import export

    root = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS.own, "shallow", ShallowStudents)
        student = make_student(root / "student.safetensors", "shallow", **COTRAINED)
        return ExportedFile(student, export(student, root / "file" / "model.onnx").path)


@pytest.fixture
def exported(exported_file: ExportedFile, monkeypatch: pytest.MonkeyPatch) -> ExportedFile:
    """The same, for a test that opens the student as well."""
    monkeypatch.setitem(NETWORKS.own, "shallow", ShallowStudents)
    return exported_file

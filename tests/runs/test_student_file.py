from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from knowsam.networks.registry import build_network
from knowsam.runs import student_file as checkpoint
from knowsam.runs.checkpoint import load_checkpoint, save_checkpoint
from knowsam.runs.student_file import StudentInfo, load_student, save_student
from support.training import SIZE

NETWORK = {"name": "cotrained", "in_channels": 1, "classes": 3, "vnet_normalisation": "batch", "standardise": True}
INFO = StudentInfo(
    NETWORK, Preprocessing(SIZE, 1, "percentile", 2), ("no", "one", "ünï"), 7, {"fused": {"dice": 0.5}}, "0.1"
)


@pytest.fixture
def student() -> torch.nn.Module:
    torch.manual_seed(0)
    student = build_network(**NETWORK)
    student(torch.rand(2, 1, *SIZE))  # batch-norm statistics leave their start
    return student.to(memory_format=torch.channels_last).eval()


@torch.no_grad()
def test_student_round_trip_predicts_the_same_and_keeps_all_it_needs(student: torch.nn.Module, tmp_path: Path) -> None:
    save_student(tmp_path / "new" / "s.safetensors", student, INFO)
    loaded, info = load_student(tmp_path / "new" / "s.safetensors")
    assert info == INFO
    assert not loaded.training
    image = torch.rand(2, 1, *SIZE)
    torch.testing.assert_close(loaded(image), student(image))
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_values_of_masks_travel_with_a_student_and_an_older_one_has_none() -> None:
    info = replace(INFO, mask_values=(0, 3, 400))
    again = StudentInfo.from_json(json.loads(json.dumps(info.to_json())), Path("s"))
    assert again.mask_values == (0, 3, 400)
    older = {key: value for key, value in INFO.to_json().items() if key != "mask_values"}
    assert StudentInfo.from_json(older, Path("s")) == INFO


def test_others_may_read_a_student_file_as_any_other_new_file(student: torch.nn.Module, tmp_path: Path) -> None:
    path, other = tmp_path / "student.safetensors", tmp_path / "other"
    save_student(path, student, INFO)
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.subprocess
def test_student_opens_where_nothing_of_the_training_is_installed(student: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_student(path, student, INFO)
    code = (
        "import sys\n"
        "for name in ('transformers', 'accelerate', 'kornia', 'pydantic'): sys.modules[name] = None\n"
        "import torch; from pathlib import Path; from knowsam.runs.student_file import load_student\n"
        f"student, info = load_student(Path({str(path)!r}))\n"
        "print(tuple(student(torch.zeros(1, 1, 32, 48)).shape), *info.class_names[:2])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout.strip() == "(1, 3, 32, 48) no one"


def test_a_missing_student_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/s.safetensors: could not be opened"):
        load_student(tmp_path / "s.safetensors")


def test_a_truncated_student_file_is_named(student: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_student(path, student, INFO)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="could not be opened"):
        load_student(path)


@torch.no_grad()
def test_weights_that_are_no_numbers_are_refused_when_saved_and_when_loaded(
    student: torch.nn.Module, tmp_path: Path
) -> None:
    path, bad = tmp_path / "s.safetensors", tmp_path / "bad.safetensors"
    save_student(path, student, INFO)
    weights = load_file(path)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name][0] = math.nan
    with safe_open(path, "pt") as file:
        save_file(weights, bad, file.metadata())
    with pytest.raises(InputError, match=f"not finite was found in {name}"):
        load_student(bad)
    student.state_dict()[name][0] = math.inf
    with pytest.raises(InputError, match=f"not finite was found in {name}"):
        save_student(path, student, INFO)
    load_student(path)  # the last one is whole


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": []},
        {"class_names": None},
        {"format": []},
        {"network": {"name": "unet", "depth": "x"}},
        {"network": 7},
    ],
)
def test_a_broken_header_is_one_sentence(change: dict[str, Any], student: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_student(path, student, INFO)
    save_file(load_file(path), path, {"knowsam": json.dumps(INFO.to_json() | change)})
    with pytest.raises(InputError, match=r"s\.safetensors: "):
        load_student(path)


def test_weights_of_somebody_else_are_no_student(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "s.safetensors")
    with pytest.raises(InputError, match="weights without a knowsam header"):
        load_student(tmp_path / "s.safetensors")


def test_a_newer_format_is_told_with_the_version_that_wrote_it(
    student: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "STUDENT_FORMAT", 99)
    save_student(tmp_path / "s.safetensors", student, INFO)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"format 99 was found.*0\.1"):
        load_student(tmp_path / "s.safetensors")


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    state = {"step": 3, "best": None, "weights": {"a": torch.arange(3.0)}}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded["step"] == 3
    assert loaded["best"] is None
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", {"step": 3})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "c.pt", {"step": lambda: None})
    assert load_checkpoint(tmp_path / "c.pt") == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", b"\x80\x02."])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="a broken checkpoint was found") as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="a broken checkpoint was found"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint was found.*start the run anew"):
        load_checkpoint(tmp_path / "c.pt")

"""The device that is asked for, on machines with and without a GPU."""

from __future__ import annotations

import pytest
import torch

from knowsam.errors import InputError
from knowsam.runs.device import resolve_device


def machine(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 1) -> None:
    """A machine with so many GPUs of a kind."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: kind and torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.mark.parametrize("asked", ["cuda", "cuda:0", "gpu", "mps", "CUDA", "", "cpu:x"])
def test_without_a_gpu_only_the_cpu_is_there(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, None)
    assert resolve_device() == "cpu"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match=f"device: '{asked}' was found, .*, but expected cpu; choose one") as error:
        resolve_device(asked)
    assert "\n" not in str(error.value)


def test_gpus_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "cuda", 2)
    assert resolve_device() == "cuda"
    for known in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert resolve_device(known) == known
    with pytest.raises(InputError, match=r"'cuda:2' was found, .* expected cpu or cuda or cuda:0 or cuda:1"):
        resolve_device("cuda:2")
    with pytest.raises(InputError, match="'mps' was found, which is not here"):
        resolve_device("mps")


def test_the_gpu_of_a_mac_is_used_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "mps")
    assert resolve_device() == "cpu"
    assert resolve_device("mps") == "mps"

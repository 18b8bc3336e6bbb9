"""`train.checkpointing`: a run ends at the same bits, dropout and running statistics included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import knowsam
from knowsam.config import resolve_config
from knowsam.networks import checkpointing
from knowsam.training.build import build_method
from support.folders import make_folder


@pytest.mark.slow
@pytest.mark.parametrize("method", ["knowsam", "mean_teacher", "unimatch"])
def test_a_run_ends_at_the_same_bits(method: str, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=8, n_masks=6)
    students = []
    for again in (False, True):
        settings = {
            "train.report": False, "train.checkpointing": again, "sam.checkpointing": again, "train.pretrain": 0.0,
            "train.ema": 0.9,
        } | ({"options.ugda_start": 0.0} if method == "knowsam" else {})  # fmt: skip
        given = {"method": method, "sam": "tiny", "labelled": 3, "size": 32, "steps": 3, "batch": (2, 2)}
        run = knowsam.train(data, tmp_path / f"run{again}", settings=settings, quiet=True, **given)  # type: ignore[arg-type]
        state = torch.load(run.folder.checkpoint, weights_only=True)
        students.append((run.folder.student.read_bytes(), state["method"]))
    (file, weights), (file_again, weights_again) = students
    assert file == file_again
    assert weights.keys() == weights_again.keys()
    for name, value in weights.items():
        assert torch.equal(value, weights_again[name]), name


def test_the_students_are_computed_again_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[object] = []
    own = checkpointing.checkpoint

    def seen(method: object, network: object, *inputs: object, **named: object) -> object:
        computed.append(network)
        return own(method, network, *inputs, **named)

    monkeypatch.setattr(checkpointing, "checkpoint", seen)
    config = resolve_config({"method": "knowsam", "sam": "none", "train": {"checkpointing": True}})
    students = build_method(config, 1, 2).student()
    students.outputs(torch.rand(2, 1, 32, 32))  # type: ignore[operator]
    assert computed == [students.unet, students.vnet, students.fusion]


def test_less_is_kept() -> None:
    sizes = []
    for again in (False, True):
        config = resolve_config({"method": "knowsam", "sam": "none", "train": {"checkpointing": again}})
        students = build_method(config, 1, 2).student()
        weights = {weight.untyped_storage().data_ptr() for weight in students.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, weights: set[int] = weights, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            students.outputs(torch.rand(2, 1, 32, 32))  # type: ignore[operator]
        sizes.append(sum(kept.values()))
    assert sizes[1] < 0.1 * sizes[0]

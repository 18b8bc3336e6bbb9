"""Two real processes by `accelerate launch` on the CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from knowsam.data.dataset import StepDataset
from knowsam.errors import InputError
from knowsam.runs.folder import RunFolder
from knowsam.training.data import load_data, plan_split
from support.folders import make_folder
from support.training import run_config

STEPS = 3

SCRIPT = """
import json, sys
from pathlib import Path
import torch, yaml
torch.set_num_threads(1)
from knowsam.training import trainer as engine
from knowsam.config import resolve_config
from knowsam.data.dataset import StepDataset
from knowsam.runs.folder import RunFolder

config, out, seen = Path(sys.argv[1]), Path(sys.argv[2]), []
draw = StepDataset.__getitem__

def record(dataset, step):
    batch = draw(dataset, step)
    seen.append([step, batch.labelled_stems, batch.unlabelled_stems])
    return batch

StepDataset.__getitem__ = record
run = engine.Trainer(resolve_config(yaml.safe_load(config.read_text())), RunFolder(out), quiet=True)
run.fit()
rank = run.accelerator.process_index
(config.parent / f"seen-{rank}.json").write_text(json.dumps(seen))
state = {"method": run.method.state_dict(), "averaged": run.averaged.state_dict()}
torch.save(state, config.parent / f"state-{rank}.pt")
run.accelerator.end_training()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.subprocess
def test_two_processes_share_each_batch_and_end_with_equal_weights(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", n_images=9, n_masks=5)
    layer = {"options": {"ugda_start": 0.5}, "train": {"batch": "2+4", "ema": 0.9}}
    config = run_config(data, layer, sam="tiny", steps=STEPS)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    (tmp_path / "script.py").write_text(SCRIPT)
    # With `--cpu` accelerate starts one process unless MPI is installed, whatever the number asked for. `--multi_gpu`
    # is its launcher of several processes on one machine; without a GPU they compute on the CPU and talk by gloo.
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", str(free_port()),
        str(tmp_path / "script.py"), str(tmp_path / "c.yaml"), str(tmp_path / "run"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]

    # Together the two shares are the batch that one process would have had: nothing twice, nothing skipped.
    folder, split = plan_split(config)
    loaded = load_data(config, folder, split)
    alone = StepDataset(loaded.labelled, loaded.unlabelled, (2, 4), STEPS, config.train.seed)
    shares = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    for step in range(STEPS):
        batch = alone[step]
        assert [share[step][0] for share in shares] == [step, step]
        assert (*shares[0][step][1], *shares[1][step][1]) == batch.labelled_stems
        assert (*shares[0][step][2], *shares[1][step][2]) == batch.unlabelled_stems

    states = [torch.load(tmp_path / f"state-{rank}.pt", weights_only=True) for rank in range(2)]
    for part, state in states[0].items():
        for name, value in state.items():
            assert torch.equal(value, states[1][part][name]), f"{part} {name}"

    records = RunFolder(tmp_path / "run").read_metrics()
    assert [r["step"] for r in records if "terms" in r] == [1, 2, 3]
    assert [r["step"] for r in records if "validation" in r] == [2, 3]
    assert "fused_mix" in records[-2]["terms"]


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    config = run_config(make_folder(tmp_path / "data"))
    loaded = load_data(config, *plan_split(config))
    with pytest.raises(InputError, match=r"3 labelled images per step were asked for on 2 processes.*multiple of 2"):
        StepDataset(loaded.labelled, loaded.unlabelled, (3, 4), 1, 0, rank=0, world=2)

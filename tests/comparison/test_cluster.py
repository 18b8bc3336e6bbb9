"""A comparison on a Dask cluster of two workers: one is killed at work, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from knowsam.comparison import cluster
from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.loop import compare
from knowsam.errors import InputError
from knowsam.runs.checkpoint import load_checkpoint
from support.folders import make_folder

SETTINGS = {
    "train": {"steps": 40, "batch": "2+2", "checkpoint_every": 1, "log_every": 1, "validate_every": 40},
    "data": {"size": 32},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", n_images=8, n_masks=6)


def test_without_the_extra_or_a_scheduler_one_sentence_says_what_to_do(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        import distributed  # noqa: F401

        sentence = "no answer came from 'tcp://127.0.0.1:9'"
    except ImportError:
        sentence = r"expected the extra 'cluster'; pip install 'knowsam\[cluster\]'"
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    given = (["supervised"], ["none"], [2], [0], SETTINGS, True)
    with pytest.raises(InputError, match=sentence):
        compare(data, data.parent / "out", *given, scheduler="tcp://127.0.0.1:9")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_cell_of_a_killed_worker_is_continued_by_another(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    out = data.parent / "out"
    killed: list[tuple[str, int, int]] = []

    def kill_one_at_work(pids: dict[str, int], client: distributed.Client) -> None:
        """Kill the worker of the cell of seed 0, as soon as that has a checkpoint."""
        run = out / "runs" / "supervised_sam-none_labelled-2_seed-0"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (run / "checkpoint.pt").exists():
            time.sleep(0.02)
        for address, keys in client.processing().items():
            if any("seed-0" in key for key in keys):
                os.kill(pids[address], signal.SIGKILL)
                killed.append((run.name, pids[address], load_checkpoint(run / "checkpoint.pt")["step"]))

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as two,
        distributed.Client(two) as client,
    ):
        pids = client.run(os.getpid)
        thread = threading.Thread(target=kill_one_at_work, args=(pids, client))
        thread.start()
        given = (["supervised"], ["none"], [2], [0, 1], SETTINGS, True)
        results = compare(data, out, *given, scheduler=two.scheduler_address)  # type: ignore[arg-type]
        thread.join()
        assert (results.failed, results.missing, results.interrupted) == ({}, (), False)
        assert len(killed) == 1
        assert killed[0][2] < 40
        assert killed[0][1] not in client.run(os.getpid).values()
        # What the killed worker had trained was continued: every step was done, once, to the same bits as without it.
        for cell in CompareFolder(out).read().cells:
            log = CompareFolder(out).run(cell).read_metrics()
            assert [record["step"] for record in log if "terms" in record] == list(range(1, 41))
        again = compare(data, out, *given, scheduler=two.scheduler_address)  # type: ignore[arg-type]
        assert json.dumps(again.to_json()) == json.dumps(results.to_json())
    whole = data.parent / "whole"
    compare(data, whole, ["supervised"], ["none"], [2], [0], SETTINGS, True)
    run = Path("runs") / killed[0][0] / "student.safetensors"
    assert (whole / run).read_bytes() == (out / run).read_bytes()

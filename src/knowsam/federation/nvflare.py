"""NVFlare as the engine: a job from a plan, its simulator on one machine. NVFlare is imported when it is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knowsam.errors import InputError
from knowsam.federation.loop import Federation, RoundDisplay, end
from knowsam.federation.plan import SITES, Plan
from knowsam.federation.server import Server
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.storage import is_unused, output_folder

JOB = "knowsam"
WORKSPACE, LOG = "nvflare", "nvflare.log"
ALLOWED = "knowsam.federation.nvflare_parts"
"""What a machine's `local/resources.json` must allow under `class_allow_list`."""
LOOK_S = 0.5


def require_nvflare() -> None:
    """Make sure that NVFlare is installed.

    Raises:
        InputError: It is not.
    """
    if find_spec("nvflare") is None:
        raise InputError(
            "federate: the package nvflare was not found, but --engine nvflare and --job expected it; install it with"
            " `pip install 'knowsam[federated]'`, or leave both out to simulate without it."
        )


def make_job(plan: Plan, out: Path, sites_out: dict[str, Path]) -> Any:
    """NVFlare's job of a federation.

    Args:
        plan: What to do; each folder is one of its own machine.
        out: The federation's folder, on the server.
        sites_out: Folder of each site, on its machine.
    """
    require_nvflare()
    from nvflare.job_config.api import FedJob

    from knowsam.federation.nvflare_parts import ROUND, START, FederationController, SiteExecutor

    job = FedJob(name=JOB, min_clients=plan.min_sites or len(plan.sites))
    # The package is installed on every machine: a job carries no code.
    job.set_app_packages(["knowsam"])
    job.to(FederationController(json.dumps(plan.to_json()), str(out)), "server")
    for site in plan.sites:
        alone = tuple(one if one is site else replace(one, folder="") for one in plan.sites)
        own = json.dumps(replace(plan, public="", sites=alone).to_json())
        job.to(SiteExecutor(own, site.name, str(sites_out[site.name])), site.name, tasks=[START, ROUND])
    return job


def write_job(plan: Plan, out: Path, folder: Path) -> None:
    """Write a job for a real deployment.

    Args:
        plan: What to do.
        out: The federation's folder on the server; of a site it is `NAME-of-out/NAME`, where its client runs.
        folder: New or empty.

    Raises:
        InputError: NVFlare is not installed, or the folder is occupied.
    """
    if folder.exists() and not is_unused(folder):
        raise InputError(f"{folder}: other files were found, but expected a new or empty folder; choose another --job.")
    job = make_job(plan, out, {site.name: Path(out.name) / site.name for site in plan.sites})
    with tempfile.TemporaryDirectory() as temporary:
        job.export_job(temporary)
        with output_folder(folder) as whole:
            shutil.copytree(Path(temporary) / JOB, whole, dirs_exist_ok=True)


def simulate(plan: Plan, out: Path, quiet: bool = False) -> Federation:
    """Train a federation with NVFlare's simulator, each site in a process of its own, or go on with one.

    Its messages are those of `loop.federate`, and so are its files; what NVFlare logs is in `nvflare.log`.

    Raises:
        InputError: For bad data or an occupied folder, or if the engine ended before the last round.
    """
    require_nvflare()
    server = Server(plan, out, quiet)
    server.check_folder()
    with folder_lock(out):
        # The beginning is done here, where it can be seen and interrupted; NVFlare's server finds it done.
        if server.start() is None:
            return Federation(server.folder, 0, False, None)
        job = make_job(plan, out.resolve(), {site.name: out.resolve() / SITES / site.name for site in plan.sites})
        display = RoundDisplay(quiet)
        with display.bar:
            display.begin(server)
            ended = _run(job, out, [site.name for site in plan.sites], server, display)
        server.start()  # as NVFlare's server has left it
        if not server.finished and ended == 0:
            ended = 1
        if ended > 0:
            raise InputError(
                f"{out / LOG}: NVFlare ended in round {server.round} (exit code {ended}), but expected all"
                f" {plan.rounds}; read there why, mend it, and repeat the command to go on."
            )
        if server.finished:
            shutil.rmtree(out / WORKSPACE, ignore_errors=True)
        return end(server, quiet)


def _run(job: Any, out: Path, names: list[str], server: Server, display: RoundDisplay) -> int:
    """Run the simulator and show the rounds as they are written; below 0 it was ended by a signal."""
    folder, shown = RunFolder(out), server.round
    with tempfile.TemporaryDirectory() as temporary, (out / LOG).open("ab") as log:
        job.export_job(temporary)
        workspace = out.resolve() / WORKSPACE
        _allow(workspace)
        command = [
            sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(Path(temporary) / JOB),
            "-w", str(workspace), "-c", ",".join(names), "-t", str(len(names)),
        ]  # fmt: skip
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        with _ended_with_us(process):
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_S)
                rounds = [one for one in folder.read_metrics() if "sites" in one] if folder.metrics.exists() else []
                for record in rounds:
                    if record["round"] >= shown:
                        display.ended(record)
                        shown = record["round"] + 1
                if process.returncode is not None:
                    return process.returncode


@contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the simulator and its clients, a process group of their own, when this process is asked to stop."""
    import signal

    try:
        yield
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise


def _allow(workspace: Path) -> None:
    """Let the simulator build this package's parts, as the administrator of a real machine would."""
    from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST

    local = workspace / "local"
    local.mkdir(parents=True, exist_ok=True)
    policy = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, ALLOWED]}
    (local / "resources.json").write_text(json.dumps(policy), encoding="utf-8")

"""A federation in one process: the reference that an engine must equal, and what a simulation is by default."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowsam.errors import InputError
from knowsam.federation.messages import Message
from knowsam.federation.plan import SITES, Plan, check_folders
from knowsam.federation.server import Server
from knowsam.federation.site import Site
from knowsam.presentation.console import make_bar, make_console
from knowsam.presentation.text import count_text, dice_text
from knowsam.runs.folder import RunFolder
from knowsam.runs.lock import folder_lock
from knowsam.training.interrupt import stop_on_signal
from knowsam.training.memory import keep_freed_memory


@dataclass(frozen=True)
class Federation:
    """What a federation leaves.

    Attributes:
        folder: Its files; those of the sites are in `sites/NAME`.
        rounds: Rounds done.
        finished: False if it was interrupted and saved.
        best: Mean Dice over the sites of the global network that was kept, in [0, 1]; None without validation cases.
    """

    folder: RunFolder
    rounds: int
    finished: bool
    best: float | None


class RoundDisplay:
    """A bar over rounds with the time that is left, and a line for each where there is no terminal.

    Args:
        quiet: Print nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self.console = make_console(quiet=quiet)
        self.bar = make_bar(self.console, "round", "count", "bar", "elapsed", "left", "remaining")
        self.task: Any = None

    def begin(self, server: Server) -> None:
        """Show how far it is."""
        self.task = self.bar.add_task("round", total=server.plan.rounds + 1, completed=server.round)

    def ended(self, record: dict[str, Any]) -> None:
        """Show what a round has measured."""
        parts = [
            f"{name} {dice_text(one['global'])}" for name, one in record["sites"].items() if one["global"] is not None
        ]
        self.bar.update(self.task, advance=1)
        said = f", Dice of the global network: {', '.join(parts)}" if parts else ""
        self.console.print(f"round {record['round']}{said}", markup=False)


ENGINES = ("loop", "nvflare")


def start_federation(plan: Plan, out: Path, engine: str, job: Path | None, quiet: bool) -> Federation | None:
    """Look into every folder, then train a federation, or write a job of NVFlare for one.

    Args:
        plan: What to do.
        out: Its folder.
        engine: One of `ENGINES`.
        job: Folder for the job; None trains here.
        quiet: No progress bar, no text.

    Returns:
        None for a job.

    Raises:
        InputError: For bad data, an occupied folder or a missing package; nothing was written then.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine: '{engine}' was found, but expected {' or '.join(ENGINES)}; correct it.")
    if job is None and engine == "loop":
        check_folders(plan)
        return federate(plan, out, quiet)
    from knowsam.federation.nvflare import require_nvflare, simulate, write_job

    require_nvflare()
    if job is not None:
        write_job(plan, out, job)
        return None
    check_folders(plan)
    return simulate(plan, out, quiet)


def federate(plan: Plan, out: Path, quiet: bool = False) -> Federation:
    """Train a federation, or go on with one, one site after the other.

    Args:
        plan: What to do.
        out: New or empty, or the folder of the same federation.
        quiet: No progress bar, no text.

    Raises:
        InputError: For bad data or an occupied folder.
    """
    server = Server(plan, out, quiet)
    server.check_folder()
    with folder_lock(out), keep_freed_memory():
        start = server.start()
        if start is None:
            return Federation(server.folder, 0, False, None)
        display = RoundDisplay(quiet)
        sites = [Site(plan, site.name, start, out / SITES / site.name) for site in plan.sites]
        with stop_on_signal() as asked_to_stop, display.bar:
            display.begin(server)
            while not server.finished and do_round(server, sites, start, display, asked_to_stop):
                pass
        return end(server, quiet)


def do_round(
    server: Server, sites: list[Site], start: Message, display: RoundDisplay, asked_to_stop: Callable[[], bool]
) -> bool:
    """One round of all sites; False if a signal asked to stop before its end, and it will be repeated."""
    message = server.message()
    once = start.size if server.round == 0 else 0
    answers: dict[str, Message] = {}
    for site in sites:
        answers[site.site.name] = site.round(message)
        if asked_to_stop():
            return False
    display.ended(server.collect(answers, dict.fromkeys(answers, message.size + once)))
    return True


def end(server: Server, quiet: bool) -> Federation:
    """Write the report of a finished federation, and say where everything is."""
    done = Federation(server.folder, min(server.round, server.plan.rounds), server.finished, server.best)
    if done.finished:
        from knowsam.federation.report import write_federation_report

        write_federation_report(server.folder.path)
    if not quiet:
        console, path = make_console(), shlex.quote(str(server.folder.path))
        if done.finished:
            score = "" if done.best is None else f", mean Dice at the sites {dice_text(done.best)}"
            console.print(f"done: {count_text(done.rounds, 'round')}{score}", markup=False)
            console.print(f"report:  {server.folder.report}", markup=False)
            console.print(f"use it:  knowsam predict {path} IMAGES --out DIR", markup=False)
        else:
            print(f"stopped in round {server.round}; repeat the command to go on", file=sys.stderr)
    return done

"""The page about a federation: Dice by site and round, and what was sent. It holds no image: those are at the sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from knowsam.errors import InputError
from knowsam.federation.plan import PLAN_FILE, SITES, Plan
from knowsam.presentation import html
from knowsam.reporting.figures import rounds_figure
from knowsam.runs.folder import RunFolder
from knowsam.storage import read_json, require_writable_file, write_text


def is_federation(run: str | Path) -> bool:
    """Whether a folder is that of a federation."""
    return (Path(run) / PLAN_FILE).is_file()


def write_federation_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page about a federation, finished or not.

    Args:
        run: Its folder.
        out: The file to write, by default `report.html` in the folder.

    Raises:
        InputError: If there is no federation, or it has measured nothing yet.
    """
    folder = RunFolder(Path(run))
    path = folder.report if out is None else Path(out)
    require_writable_file(path, "report.html")
    plan = Plan.from_json(read_json(folder.path / PLAN_FILE, "restore it"))
    rounds = [one for one in folder.read_metrics() if "sites" in one] if folder.metrics.exists() else []
    if not rounds:
        raise InputError(f"{folder.path}: no round was found, but expected at least one; wait for the first one's end.")
    names = [site.name for site in plan.sites]
    page = html.render(
        "federation/report.html.j2",
        name=folder.path.resolve().name,
        plan=plan,
        config=folder.read_config(),
        rounds=rounds,
        names=names,
        figure=rounds_figure({name: points(rounds, name, "global") for name in names}),
        sums={name: sums(rounds, name, plan.rounds) for name in names},
        pages={name: f"{SITES}/{name}/report.html" for name in names if _page(folder, name).exists()},
        best=max((one for one in rounds if one["dice"] is not None), key=lambda one: one["dice"], default=None),
    )
    write_text(path, page)
    return path


def points(rounds: list[dict[str, Any]], name: str, kind: str) -> list[tuple[int, float]]:
    """Round and Dice of one site, of the `global` network or its `own`, where it has measured it."""
    found = [(one["round"], one["sites"].get(name, {}).get(kind)) for one in rounds]
    return [(number, dice) for number, dice in found if dice is not None]


def sums(rounds: list[dict[str, Any]], name: str, planned: int) -> dict[str, float]:
    """Bytes that a site has sent and received, in MB, its seconds, and the rounds that it trained in.

    Args:
        rounds: The lines of a federation.
        name: Of the site.
        planned: Number of rounds; after them the network is scored once more.
    """
    here = [one["sites"][name] for one in rounds if name in one["sites"]]
    trained = sum(name in one["sites"] and one["round"] < planned for one in rounds)
    total = {key: float(sum(one[key] for one in here)) for key in ("sent", "received", "seconds")}
    size = {"images": here[-1]["images"], "cases": here[-1]["cases"]} if here else {"images": 0, "cases": 0}
    return {"sent": total["sent"] / 1e6, "received": total["received"] / 1e6, "seconds": total["seconds"],
            "rounds": trained, **size}  # fmt: skip


def _page(folder: RunFolder, name: str) -> Path:
    return folder.path / SITES / name / "report.html"

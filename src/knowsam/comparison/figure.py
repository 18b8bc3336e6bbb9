"""The figure of a comparison: a point per seed, without and with SAM side by side."""

from __future__ import annotations

import io
from pathlib import Path

from knowsam.comparison.grid import short_name
from knowsam.comparison.results import MEAN, Results, Row
from knowsam.comparison.tables import spread_text
from knowsam.presentation.pictures import CLASS_COLOURS, css_colour
from knowsam.storage import whole_file

WITHOUT_SAM = "#555555"
MARKERS = ("o", "D", "s", "^", "v", "P", "X")
LINE_HEIGHT, PANEL_WIDTH, MARGIN = 0.24, 4.2, 1.15
"""In inches: the height of one method with one SAM, the width of a panel, the height of title and axis."""
DPI = 200
METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}


def draw_figure(results: Results, folder: Path) -> str:
    """Write `figure.png` and `figure.pdf`: Dice of every seed, a panel per labelled subset, a bar at each mean.

    Args:
        results: The comparison.
        folder: Where to write.

    Returns:
        The alternative text; empty where there is nothing to draw yet, and then no file is written.
    """
    rows = [row for row in results.rows if row.by_seed["dice"]]
    if not rows:
        return ""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    subsets = list(dict.fromkeys(row.labelled for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    teachers = sorted(dict.fromkeys(row.sam for row in rows), key=lambda sam: sam != "none")
    height = MARGIN + LINE_HEIGHT * len(methods) * (len(teachers) + 1)
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}):
        figure = Figure(figsize=(1.4 + PANEL_WIDTH * len(subsets), height), layout="constrained")
        panels = figure.subplots(1, len(subsets), sharex=True, sharey=True, squeeze=False)[0]
        for axes, subset in zip(panels, subsets, strict=True):
            for row in rows:
                if row.labelled == subset:
                    place = methods.index(row.method) * (len(teachers) + 1) + teachers.index(row.sam)
                    values = list(row.by_seed["dice"].values())
                    axes.scatter(
                        values,
                        [place] * len(values),
                        s=26,
                        marker=MARKERS[teachers.index(row.sam) % len(MARKERS)],
                        color=_colour(row.sam, teachers),
                        alpha=0.8,
                        linewidths=0,
                        zorder=3,
                    )
                    if len(values) > 1:
                        mean = row.scores["dice"][MEAN].mean
                        axes.plot([mean] * 2, [place - 0.38, place + 0.38], color="black", linewidth=1.4, zorder=4)
            axes.set_title(f"labelled: {short_name(subset)}", fontsize=9)
            axes.set_xlabel(f"Dice ({'test' if results.part == 'test' else 'validation: flattering'})")
            axes.grid(axis="x", color="0.9", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
        middle = (len(teachers) - 1) / 2
        labels = method_labels(rows)
        panels[0].set_yticks([number * (len(teachers) + 1) + middle for number in range(len(labels))], labels)
        panels[0].set_ylim(len(methods) * (len(teachers) + 1) - 1.4, -0.6)
        handles = [
            Line2D(
                [],
                [],
                linestyle="",
                marker=MARKERS[number % len(MARKERS)],
                color=_colour(sam, teachers),
                label="without SAM" if sam == "none" else f"with SAM {short_name(sam)}",
            )
            for number, sam in enumerate(teachers)
        ]
        if any(len(row.done) > 1 for row in rows):
            handles.append(
                Line2D([], [], linestyle="", marker="|", markersize=10, color="black", label="mean over seeds")
            )
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=8)
        for suffix in ("png", "pdf"):
            # Drawn in memory: where the disk is full, matplotlib tells of a fault of its own instead.
            drawn = io.BytesIO()
            figure.savefig(drawn, format=suffix, dpi=DPI, metadata=METADATA[suffix])
            with whole_file(folder / f"figure.{suffix}") as path:
                path.write_bytes(drawn.getvalue())
    return alternative_text(results, rows)


def method_labels(rows: list[Row]) -> list[str]:
    """The names beside the methods' lines, in order; of a file the last part, and how many masks were ranked by."""
    ranked = {row.method: row.ranked_text for row in rows}
    return [short_name(method) + text for method, text in ranked.items()]


def _colour(sam: str, teachers: list[str]) -> str:
    """Grey without SAM, so that colour stands for SAM."""
    if sam == "none":
        return WITHOUT_SAM
    others = [teacher for teacher in teachers if teacher != "none"]
    # Blue first: of the palette it stands out best from grey for every reader.
    order = (4, 5, 2, 6, 0, 1)
    return css_colour(CLASS_COLOURS[order[others.index(sam) % len(order)]])


def alternative_text(results: Results, rows: list[Row]) -> str:
    """The figure in words."""
    said = []
    for row in rows:
        sam = "" if row.sam == "none" else f" with SAM {short_name(row.sam)}"
        mean = spread_text(row.scores["dice"][MEAN], "dice")
        said.append(f"{short_name(row.method)}{sam}, labelled {short_name(row.labelled)}{row.ranked_text}: {mean}")
    return f"Dice of every seed as a point, {results.part} cases. Means: {'; '.join(said)}."

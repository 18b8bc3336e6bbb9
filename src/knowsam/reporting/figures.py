"""Curves and spreads as SVG that is part of the page: its text is text, its colours are the page's own.

matplotlib draws in placeholder colours which become CSS variables, so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from knowsam.presentation.pictures import class_colour
from knowsam.presentation.text import count_text, dice_text
from knowsam.reporting.baseline import Baseline
from knowsam.reporting.terms import prediction_name, term_name
from knowsam.runs.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder -> variable of style.css.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707")
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
LINE_STYLES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

POINTS = 160
"""Points drawn of one curve; longer logs are averaged over equal parts."""
DOTS = 150
"""Cases drawn one by one in a row of the spread; of more, so many quantiles."""
FONT_SIZE = 10
LONGEST_NAME = 24
CHARACTER = 0.1
"""Room for one in inches."""
# Inches of 72 px. Small enough to stay readable when a phone shows one figure per row.
SMALL, WIDE = (3.9, 1.9), (5.0, 3.0)


@dataclass(frozen=True)
class Drawing:
    """An SVG to put into the page, its caption and its alternative text."""

    svg: str
    caption: str
    alt: str
    note: str = ""


@contextmanager
def _drawing(size: tuple[float, float]) -> Iterator[Figure]:
    """A transparent figure whose text stays text; no global state of matplotlib is left changed."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "knowsam", "font.size": FONT_SIZE, "font.family": "sans-serif",
        "text.color": INK, "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "xtick.color": LINE, "ytick.color": LINE,
        "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.facecolor": "none", "axes.spines.top": False,
        "axes.spines.right": False, "grid.color": LINE, "grid.linewidth": 0.6, "text.parse_math": False,
        "axes.grid.axis": "y", "axes.grid": True, "axes.axisbelow": True,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        yield figure


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element in the page's colours, with ids no other figure has."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', lambda found: f"{found[1]}{name}-", svg)
    # Within HTML neither is needed, and a page that names no address asks for none.
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    # The page gives the width; the height follows from the view box.
    root, _, rest = svg.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', root)
    assert view_box is not None  # matplotlib always gives one
    return f"<svg {view_box[0]}>{rest.strip()}"


def thin(points: Sequence[tuple[int, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` points: each the mean step and value of one of so many equal parts of the log."""
    if len(points) <= most:
        return [(float(step), value) for step, value in points]
    parts = np.array_split(np.asarray(points, float), most)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def smooth(values: Sequence[float]) -> list[float]:
    """Centred running mean over about a tenth of the curve, narrower at both ends."""
    half = max(1, len(values) // 20)
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(len(values)) - half)
    last = np.minimum(len(values), np.arange(len(values)) + half + 1)
    return [float(value) for value in (total[last] - total[first]) / (last - first)]


def term_figures(run: RunRecord) -> list[Drawing]:
    """One small drawing per loss term, the total first."""
    return [_term_figure(run, number, name, points) for number, (name, points) in enumerate(run.terms.items())]


def _term_figure(run: RunRecord, number: int, name: str, points: list[tuple[int, float]]) -> Drawing:
    drawn = thin(points)
    steps, values = [step for step, _ in drawn], [value for _, value in drawn]
    with _drawing(SMALL) as figure:
        axes = figure.add_axes((0.12, 0.14, 0.85, 0.8))
        # A term that exists for a moment only still needs to be seen.
        axes.plot(steps, values, color=SERIES[0], linewidth=0.8, alpha=0.4, marker="." if len(steps) < 3 else "")
        axes.plot(steps, smooth(values), color=SERIES[0], linewidth=2)
        if min(values) >= 0:
            axes.set_ylim(0, max(values) * 1.05 or 1)
        axes.set_xlim(0, run.steps)
        _mark_pretraining(axes, run)
        _few_ticks(axes)
        svg = to_svg(figure, f"term-{number}")
    lowest = min(points, key=lambda point: point[1])
    title = term_name(run.config.method, name)
    alt = (
        f"Curve of {title} over {count_text(run.steps, 'step')}: {points[0][1]:.3g} at step {points[0][0]},"
        f" lowest {lowest[1]:.3g} at step {lowest[0]}, {points[-1][1]:.3g} at step {points[-1][0]}."
    )
    return Drawing(svg, title, alt, "" if title == name else name)


def _few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(length=0)


def _mark_pretraining(axes: Axes, run: RunRecord) -> None:
    """A vertical line where the unlabelled images joined."""
    if run.joined_within:
        axes.axvline(run.pretrain_end, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))


def validation_figure(run: RunRecord, baseline: Baseline | None) -> Drawing | None:
    """Validation Dice of every prediction on one axis, named at the end of its line; None without validation."""
    best = run.best
    if best is None:
        return None
    names, words = list(best.dice), partial(prediction_name, run.config.method)
    curves = {name: [(one.step, one.dice[name]) for one in run.validations if name in one.dice] for name in names}
    with _drawing(WIDE) as figure:
        axes = figure.add_axes((0.08, 0.14, 0.69, 0.83))
        colours = _plot(axes, curves.values())
        ends = {f"{words(name)} {points[-1][1]:.3f}": points[-1][1] for name, points in curves.items()}
        values = [value for points in curves.values() for _, value in points]
        if baseline is not None and baseline.comparable:
            axes.axhline(baseline.score.score, color=INK, linewidth=1, linestyle=(0, (1, 2)))
            ends[f"baseline {baseline.score.score:.3f}"] = baseline.score.score
            colours.append(INK)
            values.append(baseline.score.score)
        _fit_dice(axes, values)
        axes.set_xlim(0, run.steps * 1.01)
        _mark_pretraining(axes, run)
        _label_ends(axes, ends, colours)
        axes.set_xlabel("step")
        _few_ticks(axes)
        svg = to_svg(figure, "validation")
    last = ", ".join(f"{words(name)} {points[-1][1]:.3f}" for name, points in curves.items())
    beside = "" if baseline is None or not baseline.comparable else f"; baseline {baseline.score.score:.3f}"
    alt = (
        f"Validation Dice over {count_text(run.steps, 'step')}. At the end: {last}{beside}. Best {words(best.used)}"
        f" {best.score:.3f} at step {best.step}."
    )
    caption = "Validation Dice, mean over volumes and foreground classes"
    if run.joined_within:
        caption += f"; dotted vertical line: step {run.pretrain_end}, where the unlabelled images join"
    return Drawing(svg, caption + ".", alt)


def rounds_figure(curves: dict[str, list[tuple[int, float]]]) -> Drawing | None:
    """Dice over the rounds of a federation, a line for each site; None where nothing was measured.

    Args:
        curves: Site -> round and Dice.
    """
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    ends = {f"{name} {points[-1][1]:.3f}": points[-1][1] for name, points in curves.items()}
    width = 4.0 + CHARACTER * max(map(len, ends))
    with _drawing((width, WIDE[1])) as figure:
        axes = figure.add_axes((0.4 / width, 0.14, 3.45 / width, 0.83))
        colours = _plot(axes, curves.values())
        _fit_dice(axes, [value for points in curves.values() for _, value in points])
        _label_ends(axes, ends, colours)
        axes.set_xlabel("round")
        _few_ticks(axes)
        svg = to_svg(figure, "rounds")
    last = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in curves.items())
    caption = "Dice of the global network on the validation cases of each site"
    return Drawing(svg, caption + ".", f"{caption} over the rounds. At the end: {last}.")


def _plot(axes: Axes, curves: Iterable[Sequence[tuple[int, float]]]) -> list[str]:
    """Draw lines, the first one thickest, and return their colours."""
    colours = []
    for number, points in enumerate(curves):
        colours.append(SERIES[number % len(SERIES)])
        axes.plot(
            *zip(*points, strict=True), color=colours[-1],
            linestyle=LINE_STYLES[number % len(LINE_STYLES)], linewidth=2.2 if number == 0 else 1.5,
            marker="o" if len(points) < 12 else "", markersize=3.5, zorder=4 - min(number, 3),
        )  # fmt: skip
    return colours


def _fit_dice(axes: Axes, values: Sequence[float]) -> None:
    room = 0.06 * (max(values) - min(values)) or 0.02
    axes.set_ylim(max(0, min(values) - room), min(1, max(values) + room) + 1e-6)


def _label_ends(axes: Axes, ends: dict[str, float], colours: Sequence[str]) -> None:
    """Names at the right of the lines, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    # In points: the height of the axes, and of a line of text.
    height = WIDE[1] * 72 * 0.83
    gap = (FONT_SIZE + 3) / height * (high - low)
    order = sorted(zip(ends, ends.values(), colours, strict=True), key=lambda end: end[1])
    places = spread_apart([value for _, value, _ in order], gap, low, high)
    for (text, _, colour), place in zip(order, places, strict=True):
        axes.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=colour, annotation_clip=False,
        )  # fmt: skip


def spread_apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places near ascending values, at least `gap` apart, within the range as far as there is room."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + gap) if places else max(value, low))
    ceiling = high
    for number in range(len(places) - 1, -1, -1):
        places[number] = min(places[number], ceiling)
        ceiling = places[number] - gap
    return places


def spread_figure(class_names: Sequence[str], dice: np.ndarray) -> Drawing:
    """Dice of every case, one row of dots per foreground class, with the median.

    Args:
        class_names: Names of classes 1..K-1.
        dice: `(cases, K - 1)`.
    """
    rows = len(class_names)
    height = 0.55 + 0.5 * rows
    shown_names = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in class_names]
    left = 0.03 + 0.0165 * max(len(name) for name in shown_names)
    with _drawing((WIDE[0], height)) as figure:
        axes = figure.add_axes((left, 0.5 / height, 0.98 - left, 0.5 * rows / height))
        for row, values in enumerate(dice.T):
            shown = np.sort(values) if len(values) <= DOTS else np.quantile(values, np.linspace(0, 1, DOTS))
            # A fixed pattern of heights keeps equal values apart.
            jitter = 0.1 * ((np.arange(len(shown)) * 3) % 5 - 2)
            colour = [part / 255 for part in class_colour(row + 1)]
            axes.scatter(shown, row + jitter, s=18, color=colour, edgecolors=INK, linewidths=0.6, zorder=3)
            axes.plot([np.median(values)] * 2, [row - 0.38, row + 0.38], color=INK, linewidth=1.8, zorder=4)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_yticks(range(rows), shown_names, color=INK)
        axes.yaxis.grid(False)
        axes.xaxis.grid(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("Dice")
        svg = to_svg(figure, "spread")
    medians = ", ".join(
        f"{name} {dice_text(float(median))}" for name, median in zip(class_names, np.median(dice, axis=0), strict=True)
    )
    what = "Every case as a dot" if len(dice) <= DOTS else f"{DOTS} quantiles of the cases as dots"
    return Drawing(
        svg,
        f"{what}; the bar is the median.",
        f"Dice of {count_text(len(dice), 'case')} in {count_text(rows, 'row')}. Medians: {medians}.",
    )

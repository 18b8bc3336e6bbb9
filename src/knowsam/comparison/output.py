"""The output of a comparison: `table.csv`, `.json`, `.md`, `.tex`, the figure, and the tables on the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsam.comparison.figure import draw_figure
from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.results import MEAN, SHOWN_METRICS, Results, Row, read_results
from knowsam.comparison.tables import TextTable, all_tables, footnotes
from knowsam.presentation import markdown
from knowsam.presentation.console import make_console, make_table
from knowsam.storage import write_csv, write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--",
}  # fmt: skip
LATEX_CHARACTER = re.compile("|".join(re.escape(character) for character in LATEX))


def write_tables(results: Results) -> None:
    """Write all files into the folder of the comparison, each whole or not at all; nothing before a run is done."""
    if not any(row.done for row in results.rows):
        return
    folder = results.folder.path
    write_json(folder / "table.json", results.to_json())
    _write_csv(results)
    alt = draw_figure(results, folder)
    write_text(folder / "table.md", to_markdown(all_tables(results), footnotes(results), alt))
    write_text(folder / "table.tex", to_latex(all_tables(results), footnotes(results)))


def rewrite_tables(folder: str | Path) -> Results:
    """Write the tables of a comparison anew from what its folder holds; nothing is trained.

    Raises:
        InputError: If there is no comparison.
    """
    results = read_results(CompareFolder(folder))
    write_tables(results)
    return results


def _write_csv(results: Results) -> None:
    """One line per row of the table, plain numbers, an empty field for undefined."""
    records = [_record(row, results.class_names) for row in results.rows]
    columns = list(dict.fromkeys(key for record in records for key in record))
    write_csv(results.folder.path / "table.csv", columns, records)


def _record(row: Row, class_names: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "method": row.method,
        "sam": row.sam,
        "labelled": row.labelled,
        "seeds": len(row.seeds),
        "done": len(row.done),
    }
    for metric in SHOWN_METRICS:
        for name in (MEAN, *class_names):
            value = row.scores[metric].get(name)
            change = row.difference.get(metric, {}).get(name)
            record |= {
                f"{metric}_{name}": value and value.mean,
                f"{metric}_{name}_sd": value and value.sd,
                f"{metric}_{name}_sam_difference": change and change.mean,
                f"{metric}_{name}_sam_difference_low": change and change.low,
                f"{metric}_{name}_sam_difference_high": change and change.high,
            }
    record |= {"hd95_undefined": row.undefined, "hd95_scored": row.scored}
    for name in ("validation_dice", "sam_best", "sam_last", "seconds"):
        record[name] = getattr(row, name).mean
    record |= {"peak_mb": row.peak_mb, "gpu_peak_mb": row.gpu_peak_mb, "network": row.network}
    record |= {"parameters": row.parameters, "masks_judged": row.masks_judged}
    return {key: _field(value) for key, value in record.items()}


def _field(value: Any) -> Any:
    if not isinstance(value, float):
        return "" if value is None else value
    return "" if math.isnan(value) else f"{value:.6g}"


def to_markdown(tables: Sequence[TextTable], notes: Sequence[str], alt: str = "") -> str:
    """The tables, the notes as a list, and the figure if there is one.

    Args:
        tables: What to write.
        notes: One sentence or more each.
        alt: The figure's alternative text, empty for no figure.
    """
    parts = []
    for table in tables:
        numbers = range(table.left, len(table.headings))
        parts.append(f"**{markdown.plain(table.title)}**\n\n{markdown.table(table.headings, table.rows, numbers)}")
    parts.append("\n".join(f"- {markdown.plain(note)}" for note in notes) + "\n")
    if alt:
        parts.append(f"![{markdown.plain(alt)}](figure.png)\n")
    return "\n".join(parts)


def to_latex(tables: Sequence[TextTable], notes: Sequence[str]) -> str:
    """The tables for a paper; needs the package `booktabs`."""
    parts = ["% \\usepackage{booktabs}"]
    for table in tables:
        columns = "l" * table.left + "r" * (len(table.headings) - table.left)
        lines = [" & ".join(escape_latex(cell) for cell in line) + r" \\" for line in (table.headings, *table.rows)]
        head, *body = lines
        opening = [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(table.title)}}}"]
        rows = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        parts.append("\n".join([*opening, *rows, r"\end{tabular}", r"\end{table}"]))
    parts.append("{\\footnotesize\n" + "\n\n".join(escape_latex(note) for note in notes) + "\n}")
    return "\n\n".join(parts) + "\n"


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it, special characters escaped."""
    return LATEX_CHARACTER.sub(lambda found: LATEX[found[0]], text)


def print_tables(results: Results, console: Console | None = None) -> None:
    """Print the tables and notes.

    Args:
        results: The comparison.
        console: Where to print; None for the terminal.
    """
    console = console or make_console()
    if not any(row.done for row in results.rows):
        console.print(f"no run of {results.folder.path} is done yet, so there is no table", markup=False)
        return
    for text in all_tables(results):
        console.print(make_table(text.headings, text.rows, text.title, names=range(text.left)))
    for note in footnotes(results):
        console.print(f"- {note}", markup=False, highlight=False)
    console.print(f"written: {results.folder.path}: table.md, .tex, .csv, .json, figure.png, .pdf", soft_wrap=True)

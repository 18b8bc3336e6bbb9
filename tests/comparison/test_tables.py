# ruff: noqa: RUF001 - the minus and dash that readers see
from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from knowsam.comparison.figure import method_labels
from knowsam.comparison.folder import CompareFolder
from knowsam.comparison.grid import Cell
from knowsam.comparison.output import escape_latex, print_tables, to_markdown, write_tables
from knowsam.comparison.results import MEAN, read_results
from knowsam.comparison.tables import TextTable, all_tables, footnotes
from knowsam.errors import InputError
from support.comparisons import NAN, prepared_comparison, write_cell

CELLS = {
    Cell("supervised", "none", "7", 0): {"a": [(0.6, 4.0), (0.8, 2.0)], "b": [(0.4, 6.0), (0.6, 4.0)]},
    Cell("supervised", "none", "7", 1): {"a": [(0.8, 4.0), (0.8, 2.0)], "b": [(0.6, 6.0), (0.6, 4.0)]},
    Cell("supervised", "tiny", "7", 0): {"a": [(0.7, 4.0), (0.9, 2.0)], "b": [(0.5, 6.0), (0.7, 4.0)]},
    Cell("supervised", "tiny", "7", 1): {"a": [(0.8, 3.0), (0.8, 1.0)], "b": [(0.0, NAN), (0.6, 4.0)]},
}


@pytest.fixture
def folder(tmp_path: Path) -> CompareFolder:
    return prepared_comparison(tmp_path, CELLS, ["wall", "pool"])


def test_tables_equal_those_written_by_hand(folder: CompareFolder) -> None:
    written = to_markdown(all_tables(read_results(folder)), ["A note."])
    # Without SAM: wall .5 and .7, pool .7 and .7, mean .6 and .7; SD of two values is their distance / sqrt(2).
    # With: wall .6 and .4, pool .8 and .7, mean .7 and .55. Difference: a (.1 + 0) / 2, b (.1 - .3) / 2.
    # HD95 with SAM: wall 5 and 3 (b undefined), pool 3 and 2.5; difference: a (0 - 1) / 2, b 0 of seed 0 alone.
    assert (
        written
        == """\
**Dice, mean ± SD over seeds**

| method | SAM | labelled | seeds | mean | wall | pool | SAM's difference [95%] |
| :-- | :-- | :-- | --: | --: | --: | --: | --: |
| supervised | – | 7 | 2 | 0.650 ± 0.071 | 0.600 ± 0.141 | 0.700 ± 0.000 | – |
| supervised | tiny | 7 | 2 | 0.625 ± 0.106 | 0.500 ± 0.141 | 0.750 ± 0.071 | −0.025 [−0.100, +0.050] |

**HD95 [px], mean ± SD over seeds**

| method | SAM | labelled | seeds | mean | wall | pool | undefined | SAM's difference [95%] |
| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: |
| supervised | – | 7 | 2 | 4.00 ± 0.00 | 5.00 ± 0.00 | 3.00 ± 0.00 | 0 of 8 | – |
| supervised | tiny | 7 | 2 | 3.38 ± 0.88 | 4.00 ± 1.41 | 2.75 ± 0.35 | 1 of 8 | −0.25 [−0.50, 0.00] |

**Validation Dice of the network kept, SAM's own validation Dice, and the cost of one run**

| method | SAM | labelled | validation Dice | SAM's own: best | last | network | time | memory |
| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: |
| supervised | – | 7 | 0.800 ± 0.000 | – | – | unet, 1.90 M | 2 min | 1.5 GB |
| supervised | tiny | 7 | 0.800 ± 0.000 | 0.750 ± 0.000 | 0.700 ± 0.000 | unet, 1.90 M | 2 min | 1.5 GB |

- A note.
"""
    )


def test_footnotes_say_what_the_numbers_are(folder: CompareFolder) -> None:
    notes = "\n".join(footnotes(read_results(folder)))
    assert "Test numbers: 2 cases of test.txt, scored once" in notes
    assert "Left out because an HD95 is undefined: 1 pair." in notes
    assert "600 steps of 4+4 images at 96x96" in notes
    assert "supervised: its labelled images fill the unlabelled half of every batch too." in notes
    assert "incomplete" not in notes.lower()
    assert "One seed" not in notes


def test_validation_numbers_are_called_so(tmp_path: Path) -> None:
    cell = Cell("supervised", "none", "7", 0)
    folder = prepared_comparison(tmp_path, {cell: {"a": [(0.6, 4.0)]}}, ["wall"])
    write_cell(folder.cell(cell), {"a": [(0.6, 4.0)]}, ["wall"], part="validation")
    notes = footnotes(read_results(folder))
    assert notes[0].startswith("VALIDATION NUMBERS, no test numbers")
    assert "drawn anew" not in notes[0]
    assert any(note.startswith("One seed: no standard deviation") for note in notes)
    written = to_markdown(all_tables(read_results(folder)), notes)
    assert "| supervised | – | 7 | 1 | 0.600 | 0.600 | – |" in written


def test_validation_cases_that_the_seed_draws_are_mentioned(tmp_path: Path) -> None:
    cells = [Cell("supervised", "none", "7", seed) for seed in (0, 1)]
    folder = prepared_comparison(tmp_path, {cell: {f"c{cell.seed}": [(0.6, 4.0)]} for cell in cells}, ["wall"])
    for cell in cells:
        write_cell(folder.cell(cell), {f"c{cell.seed}": [(0.6, 4.0)]}, ["wall"], part="validation")
    assert "They are drawn anew for each seed." in footnotes(read_results(folder))[0]


def test_incomplete_rows_are_marked_and_failures_told(folder: CompareFolder) -> None:
    from knowsam.comparison.outcome import Outcome

    Outcome("failed", "no memory.").write(folder.cell(Cell("supervised", "tiny", "7", 1)))
    (folder.cell(Cell("supervised", "tiny", "7", 0)) / "outcome.json").unlink()
    results = read_results(folder)
    written = to_markdown(all_tables(results), footnotes(results))
    assert "| supervised | tiny | 7 | 0 of 2, incomplete | – | – | – | – |" in written
    assert "Incomplete: 2 of 4 runs are not done" in written
    assert "supervised_sam-tiny_labelled-7_seed-1 failed: no memory." in written
    assert [cell.seed for cell in results.missing] == [0]


def test_a_class_that_is_never_found_makes_the_distance_undefined_not_better(tmp_path: Path) -> None:
    cell = Cell("supervised", "none", "7", 0)
    folder = prepared_comparison(tmp_path, {cell: {"a": [(0.6, 4.0), (0.0, NAN)]}}, ["wall", "pool"])
    written = to_markdown([all_tables(read_results(folder))[1]], [])
    assert "| supervised | – | 7 | 1 | undefined | 4.00 | undefined | 1 of 2 | – |" in written


def test_interval_draws_the_cases_of_a_patient_together(tmp_path: Path) -> None:
    cells = {
        Cell("supervised", "none", "7", 0): {f"p{i}_{v}": [(0.5, 1.0)] for i in range(4) for v in "ab"},
        Cell("supervised", "tiny", "7", 0): {f"p{i}_{v}": [(0.5 + i / 10, 1.0)] for i in range(4) for v in "ab"},
    }
    folder = prepared_comparison(tmp_path, cells, ["wall"])
    alone = read_results(folder).rows[1].difference["dice"][MEAN]
    groups = {f"p{i}_{v}": f"p{i}" for i in range(4) for v in "ab"}
    for cell, values in cells.items():
        write_cell(folder.cell(cell), values, ["wall"], groups=groups)
    together = read_results(folder).rows[1].difference["dice"][MEAN]
    assert (alone.groups, together.groups) == (8, 4)
    assert together.mean == alone.mean == pytest.approx(0.15)
    assert together.high - together.low > 1.2 * (alone.high - alone.low)


def test_all_files_are_written_and_hold_the_numbers(folder: CompareFolder) -> None:
    write_tables(read_results(folder))
    rows = list(csv.DictReader((folder.path / "table.csv").open()))
    assert [row["sam"] for row in rows] == ["none", "tiny"]
    assert float(rows[1]["dice_mean"]) == pytest.approx(0.625)
    assert float(rows[1]["dice_mean_sam_difference"]) == pytest.approx(-0.025)
    assert rows[0]["dice_mean_sam_difference"] == rows[0]["sam_best"] == ""
    values = json.loads((folder.path / "table.json").read_text())
    assert values["scored_on"] == "test"
    assert values["rows"][1]["scores"]["hd95"]["wall"]["mean"] == 4.0
    assert values["rows"][1]["by_seed"]["dice"] == {"0": pytest.approx(0.7), "1": pytest.approx(0.55)}
    assert (folder.path / "figure.pdf").read_bytes().startswith(b"%PDF")
    picture = np.asarray(Image.open(folder.path / "figure.png").convert("RGB")).reshape(-1, 3)
    # Blue for what SAM adds, on a picture that is mostly white.
    assert ((picture[:, 2].astype(int) - picture[:, 0]) > 100).sum() > 100
    markdown = (folder.path / "table.md").read_text()
    assert re.search(r"!\[Dice of every seed as a point, test cases. Means: supervised, labelled 7: 0.650", markdown)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_a_disk_that_is_full_at_the_figure_is_an_error_of_the_disk(
    folder: CompareFolder, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full_at_one(path: Path) -> Iterator[Path]:
        yield Path("/dev/full") if path.suffix == suffix else path

    monkeypatch.setattr("knowsam.comparison.figure.whole_file", full_at_one)
    with pytest.raises(OSError, match="No space left"):
        write_tables(read_results(folder))


def test_masks_that_were_ranked_by_are_in_every_table(folder: CompareFolder, tmp_path: Path) -> None:
    for cell, values in CELLS.items():
        write_cell(folder.cell(cell), values, ["wall", "pool"], masks_judged=12 if cell.sam == "tiny" else 0)
    results = read_results(folder)
    assert method_labels(results.rows[:1]) == ["supervised"]
    assert method_labels([replace(results.rows[1], method="/far/away/own.py:Mine")]) == ["own.py:Mine + 12 ranked"]
    write_tables(results)
    rows = list(csv.DictReader((folder.path / "table.csv").open()))
    assert [row["masks_judged"] for row in rows] == ["0", "12"]
    for name in ("table.md", "table.tex"):
        text = (folder.path / name).read_text()
        assert len(re.findall(r"7 \+ 12 ranked *[|&]", text)) == 3
        assert "12 masks of unlabelled images read for ranking" in text


def test_latex_compiles_by_its_look(folder: CompareFolder) -> None:
    write_tables(read_results(folder))
    text = (folder.path / "table.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 3
    assert r"supervised & -- & 7 & 2 & 0.650 $\pm$ 0.071 & 0.600 $\pm$ 0.141 &" in text
    assert r"$-$0.025 [$-$0.100, +0.050] \\" in text
    body = text[text.index(r"\begin{table}") :]
    assert not re.search(r"(?<!\\)[%_#]", body)
    assert not re.search(r"[±−–]", body)
    for line in re.findall(r"^\w.*\\\\$", body, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)&", line)) in (7, 8)


def test_latex_characters_are_escaped() -> None:
    assert escape_latex("a_b & 5% {x} ~ ^ \\ $1 #2 <3 ±") == (
        r"a\_b \& 5\% \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$1 \#2 \textless{}3 $\pm$"
    )


def test_a_bar_in_a_name_does_not_break_the_markdown_table() -> None:
    assert "| a\\|b | 1 |" in to_markdown([TextTable("t", ("m", "n"), (("a|b", "1"),), 1)], [])


@pytest.mark.parametrize("width", [200, 80])
def test_a_narrow_screen_shows_every_column(folder: CompareFolder, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(read_results(folder), console)
    shown = Counter(console.export_text().split())
    for table in all_tables(read_results(folder)):
        wanted = Counter(word for line in (table.headings, *table.rows) for cell in line for word in cell.split())
        assert not wanted - shown


def test_cells_that_were_scored_on_different_images_are_not_put_into_one_table(folder: CompareFolder) -> None:
    cell, values = next(iter(CELLS.items()))
    write_cell(folder.cell(cell), values, ["wall", "pool"], part="validation")
    with pytest.raises(InputError, match=r"was scored with part validation and .* with test, but expected the same"):
        read_results(folder)


def test_broken_outcome_and_scores_are_told(folder: CompareFolder) -> None:
    cell = folder.cell(next(iter(CELLS)))
    (cell / "scores.csv").write_text("case,class\na,x\n")
    with pytest.raises(InputError, match=r"scores.csv: no scores could be read"):
        read_results(folder)
    (cell / "outcome.json").write_text("{")
    with pytest.raises(InputError, match=r"outcome.json: cannot be read"):
        read_results(folder)


def test_a_comparison_without_a_finished_run_has_no_table(tmp_path: Path) -> None:
    folder = prepared_comparison(tmp_path, {Cell("supervised", "none", "7", 0): {}}, ["wall"])
    results = read_results(folder)
    write_tables(results)
    assert not (tmp_path / "table.md").exists()
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(results, console)
    assert "is done yet, so there is no table" in console.export_text()

"""One style of tables and one protocol of progress."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console
from rich.markup import escape

from knowsam.presentation.console import (
    make_bar,
    make_console,
    make_table,
    print_note,
    progress_bar,
    say,
    start_progress,
)
from knowsam.presentation.console import printed as printed_text


def printed(width: int, *arguments: object, **options: object) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(make_table(*arguments, **options))  # type: ignore[arg-type]
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_table_aligns_names_left_and_numbers_right() -> None:
    lines = printed(80, ("class", "Dice"), [("liver", "0.9"), ("a", "0.25")], "Scores", total=("mean", "0.575"))
    assert lines[0] == "Scores"
    cells = [line for line in lines if line.strip() and "━" not in line][1:]
    assert cells == [" class    Dice", " liver     0.9", " a        0.25", " mean    0.575"]


def test_a_note_takes_nothing_for_markup() -> None:
    said = printed_text(lambda console: print_note(console, "data[red]/a[1].png is odd"))
    assert said == "note: data[red]/a[1].png is odd"


def test_table_takes_nothing_for_markup() -> None:
    text = "\n".join(printed(80, ("name", "HD95 [mm]"), [("[red]a[/red]", "1")], "of [b]x"))
    assert all(part in text for part in ("HD95 [mm]", "[red]a[/red]", "of [b]x"))


def test_narrow_table_folds_names_before_numbers() -> None:
    text = "\n".join(printed(30, ("name", "one", "two"), [("a_very_long_name_of_a_class", "0.123 ±0.1", "0.456")]))
    assert "0.123 ±0.1" in text
    assert "a_very_long_name_of_a_class" not in text


def test_table_without_headings_is_a_plain_list() -> None:
    assert printed(80, (), [("images", "7"), ("groups", "12")]) == ["images  7", "groups  12"]


def test_progress_bar_counts_items() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with progress_bar("reading", console) as progress:
        advance = progress(3)
        advance()
        advance()
        console.print("said meanwhile")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "reading" in shown
    assert "2/3" in shown


def test_bar_shows_the_fields_of_its_task() -> None:
    console = Console(file=io.StringIO(), width=80)
    with make_bar(console, "step", "count", "{task.fields[loss]}") as bar:
        bar.update(bar.add_task("", total=4, loss=""), completed=1, loss="0.5")
    assert "step 1/4 0.5" in console.file.getvalue()  # type: ignore[attr-defined]


def test_work_without_a_listener_reports_to_nobody() -> None:
    heard: list[int] = []
    start_progress(None, 3)()
    start_progress(lambda items: lambda: heard.append(items), 3)()
    assert heard == [3]


def test_console_leaves_paths_whole(capsys) -> None:
    path = "/data/" + "x" * 200
    make_console().print(path)
    make_console(stderr=True, quiet=True).print(path)
    assert capsys.readouterr() == (path + "\n", "")


def test_import_does_not_bring_rich() -> None:
    code = "import sys, knowsam.presentation.console; print('rich' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_text_of_a_record_leaves_commands_whole() -> None:
    command = "knowsam train " + "/data/folder " * 20 + "--out runs/a"
    assert printed_text(lambda console: console.print(command)) == command


def test_a_name_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;owned\x07\x9b2J\u202egnp.exe\r.png"
    say(f"{name}\nerror: forged")
    console = make_console()
    console.print(f"[red]{escape(name)}[/red]", soft_wrap=True)
    console.print(make_table((name,), [(name,)], title=name))
    console.print(make_table((), [("name", name)]))
    written = capsys.readouterr().out
    assert written.startswith("a\\x1b]0;owned\\x07\\x9b2J\\u202egnp.exe\\r.png\\nerror: forged\n")
    assert not set(written) & set("\x1b\x07\x9b\u202e\r")
    assert written.count("owned") == 6

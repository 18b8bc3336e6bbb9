"""The terminal: one style of tables, one kind of console and progress bar, one protocol of progress.

rich is imported when something is shown, not before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from knowsam.presentation.folding import Column, fit
from knowsam.presentation.heartbeat import Clock, Heartbeat, Pace
from knowsam.presentation.text import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table

BETWEEN_COLUMNS = 3
"""In characters."""

Advance = Callable[[], None]
"""Called after each item."""
ProgressStart = Callable[[int], Advance]
"""How long work reports its progress: called once with the number of items, it returns what to call after each."""


def escape_unprintable() -> None:
    """Let stdout and stderr escape what they cannot encode, a file name for instance, instead of ending the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line of plain text to stdout or another stream; what a terminal would obey is shown.

    Args:
        text: Sentences of this package, with names of files in them: their line ends are shown, too.
        file: None for stdout.
    """
    print(visible(text).replace("\n", "\\n"), file=file)


def start_progress(progress: ProgressStart | None, items: int) -> Advance:
    """What to call after each item; without a protocol a function that does nothing.

    Args:
        progress: What the caller gave.
        items: Number of items.
    """
    return _nothing if progress is None else progress(items)


def _nothing() -> None:
    pass


def make_console(stderr: bool = False, quiet: bool = False) -> Console:
    """A console that leaves numbers uncoloured and lines unbroken, so that paths and commands can be copied.

    Args:
        stderr: Write to stderr, where progress belongs whenever results go to stdout.
        quiet: Write nothing.
    """
    return _console_class()(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)


def print_note(console: Console, sentence: str) -> None:
    """Say one sentence that a person should know; brackets in it are brackets, no colours."""
    from rich.markup import escape

    console.print(f"[yellow]note:[/yellow] {escape(sentence)}")


@cache
def _console_class() -> type[Console]:
    from rich.console import Console

    class SafeConsole(Console):
        """Shows what a terminal would obey; its own colours come from markup."""

        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(visible(one) if isinstance(one, str) else one for one in objects), **options)

    return SafeConsole


def printed(print_to: Callable[[Console], None]) -> str:
    """What a function prints, as plain text: the `__str__` of a record.

    Args:
        print_to: Prints to the console it is given.
    """
    from io import StringIO

    written = StringIO()
    print_to(_console_class()(file=written, highlight=False, soft_wrap=True))
    return written.getvalue().strip("\n")


@dataclass(frozen=True)
class FittedTable:
    """A table in the one style, made to fit the console it is printed on; nothing in its texts is taken for markup.

    Attributes:
        headings: One per column.
        rows: The cells.
        title: Above the table.
        names: Indices of the columns of names: at the left. The others are numbers: at the right.
        total: A last row below a line.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    names: frozenset[int] = frozenset((0,))
    total: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.box import SIMPLE_HEAVY
        from rich.table import Table
        from rich.text import Text

        lines = (*self.rows, *([self.total] if self.total else []))
        columns = [
            Column(heading, tuple(line[index] for line in lines), index in self.names)
            for index, heading in enumerate(self.headings)
        ]
        title = Text(self.title) if self.title else None
        for block in fit(columns, options.max_width - 2, BETWEEN_COLUMNS):  # one space at either edge
            # Without vertical lines six columns of numbers fit into 80 characters.
            table = Table(title=title, title_justify="left", box=SIMPLE_HEAVY, pad_edge=False)
            for column in block:
                table.add_column(Text(column.heading), justify="left" if column.is_name else "right", no_wrap=True)
            for number, cells in enumerate(zip(*(column.cells for column in block), strict=True)):
                if number == len(self.rows):
                    table.add_section()
                table.add_row(*map(Text, cells))
            yield table
            title = None


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    names: Collection[int] = (0,),
    total: Sequence[str] = (),
) -> FittedTable | Table:
    """A table in the one style.

    Args:
        headings: One per column; none for a list of names and values.
        rows: The cells.
        title: Above the table.
        names: Indices of the columns of names: at the left. The others are numbers: at the right.
        total: A last row below a line.
    """
    cells = [tuple(map(visible, row)) for row in rows]
    if not headings:
        return _list(cells)
    shown = tuple(map(visible, headings))
    return FittedTable(shown, tuple(cells), visible(title), frozenset(names), tuple(map(visible, total)))


def _list(rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def make_bar(console: Console, *columns: str, width: int | None = 40, transient: bool = False) -> Progress:
    """A progress bar, hidden where the console is quiet.

    Args:
        console: Where to draw it.
        *columns: From left to right: `"bar"`, `"count"` (`3/10`), `"elapsed"`, `"remaining"`; anything else is text, in
            which `{task.description}` and `{task.fields[NAME]}` stand for those of the task.
        width: Of the bar, in characters.
        transient: Remove the bar when it is done; nothing is drawn where the console is no terminal.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    known: dict[str, Callable[[], ProgressColumn]] = {
        "bar": lambda: BarColumn(width),
        "count": MofNCompleteColumn,
        "elapsed": TimeElapsedColumn,
        "remaining": TimeRemainingColumn,
    }
    drawn = [known[column]() if column in known else TextColumn(column) for column in columns]
    # Where lines cannot be taken back, rich leaves an empty one in the place of a transient bar.
    return Progress(*drawn, console=console, transient=transient, disable=transient and not console.is_terminal)


@contextmanager
def progress_bar(
    description: str, console: Console | None = None, quiet: bool = False, clock: Clock = time.monotonic
) -> Iterator[ProgressStart]:
    """A bar over items that is gone at its end, or where there is no terminal a line now and then.

    Yields what functions take as `progress`.

    Args:
        description: What is done, before the bar.
        console: Where to draw it; by default one on stderr.
        quiet: Draw nothing.
        clock: Gives the time.
    """
    console = console or make_console(stderr=True, quiet=quiet)
    with make_bar(
        console,
        "{task.description}",
        "bar",
        "count",
        "remaining",
        transient=True,
    ) as bar:

        def start(items: int) -> Advance:
            task = bar.add_task(description, total=items)
            beat, pace, done = Heartbeat(clock), Pace(items, clock=clock), 0

            def advance() -> None:
                nonlocal done
                done += 1
                bar.advance(task)
                if not console.is_terminal and beat.due():
                    console.print(f"{description}: {done} of {items}{pace.left(done)}", markup=False)

            return advance

        yield start

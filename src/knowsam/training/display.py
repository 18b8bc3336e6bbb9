"""The terminal while a run reads, trains and validates."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from knowsam.config import Config
from knowsam.evaluation.scoring import ValidationScores
from knowsam.presentation.console import ProgressStart, make_bar, make_console, print_note, progress_bar
from knowsam.presentation.heartbeat import Clock, Heartbeat, Pace
from knowsam.presentation.text import count_text
from knowsam.runs.folder import RunFolder
from knowsam.runs.next_steps import next_commands, wrapped_command
from knowsam.training.data import RunData

if TYPE_CHECKING:
    from rich.progress import Progress

    from knowsam.sam.teacher import SamTeacher

SHOWN_TERMS = 5  # beside the total, where the line has room for them; metrics.jsonl has them all
BAR_WIDTH, NARROW_BAR_WIDTH, NARROW_CONSOLE = 24, 8, 120
# "step 12000/30000", "0.62 steps/s", elapsed, "left", remaining, and the spaces between them.
WIDTH_WITHOUT_BAR_AND_TERMS = 56

Item = TypeVar("Item")


class TrainingDisplay:
    """A progress bar on a terminal, plain lines elsewhere, at least one each minute, nothing when quiet.

    Attributes:
        hints: Whether a run's end says where everything is and what to type next; not where it is part of more.

    Args:
        quiet: Print nothing.
        clock: Gives the time.
    """

    def __init__(self, quiet: bool = False, clock: Clock = time.monotonic) -> None:
        self.hints = True
        self.console = make_console(quiet=quiet)
        self._bar: Progress | None = None
        self._task: Any = None
        self._clock, self._beat, self._pace = clock, Heartbeat(clock), Pace(0, clock=clock)

    def reading(self, description: str = "reading") -> AbstractContextManager[ProgressStart]:
        """A bar over files; gives what `load_data` and `write_report` take as `progress`."""
        return progress_bar(description, self.console, clock=self._clock)

    def data(self, config: Config, data: RunData) -> None:
        """Print what was found in the data folder."""
        split = data.split
        unlabelled = 0 if data.unlabelled is None else len(data.unlabelled)
        self.console.print(
            f"{config.data.path}: {len(data.labelled)} labelled and {count_text(unlabelled, 'unlabelled image')},"
            f" {count_text(len(data.validation), 'validation volume')} ({count_text(len(split.val), 'file')}), classes"
            f" {', '.join(data.coding.names)}"
        )
        used = len(split.labelled) + len(split.val)
        self.console.print(
            f"labels used: {count_text(used + data.masks_judged, 'mask')}, {len(split.labelled)} to train on and"
            f" {len(split.val)} to validate with"
            + (f", {data.masks_judged} read for ranking" if data.masks_judged else "")
        )
        for note in data.notes:
            self.note(note)

    def note(self, sentence: str) -> None:
        """Say one sentence that matters."""
        print_note(self.console, sentence)

    def sam(self, teacher: SamTeacher, learning: int) -> None:
        """Say which SAM was loaded, how, and how much of the teacher learns.

        Args:
            teacher: With the record of what was loaded.
            learning: Number of weights that learn, adapters and prompts included.
        """
        for line in [*([] if teacher.base is None else teacher.base.lines()), teacher.line()]:
            self.console.print(line, markup=False)
        self.console.print(f"sam: {learning / 1e6:.1f} M weights learn, adapters and prompts included")

    @contextmanager
    def training(self, total: int, done: int) -> Iterator[None]:
        """The bar of the training loop."""
        self._pace = Pace(total, done, self._clock)
        self._beat.said()
        rate, terms = "{task.fields[rate]}", "{task.fields[terms]}"
        columns = ("step", "count", "bar", rate, "elapsed", "left", "remaining", terms)
        with make_bar(self.console, *columns, width=self._bar_width()) as bar:
            self._bar, self._task = bar, bar.add_task("step", total=total, completed=done, rate="", terms="")
            yield
        self._bar = None

    def _bar_width(self) -> int:
        return NARROW_BAR_WIDTH if self.console.width < NARROW_CONSOLE else BAR_WIDTH

    def step(self, step: int, terms: dict[str, float]) -> None:
        """Advance the bar."""
        if self._bar is None:
            return
        room = self.console.width - WIDTH_WITHOUT_BAR_AND_TERMS - self._bar_width()
        words = [f"{name} {value:.3f}" for name, value in list(terms.items())[: SHOWN_TERMS + 1]]
        # A longer line would make rich cut the step and the bar.
        while len(words) > 1 and len(" ".join(words)) > room:
            words.pop()
        shown = " ".join(words)
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.2f} steps/s" if speed else ""
        self._bar.update(self._task, completed=step, terms=shown, rate=rate)

    def line_due(self) -> bool:
        """Whether `line` should be called: there is no terminal, and nothing was printed for a while."""
        return not (self.console.is_terminal or self.console.quiet) and self._beat.due()

    def line(self, step: int, loss: float) -> None:
        """Say how far training is.

        Args:
            step: Steps done.
            loss: Of the last one.
        """
        pace = self._pace
        self.console.print(
            f"step {step} of {pace.total}: loss {loss:.3f}, {pace.per_second(step):.2f} steps/s{pace.left(step)}"
        )

    def validating(self, scored: Iterable[Item], step: int, volumes: int) -> Iterator[Item]:
        """Hand on what is scored, and say now and then how far that is.

        Args:
            scored: The volumes, one after the other.
            step: Steps done.
            volumes: How many there are.
        """
        for number, one in enumerate(scored, start=1):
            yield one
            if number < volumes and self.line_due():
                self.console.print(f"step {step}: validating, {number} of {count_text(volumes, 'volume')}")

    def validated(self, step: int, scores: ValidationScores) -> None:
        """One line per validation."""
        self._beat.said()
        parts = [f"{name} {scores.mean(name):.3f}" for name in scores.per_volume]
        self.console.print(f"step {step}: validation Dice {', '.join(parts)}")

    def finished(
        self, config: Config, folder: RunFolder, step: int, best: float | None, report: str | None, unlabelled: bool
    ) -> None:
        """Where everything is, and what to type next.

        Args:
            config: The run's configuration.
            folder: The run's folder.
            step: Steps done.
            best: Best validation Dice.
            report: Where the report is, or why there is none; None if none was asked for.
            unlabelled: Whether there are images without a mask.
        """
        total = config.train.steps
        quoted = shlex.quote(str(folder.path))
        if step < total:
            if not self.hints:
                return
            self.console.print(
                f"stopped after step {step} of {total}; continue with: knowsam train --resume {quoted}"
                f"\nwhat it learned so far: knowsam report {quoted}"
            )
            return
        score = "" if best is None else f", best validation Dice {best:.3f}"
        self.console.print(f"done: {count_text(step, 'step')}{score}")
        if not self.hints:
            return
        if report is not None:
            self.console.print(f"report:   {report}", markup=False)
        self.console.print(f"network:  {folder.student}")
        self.console.print(f"measured: {folder.metrics}")
        if config.train.tensorboard:
            self.console.print(f"curves:   tensorboard --logdir {shlex.quote(str(folder.tensorboard))}")
        from rich.markup import escape

        self.console.print("next:")
        commands = next_commands(folder.path, config.data.path, total, unlabelled)
        for purpose, command in commands:
            lines = wrapped_command(command, self.console.width, indent=4)
            self.console.print(f"  [dim]{purpose}:[/dim]\n{escape(lines)}")

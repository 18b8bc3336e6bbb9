"""Signs of life where there is no terminal: a batch log gets a line about every 45 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

from knowsam.presentation.text import duration_text

EVERY_S = 45.0
"""Below a minute, by as much as a step or a file may take: it is looked at between them."""

Clock = Callable[[], float]
"""Seconds since some moment."""


class Heartbeat:
    """Says when the next line is due.

    Args:
        clock: Gives the time.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._last = clock()

    def due(self) -> bool:
        """Whether a line should be printed now; the next is due `EVERY_S` later."""
        if self.clock() - self._last < EVERY_S:
            return False
        self.said()
        return True

    def said(self) -> None:
        """Count from here: something was printed."""
        self._last = self.clock()


class Pace:
    """How fast work goes, from its start or from where it was continued.

    Args:
        total: Number of steps or items.
        done: Those that were done before.
        clock: Gives the time.
    """

    def __init__(self, total: int, done: int = 0, clock: Clock = time.monotonic) -> None:
        self.total, self.first, self.clock = total, done, clock
        self.started = clock()

    def per_second(self, done: int) -> float:
        """Steps per second so far; 0 where nothing is known."""
        elapsed = self.clock() - self.started
        return (done - self.first) / elapsed if elapsed > 0 else 0.0

    def left(self, done: int) -> str:
        """`", 12 min left"`, or nothing as long as nothing is known."""
        rate = self.per_second(done)
        return f", {duration_text((self.total - done) / rate)} left" if rate > 0 else ""

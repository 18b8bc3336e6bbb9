"""The process of one cell on a cluster: the job comes on standard input, whose end says that its worker is gone."""

from __future__ import annotations

import pickle
import sys

from knowsam.comparison.cell import work

if __name__ == "__main__":

    def wait_for_end() -> bool:
        """Returns when nothing holds the other end of standard input any more."""
        while sys.stdin.buffer.read(1):
            pass
        return True

    work(pickle.load(sys.stdin.buffer), wait_for_end)

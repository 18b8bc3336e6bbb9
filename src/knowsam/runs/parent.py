"""What a process owes to the one that started it: to notice its end."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process


def end_with_parent(worker: int = 0) -> None:
    """From now on, end this process as soon as the one that started it is gone.

    A loader process of torch notices that by itself, but if steps wait to be sent then, it waits for ever for somebody
    to take them.
    """

    def watch() -> None:
        if wait_for_parent():
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wait_for_parent() -> bool:
    """Return True when the process that started this one is gone; False if there is none to wait for."""
    parent = parent_process()
    if parent is None:
        return False
    parent.join()
    return True

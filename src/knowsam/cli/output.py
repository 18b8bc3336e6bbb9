"""What commands print: JSON, and errors as one sentence."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from knowsam.errors import InputError, os_error_sentence
from knowsam.presentation.console import say


def print_json(values: Any) -> None:
    """Print values as JSON that any terminal shows."""
    # What the terminal cannot encode must be escaped as JSON has it.
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(values, indent=2, ensure_ascii=not unicode, allow_nan=False)
    # JSON escapes the characters that steer a terminal, but for these.
    print(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def say_error(sentence: str) -> None:
    """One sentence on stderr, its first word red on a terminal that wants colour (https://no-color.org)."""
    in_colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    word = "\033[1;31merror:\033[0m" if in_colour else "error:"
    print(f"{word} ", end="", file=sys.stderr)
    say(sentence, sys.stderr)


def _of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or that of the GPU, ran out."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def explained(error: Exception) -> str | None:
    """An error as one sentence; None where it is a mistake of this package."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return os_error_sentence(error)
    if _of_memory(error):
        return (
            f"memory: it ran out ({next(iter(str(error).splitlines()), '') or type(error).__name__}); take a smaller"
            " --batch, --size or image, or a machine with more of it."
        )
    return None

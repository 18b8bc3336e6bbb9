"""Where a command begins and ends."""

from __future__ import annotations

import sys
import traceback

from knowsam.cli.app import EXIT_BAD_INPUT, EXIT_BUG, EXIT_INTERRUPTED, EXIT_NO_READER, app
from knowsam.cli.output import explained, say_error
from knowsam.presentation.console import escape_unprintable


def main() -> None:
    """Entry point: bad input or output becomes one sentence and exit code 2; a traceback is left for bugs, and 70."""
    escape_unprintable()
    try:
        app()
    except SystemExit as end:
        # typer makes 1 of a closed pipe (`| head`), which is no failed input.
        sys.exit(EXIT_NO_READER if isinstance(end.__context__, BrokenPipeError) else end.code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sentence = explained(error)
        if sentence is not None:
            say_error(sentence)
            sys.exit(EXIT_BAD_INPUT)
        traceback.print_exc()
        sys.exit(EXIT_BUG)

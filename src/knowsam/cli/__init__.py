"""The command line: parse, call one function of the package, print, exit code.

Exit codes: 0 done; 1 done, but some inputs failed; 2 bad input or output, one sentence on stderr; 70 a mistake of this
package, with its traceback; 130 interrupted and saved; 141 nobody reads the output any more.
"""

from knowsam.cli import preparing, sam, training, using  # noqa: F401  # their commands, in the order of the help
from knowsam.cli.entry import main

__all__ = ["main"]

r"""Text, JSON, CSV and safetensors files, written whole or not at all, and whether they could be written.

Text is UTF-8 whatever the terminal; a file name that is not UTF-8 stands in it escaped, `caf\udce9.png`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsam.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How text begins that spreadsheets run, or that was written with a `'` before that."""

ESCAPED = "backslashreplace"
"""How Python encodes the bytes of a file name that are not UTF-8; in JSON it is the escape that reads back."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder and rename it to `path` when the block succeeds.

    A reader, or a process killed half-way, therefore never sees half a file. The name starts with a dot,
    which makes folder scans pass it over, and keeps the suffix, by which libraries choose the format.

    Args:
        path: The final file.

    Yields:
        The name to write to.

    Raises:
        OSError: It cannot be written; `filename` is `path`.
    """
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A full disk names no file, everything else the temporary one.
        if error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be gone
            temporary.unlink()


def require_writable_folder(path: str | Path) -> None:
    """Make sure, before any work is done, that files can be written into a folder; makes nothing.

    Args:
        path: The folder; it need not exist.

    Raises:
        InputError: A file is in the way, or the folder that would be written into is closed.
    """
    path = Path(path)
    there = next((one for one in (path, *path.absolute().parents) if os.path.lexists(one)), Path(path.anchor or "."))
    if not there.is_dir():
        where = "there" if there == path else f"at {there}"
        raise InputError(
            f"{path}: a file was found {where}, but expected a folder to write to; choose another place, or move the"
            " file."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{path}: no permission to write into {there} was found, or it is read-only, but expected a folder to"
            " write to; choose another place, or change its permissions."
        )


def require_writable_file(path: str | Path, example: str) -> None:
    """Make sure, before any work is done, that a file can be written; an old one is replaced.

    Args:
        path: The file.
        example: A name for it, for the sentence about a folder.

    Raises:
        InputError: A folder has its name, or as `require_writable_folder` of the folder it would lie in.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder was found, but expected the name of a file to write; add {example}.")
    require_writable_folder(path.parent)


def checksum(path: Path, digest: str | Callable[[], Any] = "sha256") -> str:
    """Return the hash of a file, read in pieces, in hexadecimal digits; `digest` as in `hashlib.file_digest`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, digest).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ESCAPED)


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON atomically; NaN is an error, because JSON has none."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a UTF-8 table with a header atomically; what a row lacks or holds as None is an empty field.

    No field is a formula for a spreadsheet, see `csv_cell`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors=ESCAPED) as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)


def csv_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula with a `'` before it; all else, and text of a number, as it is."""
    if not isinstance(value, str) or not FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def plain_cell(text: str) -> str:
    """Inverse of `csv_cell` for text."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def without_nan(value: Any) -> Any:
    """The same value with None for NaN, which JSON does not have, at any depth; tuples become lists."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_safetensors(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights into one safetensors file, whole or not at all, which others may read as any other new file.

    `safetensors.torch.save_file` would let its owner alone read it.

    Args:
        path: The final file.
        weights: Contiguous tensors by name.
        metadata: Text for the header.
    """
    from safetensors.torch import save

    content = save(weights, metadata)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)

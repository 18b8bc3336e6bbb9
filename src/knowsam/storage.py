r"""Text, JSON, CSV and safetensors files, written whole or not at all, and whether they could be written.

Text is UTF-8 whatever the terminal; a file name that is not UTF-8 stands in it escaped, `caf\udce9.png`.

*Safe* means here: on the disk, so that a power cut does not take it back (`fsync` of the file before it gets its name,
of the folder afterwards). docs/reliability.md says what is promised.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import math
import os
import platform
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from knowsam.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How text begins that spreadsheets run, or that was written with a `'` before that."""

ESCAPED = "backslashreplace"
"""How Python encodes the bytes of a file name that are not UTF-8; in JSON it is the escape that reads back."""
MOST_OF_A_REASON = 200
"""Longest reason in a sentence, in characters."""


UNFINISHED = re.compile(r"\.writing-([0-9a-f]{8})-(\d+)-")
"""How the name of a file begins that is being written: the host in eight digits, the process."""
LOCK_FILE = ".lock"
"""In a folder that one process at a time may write to (`runs.lock`)."""
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF)
"""What file systems answer that cannot make a folder's entries safe on demand."""

_later: ContextVar[list[Path] | None] = ContextVar("_later", default=None)
"""Files that `safe_at_end` will make safe; None outside of it."""
_background: ContextVar[Background | None] = ContextVar("_background", default=None)
"""What takes files over from `whole_file`; None where that waits for them."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; when the block succeeds, make the file safe and rename it to `path`.

    A reader, or a process killed half-way, therefore never sees half a file, and a power cut leaves the old file or the
    new one. The name starts with a dot, which makes folder scans pass it over, and keeps the suffix, by which libraries
    choose the format.

    Args:
        path: The final file.

    Yields:
        The name to write to.

    Raises:
        OSError: It cannot be written; `filename` is `path`.
    """
    temporary = path.with_name(f".writing-{host_mark()}-{os.getpid()}-{path.name}")
    background = _background.get()
    if background is None:
        with _renamed(temporary, path):
            yield temporary
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_renamed(temporary, path))
        yield temporary
        background.finish(stack.pop_all())


@contextlib.contextmanager
def _renamed(temporary: Path, path: Path) -> Iterator[None]:
    """Give a file its name at the end of the block, safely, unless the block fails; the temporary one is gone then."""
    later = _later.get()
    try:
        yield
        if later is None:
            sync_file(temporary)
        os.replace(temporary, path)
        if later is None:
            sync_folder(path.parent)
        else:
            later.append(path)
    except OSError as error:
        # A full disk names no file, everything else the temporary one.
        if error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be gone
            temporary.unlink()


class Background:
    """Lets files be made safe while something else goes on: in a thread, in the order in which they were written."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="safe")
        self._finishing: list[Future[None]] = []

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """Within the block, `whole_file` returns when the content is written; it is made safe and renamed later."""
        token = _background.set(self)
        try:
            yield
        finally:
            _background.reset(token)

    def finish(self, file: contextlib.ExitStack) -> None:
        """Leave the contexts of a file after those of the files before; if one of these failed, leave it unnamed."""
        before = self._finishing[-1] if self._finishing else None

        def act() -> None:
            with file:
                if before is not None:
                    before.result()

        self._finishing.append(self._pool.submit(act))

    def check(self) -> None:
        """Tell of an error so far, without waiting.

        Raises:
            OSError: A file could not be written.
        """
        for one in self._finishing:
            if one.done():
                one.result()

    def wait(self) -> None:
        """Wait until all files are safe.

        Raises:
            OSError: One could not be written.
        """
        finishing, self._finishing = self._finishing, []
        wait(finishing)  # all of them, so that nothing is half-done when the first error is told
        for one in finishing:
            one.result()


@contextlib.contextmanager
def safe_at_end() -> Iterator[None]:
    """Within the block, files are whole as always, but are made safe together at its end.

    For many files that can be made again: waiting for each would cost more than making it.
    """
    paths: list[Path] = []
    token = _later.set(paths)
    try:
        yield
    finally:
        _later.reset(token)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # somebody took it away already
            sync_file(path)
    for folder in dict.fromkeys(path.parent for path in paths):
        sync_folder(folder)


def sync_file(path: Path) -> None:
    """Wait until what a file holds is on the disk.

    Raises:
        OSError: The disk is full or broken, which is often known only now.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder with its parents and clear it of what dead processes left; what stays empty is removed at the end.

    Args:
        path: The folder; it may exist.

    Yields:
        The same.
    """
    path = Path(path)
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)
    remove_unfinished(path)
    try:
        yield path
    finally:
        for one in missing:
            with contextlib.suppress(OSError):  # it holds something
                one.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove the half-written files of processes of this machine that are no more; those of others may be alive."""
    for entry in folder.iterdir():
        match = UNFINISHED.match(entry.name)
        if match and match[1] == host_mark() and not is_alive(int(match[2])):
            with contextlib.suppress(OSError):  # another process does the same, or may not
                entry.unlink()


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing but what a process that was killed at its start may have left."""
    return not folder.exists() or (folder.is_dir() and all(is_own(one.name) for one in folder.iterdir()))


def is_own(name: str) -> bool:
    """Whether a file of a folder is one that this package leaves there only if it is killed."""
    return name == LOCK_FILE or UNFINISHED.match(name) is not None


def is_alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def host_mark() -> str:
    """This machine in eight digits, so that the name of a temporary file stays short."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


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


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a JSON object that this package wrote.

    Args:
        path: The file.
        advice: End of the sentence about a file that cannot be read: `"restore it"`.

    Raises:
        InputError: It is missing, no text, no JSON, too deep, or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{type(values).__name__} instead of an object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read ({reason_of(error)}), but expected what knowsam wrote; {advice}."
        ) from error
    return values


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, cut where it is long, without the path, which the sentence has already."""
    if isinstance(error, UnpicklingError):  # torch would advise to run it
        return "a pickle that holds more than weights, which is not opened"
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    line = next(iter(text.strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= MOST_OF_A_REASON else line[: MOST_OF_A_REASON - 3] + "..."


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Add one line of JSON to a file; it is whole for other processes, and safe after `sync_file`."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


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

    Raises:
        InputError: A weight is NaN or infinite; nothing was written.
    """
    from safetensors.torch import save

    if name := not_finite(weights):
        raise InputError(
            f"{path}: a weight that is not finite was found in {name}, but expected numbers, so that nothing was"
            " written; lower the learning rate and start from the last checkpoint."
        )
    content = save(weights, metadata)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity in it, None where all are numbers."""
    return next((name for name, value in weights.items() if not bool(value.isfinite().all())), None)

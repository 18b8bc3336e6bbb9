"""Text, JSON, CSV and safetensors files, written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder and rename it to `path` when the block succeeds.

    A reader, or a process killed half-way, therefore never sees half a file. The name starts with a dot,
    which makes folder scans pass it over, and keeps the suffix, by which libraries choose the format.

    Args:
        path: The final file.

    Yields:
        The name to write to.
    """
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON atomically; NaN is an error, because JSON has none."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a UTF-8 table with a header atomically; what a row lacks or holds as None is an empty field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


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

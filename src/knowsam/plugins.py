"""Code that is not of this package: what installed packages offer by entry points, and classes in a user's own file."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from knowsam.errors import InputError


def entry_point_names(group: str) -> list[str]:
    """The names that installed packages give in a group of entry points, without loading anything."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load_entry_point(group: str, name: str) -> Any:
    """What an installed package offers under a name; None where no package does.

    Raises:
        InputError: If the package's code cannot be loaded, or two packages offer the name.
    """
    found = list(entry_points(group=group, name=name))
    if len(found) > 1:
        raise InputError(
            f"'{name}' was found in the entry points {group} of {' and '.join(map(_package, found))}, but expected one"
            " package; uninstall the other."
        )
    if not found:
        return None
    try:
        return found[0].load()
    except Exception as error:  # whatever somebody else's import raises
        raise InputError(
            f"'{name}' of {_package(found[0])} could not be loaded from {found[0].value} ({_said(error)}), but expected"
            f" what its entry point in {group} promises; correct or uninstall that package."
        ) from error


def _package(entry: EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else f"the package {entry.dist.name}"


def names_file(text: str) -> bool:
    """Whether a text is of the form `PATH.py:CLASS`."""
    path, colon, attribute = text.rpartition(":")
    return bool(colon) and path.endswith(".py") and attribute.isidentifier()


def absolute(text: str) -> str:
    """`PATH.py:CLASS` with the full path, that it may be found from any directory; any other text as it is."""
    if not names_file(text):
        return text
    path, _, attribute = text.rpartition(":")
    return f"{Path(path).resolve()}:{attribute}"


def load_from_file(text: str) -> Any:
    """The class that `PATH.py:CLASS` names. The file is run once in a process, however many classes are asked of it.

    Raises:
        InputError: If there is no such file, it fails when it is run, or has no such name.
    """
    name, _, attribute = text.rpartition(":")
    path = Path(name).resolve()
    if not path.is_file():
        raise InputError(f"{path}: no file was found, but expected the Python file of {attribute}; check the path.")
    # Two files may be called alike; as a module in the table it can be found by what looks up a class's annotations.
    key = f"{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None  # its name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever somebody else's code raises
            del sys.modules[key]
            raise InputError(
                f"{path}: it could not be run ({_said(error)}{_line_in(path, error)}), but expected a file that defines"
                f" {attribute}; correct it."
            ) from error
    module = sys.modules[key]
    if not hasattr(module, attribute):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == key]
        raise InputError(
            f"{path}: no {attribute} was found, but expected a class of that name; there are {', '.join(own) or 'none'}"
            "; correct the name."
        )
    return getattr(module, attribute)


def _said(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}{f': {first}' if first else ''}"


def _line_in(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return "" if error.lineno is None else f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""

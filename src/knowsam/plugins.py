"""Names of methods and networks: of this package, registered ones, of installed packages, in a file of the user's."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from knowsam.errors import InputError

T = TypeVar("T")


class Registry(MutableMapping[str, T]):
    """Names of one kind of thing, e.g. of methods: a mapping from a name to the class or function behind it.

    An entry is that object itself, or `"module:attribute"`, which is imported when the name is looked up. What is set
    (`registry[name] = entry`) counts as registered in this process and comes before the package's own entry.

    Attributes:
        own: The entries of this package.
        registered: The entries added in this process.

    Args:
        kind: What the names are of, for messages: `"method"`.
        thing: What an entry is, for messages: `"class"`.
        group: Group of entry points under which installed packages offer more of them.
        own: The entries of this package.
    """

    def __init__(self, kind: str, thing: str, group: str, own: Mapping[str, T | str]) -> None:
        self.kind, self.thing, self.group = kind, thing, group
        self.own: dict[str, T | str] = dict(own)
        self.registered: dict[str, T | str] = {}

    def __getitem__(self, name: str) -> T:
        entry = self.registered[name] if name in self.registered else self.own[name]
        if not isinstance(entry, str):
            return entry
        module, _, attribute = entry.partition(":")
        found: T = getattr(importlib.import_module(module), attribute)
        return found

    def __setitem__(self, name: str, entry: T | str) -> None:
        self.registered[name] = entry

    def __delitem__(self, name: str) -> None:
        del self.registered[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.own, **self.registered})

    def __len__(self) -> int:
        return len({**self.own, **self.registered})

    def __contains__(self, name: object) -> bool:
        return name in self.registered or name in self.own  # without importing what is behind the name

    def load(self, name: str) -> T | None:
        """Return what a name stands for: an entry, or what an installed package offers; None for an unknown name.

        Raises:
            InputError: If the package's code cannot be loaded, or two packages offer the name.
        """
        if name in self:
            return self[name]
        found: T | None = load_entry_point(self.group, name)
        return found

    def names(self) -> list[str]:
        """Return all names: of this package, registered ones, those of installed packages; nothing is imported."""
        return list(dict.fromkeys([*self, *entry_point_names(self.group)]))

    def is_known(self, name: str) -> bool:
        """Return whether `load` would find a name."""
        return name in self or name in entry_point_names(self.group)

    def picklable(self, name: str) -> dict[str, T | str]:
        """Return what another process must set before it can use a name: the registered entry, if there is one.

        Raises:
            InputError: If the new process could not find that entry again.
        """
        if name not in self.registered:
            return {}
        entry = self.registered[name]
        try:
            pickle.dumps(entry)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"{self.kind} {name}: its {self.thing} cannot be found from another process ({error}), but expected a"
                " class or function at the top of a module; move it there."
            ) from error
        return {name: entry}


def entry_point_names(group: str) -> list[str]:
    """Return the names that installed packages give in a group of entry points, without loading anything."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load_entry_point(group: str, name: str) -> Any:
    """Load what an installed package offers under a name; None where no package does.

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
    except Exception as error:  # the import of another package may raise anything
        raise InputError(
            f"'{name}' of {_package(found[0])} could not be loaded from {found[0].value} ({_said(error)}), but expected"
            f" what its entry point in {group} promises; correct or uninstall that package."
        ) from error


def _package(entry: EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else f"the package {entry.dist.name}"


def names_file(text: str) -> bool:
    """Return whether a text is of the form `PATH.py:CLASS`."""
    path, colon, attribute = text.rpartition(":")
    return bool(colon) and path.endswith(".py") and attribute.isidentifier()


def absolute(text: str) -> str:
    """Return `PATH.py:CLASS` with the full path, so that it is found from any directory; any other text unchanged."""
    if not names_file(text):
        return text
    path, _, attribute = text.rpartition(":")
    return f"{Path(path).resolve()}:{attribute}"


def load_from_file(text: str) -> Any:
    """Load the class that `PATH.py:CLASS` names; the file is run once in a process, for all its classes.

    Raises:
        InputError: If there is no such file, it fails when it is run, or has no such name.
    """
    name, _, attribute = text.rpartition(":")
    path = Path(name).resolve()
    if not path.is_file():
        raise InputError(f"{path}: no file was found, but expected the Python file of {attribute}; check the path.")
    # Two files may have one name. As an entry of sys.modules it is found by code that looks up a class's annotations.
    key = f"{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None  # its name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's code may raise anything
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

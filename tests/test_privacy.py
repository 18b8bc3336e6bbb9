"""Tests, benchmarks and examples use what the package offers, and none of the names it keeps to itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path
    for folder in ("tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)  # which has examples of what is wrong
)
BY_NAME = {"setattr", "getattr", "hasattr", "delattr", "object", "patch", "attrgetter"}
"""Functions that take the name of an attribute as text, `monkeypatch.setattr` and `mock.patch.object` among them."""
OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields"}  # public, in spite of their names
OF_TORCH = {"_python_dispatch"}  # where it keeps `TorchDispatchMode`, which it documents
OWNERS = {"self", "cls"}
DOCUMENTED = {"os._exit"}
"""Public, in spite of their names."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in OF_NAMED_TUPLES | OF_TORCH


def private_names(code: str) -> Iterator[tuple[int, str]]:
    """Line and name of everything private that the code imports or touches, in scripts that it holds as text too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [part for name in (*module, *(alias.name for alias in node.names)) for part in name.split(".")]
            # `from __future__` ends with two underscores and is public.
            yield from ((node.lineno, name) for name in names if is_private(name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owned = isinstance(node.value, ast.Name) and node.value.id in OWNERS
            if not owned and ast.unparse(node) not in DOCUMENTED:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if function in BY_NAME:
                yield from ((node.lineno, text) for text in texts if is_private(text.rpartition(".")[2]))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import" in node.value:
            try:
                inner = list(private_names(node.value))
            except SyntaxError:  # a sentence, not a script
                continue
            yield from ((node.lineno, f"{name} in a script") for _, name in inner)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_used(path: Path) -> None:
    found = [f"line {line}: {name}" for line, name in private_names(path.read_text(encoding="utf-8"))]
    assert not found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from knowsam.training.trainer import _Run", ["_Run"]),
        ("import knowsam._hidden.part", ["_hidden"]),
        ("run._dataset()[0]", ["run._dataset"]),
        ("monkeypatch.setattr(engine.Run, '_step', None)", ["_step"]),
        ("mock.patch('knowsam.io._open')", ["knowsam.io._open"]),
        ("SCRIPT = 'import knowsam\\nknowsam._api()'", ["knowsam._api in a script"]),
        ("from __future__ import annotations\nself._own = pair._replace(a=1)\nfor _ in x.__dict__: pass", []),
    ],
)
def test_every_way_to_a_private_name_is_seen(code: str, found: list[str]) -> None:
    assert [name for _, name in private_names(code)] == found

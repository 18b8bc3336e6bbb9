"""Who may import whom: downwards only, no circle of packages, nothing heavy where text and tables are enough."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import knowsam

ROOT = Path(knowsam.__file__).parent
LAYERS = (
    ("errors", "types"),
    ("storage", "plugins", "functional"),
    ("io", "networks", "presentation"),
    ("data",),
    ("methods", "evaluation", "inspection"),
    ("config",),
    ("runs",),
    ("sam", "inference"),
    ("reliability", "reporting", "settings"),
    ("training",),
    ("comparison", "federation"),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""From the ground up. Packages on one floor do not know each other."""
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
MODULES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of this package, late ones too; those for the type checker alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("knowsam."):
            yield node.lineno, str(node.module).split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "knowsam":
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in FLOOR)
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from ((node.lineno, parts[1]) for parts in names if parts[0] == "knowsam" and len(parts) > 1)


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__"}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    here = room_of(path)
    if here == "__init__":
        return
    wrong = [
        f"line {line} imports knowsam.{room}"
        for line, room in imports(path)
        if room != here and FLOOR[room] >= FLOOR[here]
    ]
    assert not wrong


def test_at_most_eight_modules_and_a_main_at_the_root() -> None:
    """`__init__` and `__main__` are no doors: the one is the package, the other its command."""
    doors = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    assert len(doors) <= 8


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("knowsam", ("torch", "numpy", "pydantic")),
        ("knowsam.cli", ("torch", "numpy")),
        ("knowsam.config", ("torch",)),
        ("knowsam.io", ("torch",)),
        ("knowsam.inspection.check", ("torch",)),
        ("knowsam.evaluation.evaluate", ("torch",)),
        ("knowsam.comparison.tables", ("torch", "jinja2")),
        ("knowsam.presentation.text", ("torch", "numpy")),
        ("knowsam.inference.predictor", ("transformers", "accelerate", "kornia")),
        ("knowsam.sam", ("transformers",)),
        ("knowsam.sam.distillation", ("transformers",)),
        ("knowsam.training.trainer", ("transformers",)),
    ],
)
def test_an_import_brings_nothing_heavy(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"

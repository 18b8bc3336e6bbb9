"""The documentation: what it links to exists, what it names can be imported, and it stays short."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import knowsam

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = [path for folder in ("src", "tests", "examples", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
MOST_WORDS = 30_500

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

FENCE = re.compile(r"^ *```.*?^ *```", flags=re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOTTED = re.compile(r"knowsam(\.[A-Za-z_]\w*)+")
FILE = re.compile(r"(src|tests|docs|examples|benchmarks)/[\w/.-]+")
ENTRY_POINTS = {"knowsam.methods", "knowsam.networks"}
"""Groups of entry points; packages of the same names exist, too."""


def prose(page: Path) -> str:
    """The page without its blocks of code, which hold brackets and commands of their own."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> Iterator[str]:
    """What stands between backticks in the running text."""
    return (match[1] for match in CODE_SPAN.finditer(prose(page)))


def is_found(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            if importlib.util.find_spec(name) is None:
                continue
        except ModuleNotFoundError:
            continue
        found = importlib.import_module(name)
        for attribute in parts[end:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


def tree_of_contributing() -> Iterator[str]:
    """Every file and folder that the tree in CONTRIBUTING.md names, as a path below the root."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.split("```\nsrc/knowsam/\n")[1].split("```")[0].splitlines()
    for line in lines:
        first, _, description = line.strip().partition(" ")
        yield f"src/knowsam/{first}"
        folder = first if first.endswith("/") else ""
        yield from (f"src/knowsam/{folder}{word}" for word in re.findall(r"[\w/]+(?:\.py|/)(?=[ ,;]|$)", description))


def test_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {page.name for page in PAGES}


@every_page
def test_relative_links_and_images_exist(page: Path) -> None:
    links = {link.split("#")[0] for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)}
    assert sorted(link for link in links - {""} if not (page.parent / link).exists()) == []


@every_page
def test_dotted_names_can_be_found(page: Path) -> None:
    names = {name.split("(")[0] for name in spans(page) if not name.endswith((".json", ".md"))} - ENTRY_POINTS
    assert sorted(name for name in names if DOTTED.fullmatch(name) and not is_found(name)) == []


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    files = {name for name in spans(page) if FILE.fullmatch(name)}
    # CONTRIBUTING.md names the files of a method that does not exist yet.
    assert sorted(file for file in files if "toy" not in file and not (ROOT / file).exists()) == []


def test_paths_of_the_tree_exist() -> None:
    paths = list(tree_of_contributing())
    assert len(paths) > 20
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_package_and_module_of_the_root_stands_in_the_tree() -> None:
    inside = Path(knowsam.__file__).parent
    here = {f"src/knowsam/{path.name}/" for path in inside.iterdir() if (path / "__init__.py").exists()}
    here |= {f"src/knowsam/{path.name}" for path in inside.glob("*.py") if not path.name.startswith("__")}
    assert sorted(here - set(tree_of_contributing())) == []


def test_pages_named_in_code_exist() -> None:
    pages = {(name, path.name) for path in CODE for name in re.findall(r"docs/[\w/-]+\.md", path.read_text("utf-8"))}
    assert sorted(pair for pair in pages if not (ROOT / pair[0]).exists()) == []


def test_every_image_is_shown_somewhere() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in LINK.findall(prose(page))}
    assert sorted(path.name for path in (ROOT / "docs" / "images").iterdir() if path not in shown) == []


def test_documentation_stays_short() -> None:
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in PAGES) <= MOST_WORDS

"""docs/settings.md and docs/api.md say what the code says, and every setting says what it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import knowsam
from knowsam.config import Config
from knowsam.settings import Setting, all_settings, method_names, method_settings

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, str] = module.pages()
    return found


@pytest.mark.parametrize("name", ["settings.md", "api.md"])
def test_page_is_not_stale(name: str, pages: dict[str, str]) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == pages[name], "run python docs/generate.py"


def test_pages_are_compact(pages: dict[str, str]) -> None:
    assert sum(len(page.replace("|", " ").split()) for page in pages.values()) < 6300


def test_every_function_stands_on_the_page(pages: dict[str, str]) -> None:
    functions = [name for name in knowsam.__all__ if name != "InputError"]
    heads = [line for line in pages["api.md"].splitlines() if line.startswith("knowsam.")]
    assert [head.partition("(")[0] for head in heads] == [f"knowsam.{name}" for name in functions]
    for section in pages["api.md"].split("\n## ")[1 : len(functions) + 1]:
        for part in ("**Args**", "**Returns**", "**Raises**", "```python"):
            assert part in section, section.splitlines()[0]


def every_setting() -> list[Setting]:
    groups = [*all_settings(), *map(method_settings, method_names())]
    return [setting for group in groups for setting in group.settings]


def test_every_setting_has_a_meaning_and_a_range() -> None:
    without = [one.name for one in every_setting() if not one.meaning.strip() or not one.range]
    assert without == []


def test_all_fields_of_a_run_are_settings(pages: dict[str, str]) -> None:
    names = {one.name for one in every_setting()}
    for section in ("data", "sam", "train"):
        fields = Config.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
        assert {f"{section}.{field}" for field in fields} <= names
    assert {"method", "preset", "options.ugda_start", "options.network", "outline_until"} <= names
    assert all(f"`{name}`" in pages["settings.md"] for name in names)


def test_default_and_range_of_a_setting() -> None:
    settings = {one.name: one for one in every_setting()}
    assert settings["train.lr"] == Setting(
        "train.lr", 0.01, "number > 0", "Learning rate of the students at step 0; it falls linearly to 0."
    )
    assert settings["data.val_fraction"].range == "number >= 0, < 1"
    assert settings["train.clip"].range == "number > 0, or null"
    assert settings["options.ugda_teacher"].range == "sam, fused, mean"
    assert settings["sizes"].default == [96, 96, 128]


def test_changes_of_the_presets() -> None:
    knowsam_changes = method_settings("knowsam").changes
    assert knowsam_changes["short"]["options.ugda_teacher"] == "mean"
    assert knowsam_changes["short"]["train.pretrain"].startswith("0.3 (up to 0.6")
    assert knowsam_changes["paper"] == {}
    assert method_settings("bcp").changes["paper"] == {"train.pretrain": "0.25"}

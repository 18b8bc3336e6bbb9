"""Write the two pages that are made from the code: docs/settings.md and docs/api.md.

    python docs/generate.py

`tests/test_generated_docs.py` fails while a page says something else than the code.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import knowsam
from knowsam import settings
from knowsam.methods import load_method

HERE = Path(__file__).resolve().parent
MADE = "<!-- Made by docs/generate.py from the code; do not edit it here. -->\n"
PACKAGES = ("functional", "networks", "methods", "sam")
WIDTH = 100
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Example):$", re.MULTILINE)
ENTRY = re.compile(r"^(\w+): ", re.MULTILINE)


def main() -> None:
    """Write them beside this file."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name -> content of the pages."""
    return {"settings.md": settings_page(), "api.md": api_page()}


def settings_page() -> str:
    """Every setting of a run, of each method, of the pretraining."""
    *sections, pretrain = settings.all_settings()
    methods = {name: settings.preset_changes_of(name) for name in settings.method_names()}
    shared = shared_changes(methods, "short")
    network = settings.SettingGroup("", tuple(settings.describe_model(settings.StudentOptions, "options.")))
    others = [name for name in methods if not issubclass(load_method(name).Options, settings.StudentOptions)]
    parts = [
        MADE + "# Settings",
        "Settings are given as `key=value` on the command line (`train.lr=0.02`), in a YAML file (`--config`), or from"
        " Python (`knowsam.train(..., settings={'train.lr': 0.02})`); flags win over `key=value`, which wins over the"
        " file, which wins over `--recipe`. Values are YAML; `null` (`None`) means: not set. `sam=NAME` is short for"
        " `sam.name=NAME`. A run's `config.yaml` holds them all; `knowsam settings METHOD` prints those of one method."
        " Each line: name, default, range, meaning.",
    ]
    parts += [f"## {group.title}\n\n{listed(group)}" for group in sections]
    parts += [
        "## Options of the methods",
        f"Each method is a file in `src/knowsam/methods/` and a page in docs/methods/. All with one kept network (but"
        f" {', '.join(f'`{name}`' for name in others)}) share these:",
        listed(network),
        f"Below {settings.SHORT_BUDGET:,} steps (`preset: short`) every method has {changes_text(shared)}."
        " What it changes for one method alone is said there.",
    ]
    first_at: dict[str, str] = {}
    for name, changes in methods.items():
        parts.append(f"### {name}")
        if own := settings.own_options(name):
            parts.append(listed(settings.SettingGroup(name, own), first_at))
        first_at = {str(one): name for one in own} | first_at
        own_changes = {"short": without(changes["short"], shared), "paper": changes["paper"]}
        said = [f"`preset: {preset}`: {changes_text(values)}." for preset, values in own_changes.items() if values]
        parts += [" ".join(said)] if said else ["No option of its own."] if not own else []
    parts += [
        "## knowsam sam pretrain",
        "Options of the command, or fields of `PretrainConfig` (`knowsam.sam.pretrain.steps`).",
        listed(pretrain),
    ]
    return "\n\n".join(parts) + "\n"


def listed(group: settings.SettingGroup, first_at: Mapping[str, str] | None = None) -> str:
    """Settings with default, range and meaning, one a line; `first_at`: what another method has, too -> its name."""
    others = first_at or {}
    new = [one for one in group.settings if str(one) not in others]
    lines = [f"- `{one.name}`: `{settings.value_text(one.default)}` ({one.range}). {one.meaning}" for one in new]
    for other in dict.fromkeys(others.values()):
        names = ", ".join(f"`{one.name}`" for one in group.settings if others.get(str(one)) == other)
        lines += [f"- As `{other}`: {names}."] if names else []
    return "\n".join(lines)


def shared_changes(methods: Mapping[str, Mapping[str, Mapping[str, str]]], preset: str) -> dict[str, str]:
    """What a preset changes for every method alike."""
    first, *others = (changes[preset] for changes in methods.values())
    return {name: text for name, text in first.items() if all(other.get(name) == text for other in others)}


def without(changes: Mapping[str, str], shared: Mapping[str, str]) -> dict[str, str]:
    """The changes that not every method has."""
    return {name: text for name, text in changes.items() if name not in shared}


def changes_text(changes: Mapping[str, str]) -> str:
    """Settings and values in a line."""
    return ", ".join(f"`{name}` = {text}" for name, text in changes.items())


def api_page() -> str:
    """The functions of `knowsam` in full, and the names of the packages below it in a line each."""
    functions = [name for name in knowsam.__all__ if name != "InputError"]
    parts = [
        MADE + "# Python",
        "`import knowsam` imports nothing heavy; each function imports what it needs when called. A user's mistake"
        " raises `knowsam.InputError`, a `ValueError` of one sentence: which file, what was found, what was expected,"
        " what to do. Settings: [settings.md](settings.md).",
    ]
    parts += [function_text(name, getattr(knowsam, name)) for name in functions]
    for name in PACKAGES:
        package = importlib.import_module(f"knowsam.{name}")
        about = first_sentence(package.__doc__)
        lines = [f"- `{one}`: {text}".removesuffix(": ") for one, text in described(package).items()]
        parts.append(f"## knowsam.{name}\n\n{about}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def function_text(name: str, function: Any) -> str:
    """Signature and docstring of a function as Markdown; types are for editors and left out."""
    signature = inspect.signature(function)
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    arguments = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)).replace("'", '"')
    head = f"knowsam.{name}{arguments} -> {signature.return_annotation}"
    head = textwrap.fill(head, WIDTH, subsequent_indent=" " * (head.index("(") + 1))
    summary, *rest = SECTION.split(inspect.getdoc(function) or "")
    parts = [f"## {name}", f"```python\n{head}\n```", summary.strip()]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        body = inspect.cleandoc(body)
        joint = "\n\n" if title == "Args" else " "
        parts.append(body if title == "Example" else f"**{title}**{joint}{entries(body)}")
    return "\n\n".join(parts)


def entries(body: str) -> str:
    """`name: text` entries of a section as a list, those of one text in one line; a single one as a sentence."""
    text = re.sub(r"\n\s+", " ", body)
    if "\n" not in text or not all(ENTRY.match(line) for line in text.splitlines()):
        return ENTRY.sub(r"`\1`: ", text)
    names: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, meaning = line.partition(": ")
        names.setdefault(meaning, []).append(f"`{name}`")
    return "\n".join(f"- {', '.join(same)}: {meaning}" for meaning, same in names.items())


def described(package: Any) -> dict[str, str]:
    """Public name -> its first sentence: `__all__`, else what the modules of the package define."""
    modules = [importlib.import_module(found.name) for found in submodules(package)]
    constants: dict[str, str] = {}
    for module in [package, *modules]:
        constants |= settings.docstrings_under(ast.parse(inspect.getsource(module)))
    names = getattr(package, "__all__", None)
    if names is None:
        names = [name for module in modules for name in defined_in(module)]
    found = {}
    for name in sorted(names, key=str.lower):
        value = getattr(package, name, None) or next(getattr(one, name) for one in modules if hasattr(one, name))
        is_code = inspect.isclass(value) or inspect.isfunction(value)
        found[name] = first_sentence(value.__doc__ if is_code else constants.get(name))
    return found


def submodules(package: Any) -> list[pkgutil.ModuleInfo]:
    """The modules that lie in a package itself."""
    return [found for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.") if not found.ispkg]


def defined_in(module: Any) -> Iterable[str]:
    """Names of the public classes and functions of a module."""
    for name, value in vars(module).items():
        is_code = inspect.isclass(value) or inspect.isfunction(value)
        if is_code and not name.startswith("_") and value.__module__ == module.__name__:
            yield name


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    first = re.split(r"(?<=[.:]) (?=[A-Z])", paragraph)[0].rstrip(":")
    return re.sub(r" \([^()]*(docs/method\.md|20\d\d)[^()]*\)", "", first)


if __name__ == "__main__":
    main()

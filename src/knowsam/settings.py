"""Every setting with its default, its range and its meaning, read from the models that hold them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from knowsam.config import SHORT_BUDGET, Config, flat, resolve_config
from knowsam.methods import METHODS, StudentOptions, load_method

WIDTH = 100
KINDS = {str: "text", int: "whole number", float: "number", bool: "true, false", dict: "mapping"}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: As it is given: `train.lr`.
        default: Of the paper, as plain values; None where it is not set.
        range: What it may be, in words.
        meaning: One or two sentences.
    """

    name: str
    default: Any
    range: str
    meaning: str


@dataclass(frozen=True)
class SettingGroup:
    """Settings that stand together.

    Attributes:
        title: Their heading.
        settings: In the order of the model.
        changes: Preset -> what it changes, setting -> value in words.
    """

    title: str
    settings: tuple[Setting, ...]
    changes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


def all_settings(method: str | None = None) -> list[SettingGroup]:
    """The settings of a run, section by section, and of a method or else of `knowsam sam pretrain`.

    Args:
        method: What `load_method` knows; adds its options, and what the presets change for it.

    Raises:
        InputError: If there is no such method.
    """
    groups = [SettingGroup("run", tuple(describe_model(Config)))]
    for name, info in Config.model_fields.items():
        section: Any = info.annotation
        if _is_model(section):
            groups.append(SettingGroup(name, tuple(describe_model(section, f"{name}."))))
    return [*groups, method_settings(method) if method is not None else pretrain_settings()]


def method_settings(method: str) -> SettingGroup:
    """The options of a method, and what the presets change for it."""
    options = tuple(describe_model(load_method(method).Options, "options."))
    return SettingGroup(f"options of {method}", options, preset_changes_of(method))


def own_options(method: str) -> tuple[Setting, ...]:
    """The options of a method without those that all methods with one network share."""
    shared = {setting.name for setting in describe_model(StudentOptions, "options.")}
    model = load_method(method).Options
    inherited = shared if issubclass(model, StudentOptions) else set()
    return tuple(setting for setting in describe_model(model, "options.") if setting.name not in inherited)


def method_names() -> list[str]:
    """The methods of this package."""
    return [name for name in METHODS if load_method(name).__module__.startswith("knowsam.")]


def pretrain_settings() -> SettingGroup:
    """The settings of `knowsam sam pretrain`."""
    from knowsam.sam.pretrain.steps import PretrainConfig

    meanings = attributes_section(inspect.getdoc(PretrainConfig) or "")
    hints = typing.get_type_hints(PretrainConfig)
    settings = (
        Setting(field.name, _plain(field.default), range_text(hints[field.name]), meanings.get(field.name, ""))
        for field in dataclasses.fields(PretrainConfig)
    )
    return SettingGroup("knowsam sam pretrain", tuple(settings))


NO_PRESET = ("method", "preset", "train.steps", "train.validate_every")
"""What differs between resolved configurations without a preset's doing; the last follows the number of steps."""


def preset_changes_of(method: str) -> dict[str, dict[str, str]]:
    """Preset -> setting -> the value it has instead of the default, of a method."""
    defaults = flat(Config().model_dump(mode="json"))
    defaults |= flat({"options": load_method(method).Options().model_dump(mode="json")})

    def resolved(preset: str, steps: int) -> dict[str, Any]:
        values = flat(resolve_config({"method": method, "preset": preset, "train": {"steps": steps}}).model_dump())
        return {
            key: _plain(value)
            for key, value in values.items()
            if key not in NO_PRESET and _plain(value) != defaults.get(key)
        }

    changes = {}
    for preset in ("short", "paper"):
        most, least = resolved(preset, SHORT_BUDGET - 1), resolved(preset, 1)
        changes[preset] = {
            key: value_text(value)
            if value == least[key]
            else f"{value_text(value)} (up to {value_text(least[key])} in runs of very few steps)"
            for key, value in most.items()
        }
    return changes


def describe_model(model: type[BaseModel], prefix: str = "") -> list[Setting]:
    """The fields of a model that are no models themselves, in its order."""
    meanings = attribute_docstrings(model)
    return [
        Setting(
            prefix + name,
            _plain(info.get_default(call_default_factory=True)),
            range_text(info.annotation, info),
            info.description or meanings.get(name, ""),
        )
        for name, info in model.model_fields.items()
        if not _is_model(info.annotation) and name != "options"
    ]


def attribute_docstrings(model: type) -> dict[str, str]:
    """Name -> the text that stands under an attribute in the source, of a class and what it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__[:-1]):
        if base is BaseModel:
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # a class without a file
            continue
        found |= docstrings_under(ast.parse(textwrap.dedent(source)).body[0])
    return found


def docstrings_under(node: Any) -> dict[str, str]:
    """Name -> the text under its assignment, in the body of a class or module."""
    found = {}
    for before, after in pairwise(node.body):
        if not isinstance(before, ast.Assign | ast.AnnAssign):
            continue
        target = before.target if isinstance(before, ast.AnnAssign) else before.targets[0]
        said = after.value if isinstance(after, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(said, ast.Constant) and isinstance(said.value, str):
            found[target.id] = " ".join(said.value.split())
    return found


def attributes_section(docstring: str) -> dict[str, str]:
    """Name -> text, of the section `Attributes:` of a docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("\nAttributes:\n")[2].splitlines():
        text = line.strip()
        if line[:5].strip() and not line.startswith("    "):  # the next section
            break
        if line[:8].strip():
            name, _, text = text.partition(": ")
            found[name] = text
        elif name and text:
            found[name] += f" {text}"
    return found


def range_text(kind: Any, info: FieldInfo | None = None) -> str:
    """What a field may be, in words: `"number > 0, or null"`."""
    bounds = [
        f"{sign} {value_text(getattr(rule, name))}"
        for rule in (info.metadata if info is not None else ())
        for name, sign in BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    parts = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    words = [_kind_text(part) for part in parts if part is not types.NoneType]
    text = " or ".join(words) + (" " + ", ".join(bounds) if bounds else "")
    return text + (", or null" if types.NoneType in parts else "")


def _kind_text(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (list, tuple):
        inner = [_kind_text(part) for part in arguments if part is not Ellipsis]
        return f"list of {inner[0]}s" if len(inner) == 1 else f"[{', '.join(inner)}]"
    return KINDS.get(origin or kind, getattr(kind, "__name__", str(kind)))


def value_text(value: Any) -> str:
    """A value as YAML has it: `null`, `true`, `[256, 256]`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value) if value != "" else '""'


def settings_text(groups: Iterable[SettingGroup]) -> str:
    """For a terminal: each setting with its default and range, its meaning below it."""
    lines = [
        "Each is given as key=value, or in a YAML file (--config); values are YAML, and null means: not set.",
        f"Options of a method: knowsam settings METHOD, one of {', '.join(method_names())}.",
    ]
    for group in groups:
        lines += ["", group.title, "-" * len(group.title)]
        for setting in group.settings:
            lines.append(f"{setting.name} = {value_text(setting.default)}  ({setting.range})")
            lines += textwrap.wrap(setting.meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")
        for preset, changes in group.changes.items():
            if changes:
                lines += ["", f"preset={preset} changes", *(f"    {name} = {text}" for name, text in changes.items())]
    return "\n".join(lines)


def settings_json(groups: Sequence[SettingGroup]) -> list[dict[str, Any]]:
    """Everything as plain values."""
    return [dataclasses.asdict(group) for group in groups]


def _plain(value: Any) -> Any:
    """Lists for tuples, as in JSON."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return dict(value) if isinstance(value, Mapping) else value


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)

"""The configuration of a run: pydantic models, presets, YAML and `key=value`, and one sentence for every mistake."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from knowsam.errors import InputError, did_you_mean
from knowsam.plugins import names_file
from knowsam.presentation.text import shortened
from knowsam.storage import reason_of

if TYPE_CHECKING:
    from knowsam.data.labels import LabelSpec
    from knowsam.methods import Method

SHORT_BUDGET = 10_000
"""Below this many steps `preset: auto` means `short`; the paper's constants were made for 50,000."""

PRETRAIN_STEPS = 240
"""Steps that networks need on labelled images alone before they can teach each other (docs/method.md)."""

RECIPES = Path(__file__).with_name("recipes")
"""Folder of the recipes, one file each."""

RECIPE_SCALE = "short"
"""The recipe file that is no task: what a small machine changes in every other one."""


MOST_OF_A_VALUE = 80
"""Longest value in a sentence, in characters."""
MOST_PROBLEMS = 8
"""Most mistakes named at once: of a file that is none of ours everything is one."""

VALIDATE_AT_LEAST_EVERY = 200
"""Largest number of steps between validations, where none is asked for."""


MOST_VALUES = 10_000
"""In a configuration, lists of classes and their values included."""

LARGEST_SIDE = 1 << 14


def default_validate_every(steps: int) -> int:
    """Steps between validations of a run of so many steps: a tenth, so that no run of 5 steps has fewer than 5."""
    return max(1, min(VALIDATE_AT_LEAST_EVERY, steps // 10))


def paper_settings(method: type[Method], preset: str) -> dict[str, dict[str, Any]]:
    """What the paper of a method has differently and holds under a preset: how SAM is prompted, in short runs too."""
    return {"train": dict(method.paper_train) if preset == "paper" else {}, "sam": dict(method.paper_sam)}


def preset_changes(method: type[Method], preset: str, steps: int) -> dict[str, Any]:
    """What a preset changes for a run of so many steps.

    The models' own defaults are the values of KnowSAM's paper, so that `paper` changes only what the paper of another
    method has differently. docs/method.md says which values of `short` are measured.

    Args:
        method: Knows its own part: `Method.paper_train`, `Method.paper_sam`, `Method.short_options`.
        preset: `"paper"` or `"short"`.
        steps: Of the whole run.

    Returns:
        Settings, nested as in a configuration.
    """
    paper = paper_settings(method, preset)
    if preset == "paper":
        return paper
    # 30 % of the run, more where that is too few steps to learn anything, never more than 60 %.
    pretrain = min(0.6, max(0.3, PRETRAIN_STEPS / steps))
    return {
        "train": {
            "optimiser": "adamw",
            "lr": 2e-3,
            "ema": 0.99,
            "pretrain": pretrain,
            "flip": "auto",
            "class_prior": True,
        },
        "sam": {"lr": 1e-3, "temperature": 2.0, "kd_ramp": True, "prompt_spoil": 0.5, **paper["sam"]},
        "options": dict(method.short_options(pretrain)),
    }


def _parse_size(value: Any) -> Any:
    """`256`, `"192x256"` or `[192, 256]` -> `(H, W)`."""
    if isinstance(value, str):
        value = value.lower().split("x")
    if isinstance(value, int):
        value = [value]
    if isinstance(value, list | tuple) and len(value) == 1:
        value = [value[0], value[0]]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("a side in pixels, or height x width, e.g. 256 or 192x256")
    return value


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    for side in size:
        if side > LARGEST_SIDE:
            raise ValueError(f"at most {LARGEST_SIDE} a side")
        if side < 16 or side % 16:
            raise ValueError(f"multiples of 16, e.g. {max(16, round(side / 16) * 16)} instead of {side}")
    return size


def _parse_batch(value: Any) -> Any:
    """`"12+12"` or `[12, 12]` -> `(B_l, B_u)`."""
    if isinstance(value, str):
        value = value.split("+")
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("labelled + unlabelled images, e.g. 4+4")
    return value


def _check_batch(batch: tuple[int, int]) -> tuple[int, int]:
    if batch[0] < 1 or batch[1] < 0:
        raise ValueError("at least one labelled image, e.g. 4+4")
    return batch


def _parse_sam(value: Any) -> Any:
    """`sam: tiny` is short for `sam: {name: tiny}`; YAML reads a bare `no` or an empty value as none."""
    if value is None or value is False:
        return {"name": "none"}
    return {"name": value} if isinstance(value, str) else value


def _parse_amp(value: Any) -> Any:
    """YAML reads a bare `no` or `off` as false."""
    return "no" if value is False else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Which images, and how they become network input."""

    path: str = ""
    """The folder."""
    labelled: int | float | str | None = None
    """Groups that stay labelled: the first N, a share, or those of a list file; None: all with masks."""
    group_by: Literal["name", "prefix"] = "name"
    """Without groups.csv, what is one group: a name but for its slice number, or its prefix (`p01` of `p01_003`)."""
    size: Annotated[tuple[int, int], BeforeValidator(_parse_size), AfterValidator(_check_size)] = (256, 256)
    """Height and width the networks work at, in pixels, multiples of 16."""
    channels: Literal[1, 3] | None = None
    """Grey or RGB; None: RGB as soon as one labelled image has colour."""
    classes: int | list[str] | None = None
    """Number or names of the classes, background first; None: found in the masks."""
    label_values: list[int] | None = None
    """Mask values in the order of the classes."""
    ignore_value: int | None = None
    """Mask value of pixels nobody annotated."""
    mask_threshold: int | None = None
    """Two classes: every mask value from this one on is the object (docs/masks.md)."""
    instances: bool = False
    """Two classes: mask values number the objects."""
    stray_share: float = Field(0.0, ge=0, le=1)
    """Largest share of a mask's pixels with values of no class; they take the nearest one. 0: an error."""
    normalise: Literal["auto", "range", "percentile"] = "auto"
    """How intensities become [0, 1]: `range` divides by 255 (16 bit: 65535), `percentile` maps the 0.5th to 99.5th
    percentile; `auto`: `range` for 8-bit pictures."""
    axis: Literal[0, 1, 2] | None = None
    """Volumes are cut along it: sagittal, coronal, axial; None: that of largest spacing in most labelled ones."""
    context: Literal[1, 3, 5] = 1
    """Slices of a volume that the networks see at once, as channels: the one they segment and its neighbours."""
    val_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the labelled groups kept for validation where there is no val.txt; 0: no validation."""
    cache_mb: float = Field(4096, ge=0)
    """Memory for decoded images; others are decoded at each use."""
    workers: int = Field(0, ge=0)
    """Loader processes; 0 is fastest while the images fit into the cache."""

    @property
    def label_spec(self) -> LabelSpec:
        """What the settings say about mask values."""
        from knowsam.data.labels import LabelSpec

        return LabelSpec(**{name: getattr(self, name) for name in LabelSpec._fields})


class SamSettings(_Section):
    """The SAM teacher."""

    name: str = "auto"
    """`none`, `tiny`, `lite_medsam`, `vit_b`, `vit_l`, `vit_h`, `sam2_tiny`, `sam2_small`, `sam2_base_plus`,
    `sam2_large`, a Hugging Face directory or an original `.pth` file; `auto`: `lite_medsam` on a GPU where that is
    installed, `tiny` elsewhere."""
    train: Literal["auto", "adapters", "all"] = "auto"
    """What learns; `auto`: adapters and prompts of a pretrained SAM, everything of a small or random one."""
    pretrained: bool = True
    """False builds the published sizes with random weights, for measurements."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of Adam."""
    temperature: float = Field(10.0, gt=0)
    """T of the distillation loss."""
    kd_weight: float = Field(1.0, ge=0)
    """Weight of the distillation loss."""
    kd_ramp: bool = False
    """Let that weight rise along `exp(-5 (1 - t)^2)`; false: constant."""
    prompt_spoil: float = Field(0.0, ge=0, le=1)
    """Share of the labelled images whose prompt is the corrupted truth instead of the students' mask."""
    kd_resolution: Literal["image", "sam"] = "image"
    """Where students and SAM are compared: SAM's answer enlarged to the image, or the students averaged to its size."""
    normalise: Literal["auto", "sam", "unit"] = "auto"
    """`sam`: SAM's mean and deviation on images in [0, 1]; `unit`: as they are; `auto`: that for (Lite)MedSAM."""
    size: Literal["auto", "image"] | Annotated[int, Field(ge=16)] = "auto"
    """Longer side in pixels at which SAM sees the images; `image`: as the students do; `auto`: see docs/sam.md."""
    prompt: Literal["mask", "box", "box+mask", "box+point"] = "mask"
    """What prompts SAM: the students' mask, the box around the largest piece of each class in it, both, or a box and
    the innermost point."""
    adapter_init: Literal["zero", "default"] = "zero"
    """`zero` leaves the pretrained function as it was at step 0."""
    checkpointing: bool = False
    """Compute SAM's blocks again in the backward pass instead of keeping them: less memory, a longer step."""


class TrainConfig(_Section):
    """The training loop."""

    steps: int = Field(30_000, ge=1, le=10**9)
    """Optimiser steps of the whole run."""
    batch: Annotated[tuple[int, int], BeforeValidator(_parse_batch), AfterValidator(_check_batch)] = (12, 12)
    """Labelled + unlabelled images per step, over all processes."""
    seed: int = Field(0, ge=0, le=2**53)
    """Seed of initial weights, validation groups, batches, augmentation."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """Optimiser of the students; SAM always has Adam."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of the students at step 0; it falls linearly to 0."""
    pretrain: float = Field(0.0, ge=0, le=1)
    """Share of the run, at its start, that sees labelled images alone, B_l + B_u per step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`; `adamw` has none."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of the students' optimiser; SAM has none."""
    flip: Literal["auto", "both", "horizontal", "vertical", "none"] = "both"
    """Mirroring: `horizontal` swaps left and right of a picture; `vertical` top and bottom, of axial slices left and
    right; `auto`: both, but for those that turn round an order of classes which the labels always keep."""
    class_prior: bool = False
    """A V-Net begins at the share of each class in the labels (bias of its last layer)."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises from 0; 0: none."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the running average of the student's weights that is validated and kept; 0: the weights themselves."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient; None does not clip."""
    amp: Annotated[Literal["auto", "no", "bf16", "fp16"], BeforeValidator(_parse_amp)] = "auto"
    """Mixed precision; `auto`: on a GPU only."""
    cuda_graph: bool = True
    """On a GPU, record a step once and replay it, if the method allows it."""
    deterministic: bool = False
    """On a GPU, use algorithms that give the same numbers each time, where torch has them."""
    validate_every: int | None = Field(None, ge=1)
    """Steps between validations; the best student is kept. None: a tenth of the run, at most 200."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; None: at each validation."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of `metrics.jsonl` with the terms of the loss."""
    checkpointing: bool = False
    """Compute the student's passes again in the backward pass instead of keeping them: less memory, a longer step."""
    distil: Literal["none", "unet"] = "none"
    """Last phase: distil the finished networks into one U-Net (`distilled/`), in half as many steps again."""
    report: bool = True
    """Write `report.html` when the run has finished."""
    tensorboard: bool = False
    """Also write to `tensorboard/` in the run's folder; needs the extra `tensorboard`."""

    @property
    def validation_steps(self) -> int:
        """Steps between validations: those asked for, or `default_validate_every`."""
        return self.validate_every or default_validate_every(self.steps)


class Config(_Section):
    """A whole run. `options` are the method's own, see the method's `Options`."""

    method: str = "knowsam"
    """Name of a method, of this package or an installed one, or `FILE.py:CLASS`."""
    preset: Literal["auto", "short", "paper"] = "auto"
    """Which defaults: those of the method's `paper`, or those for `short` runs; `auto`: `short` below 10,000 steps."""
    data: DataConfig = DataConfig()
    sam: Annotated[SamSettings, BeforeValidator(_parse_sam)] = SamSettings()
    train: TrainConfig = TrainConfig()
    options: dict[str, Any] = {}

    def to_yaml(self) -> str:
        """The configuration as YAML that `resolve_config` reads back to the same."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def resolve_config(*layers: Mapping[str, Any]) -> Config:
    """Merge layers, later ones winning, over the preset they ask for, and check everything at once.

    Args:
        *layers: Nested mappings, e.g. of a YAML file, of `key=value` arguments, of command-line flags.

    Returns:
        A configuration whose `preset`, `options` and `train.validate_every` are resolved.

    Raises:
        InputError: Naming every unknown key, with the nearest known one, and every bad value.
    """
    from knowsam.methods import load_method

    given = merge_layers(*layers)
    _check_extent(given)
    # A method that does not exist ends it here: without it nothing can be said about the options.
    method = load_method(str(given.get("method", Config.model_fields["method"].default)))
    known = _known_keys(Config) + _known_keys(method.Options, "options.")
    first, problems = _read(Config, given, "", known)
    if isinstance(given.get("options", {}), Mapping):
        problems += _read(method.Options, given.get("options", {}), "options.", known)[1]
    if first is None or problems:
        raise InputError("configuration: " + " ".join(problems))
    preset = first.preset
    if preset == "auto":
        preset = "short" if first.train.steps < SHORT_BUDGET else "paper"
    given = _merge({"options": {}} | preset_changes(method, preset, first.train.steps), {**given, "preset": preset})
    resolved, problems = _read(method.Options, given["options"], "options.", known)
    if resolved is None:
        raise InputError("configuration: " + " ".join(problems))
    config = Config.model_validate({**given, "options": resolved.model_dump(mode="json")})
    train = config.train.model_copy(update={"validate_every": config.train.validation_steps})
    return config.model_copy(update={"train": train})


def read_resolved(values: Mapping[str, Any]) -> Config:
    """A configuration as `resolve_config` once gave it, read back.

    A setting that did not exist then has the value of its model, which changes nothing, not that of a preset.

    Whoever only reads a run need not know its method: one of a user's own may be registered in another process, and its
    file is not run for this.

    Raises:
        InputError: For an unknown key or a bad value.
    """
    from knowsam.methods import METHODS, load_method

    _check_extent(values)
    if METHODS.is_known(name := str(values.get("method"))):
        return resolve_config(Config(options=load_method(name).Options().model_dump(mode="json")).model_dump(), values)
    config, problems = _read(Config, values, "", _known_keys(Config))
    if config is None:
        raise InputError("configuration: " + " ".join(problems))
    resolved: Config = config
    return resolved


def _check_extent(values: Mapping[str, Any]) -> None:
    """Refuse what is no configuration by its size: a few lines of YAML can name one list in another a billion times.

    Raises:
        InputError: There are more than `MOST_VALUES` in it, however they are nested.
    """
    waiting: list[Any] = [values]
    seen = 0
    while waiting:
        one = waiting.pop()
        inner = list(one.values()) if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ()
        seen += len(inner)
        if seen > MOST_VALUES:
            raise InputError(
                f"configuration: more than {MOST_VALUES:,} values were found, each counted as often as a YAML alias"
                " repeats it, but expected some dozens; write out what is meant."
            )
        waiting.extend(inner)


def merge_layers(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, later ones winning key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    return merged


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"train.lr": 0.02, "data": {"size": 96}}` -> `{"train": {"lr": 0.02}, "data": {"size": 96}}`.

    Raises:
        InputError: For something else than a mapping, or a key that is no text.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"settings: {values!r} was found, but expected names and values; correct it.")
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise InputError(f"settings: the key {key!r} was found, but expected text such as 'train.lr'; correct it.")
        parsed = nest(value) if isinstance(value, Mapping) else value
        # The name of a method may be that of a file, under which `compare` takes its settings.
        for part in reversed([key] if names_file(key) else key.split(".")):
            parsed = {part: parsed}
        nested = _merge(nested, parsed)
    return nested


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Inverse of `nest`: `{"train": {"lr": 1}}` -> `{"train.lr": 1}`."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            named |= flat(value, f"{prefix}{key}.")
        else:
            named[prefix + key] = value
    return named


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a nested mapping.

    Raises:
        InputError: If it is missing, no YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: could not be read ({reason_of(error)}), but expected a YAML file; check the path."
        ) from error
    try:
        values = _parse_yaml(text)
    except _NoYamlError as error:
        raise InputError(f"{path}: no valid YAML ({error}); expected `key: value` lines; correct it.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: {type(values).__name__} was found, but expected `key: value` lines; correct it.")
    return values


class _NoYamlError(ValueError):
    """Text that is no YAML; says why in a few words."""


def _parse_yaml(text: str) -> Any:
    """What YAML text holds.

    Raises:
        _NoYamlError: It is no YAML; a date or number in it is none; it is too deep.
    """
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        at = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise _NoYamlError(f"{error.problem}{at}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2001-13-45, or a number too long
        raise _NoYamlError(reason_of(error)) from error


def _shown(value: object) -> str:
    """A value for a sentence, cut where it is long, wide or deep."""
    shortener = reprlib.Repr()
    shortener.maxlevel, shortener.maxlist, shortener.maxdict = 3, 8, 8
    shortener.maxstring = shortener.maxother = shortener.maxlong = MOST_OF_A_VALUE
    return shortened(shortener.repr(value), MOST_OF_A_VALUE)


def recipe_names() -> list[str]:
    """Return the names that `load_recipe` knows: a task at the paper's scale, and with `-short` for two cores."""
    files = RECIPES.iterdir()
    tasks = sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
    return [name + end for name in tasks if name != RECIPE_SCALE for end in ("", f"-{RECIPE_SCALE}")]


def load_recipe(name: str) -> dict[str, Any]:
    """Read the settings of a task that comes with the package.

    Args:
        name: A task at the paper's scale (`colonoscopy`), or with `-short` behind it for two processor cores.

    Returns:
        Nested settings, a layer for `resolve_config` below the user's own; no data folder is in them.

    Raises:
        InputError: For a name that is not known.
    """
    known = recipe_names()
    if name not in known:
        raise InputError(f"recipe: '{name}' was found, but expected one of {', '.join(known)}; correct it.")
    task = name.removesuffix(f"-{RECIPE_SCALE}")
    files = [task] if name == task else [task, RECIPE_SCALE]
    return merge_layers(*(yaml.safe_load((RECIPES / f"{file}.yaml").read_text(encoding="utf-8")) for file in files))


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """`["train.lr=0.02", "sam=none"]` -> `{"train": {"lr": 0.02}, "sam": "none"}`; values are read as YAML.

    Raises:
        InputError: For an argument without `=`, or whose value is no YAML.
    """
    nested: dict[str, Any] = {}
    for argument in arguments:
        shown = shortened(argument, MOST_OF_A_VALUE)
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise InputError(f"'{shown}' was found, but expected key=value, e.g. train.lr=0.02; correct it.")
        try:
            parsed = _parse_yaml(value)
        except _NoYamlError as error:
            raise InputError(
                f"'{shown}' was found, but the part after = is no valid YAML value ({error}); correct or quote it."
            ) from error
        nested = _merge(nested, nest({key: parsed}))
    return nested


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if key == "sam":
            value = _parse_sam(value)
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _read(model: type[BaseModel], values: Mapping[str, Any], prefix: str, known: list[str]) -> tuple[Any, list[str]]:
    """The model, or None and one sentence per problem. `prefix` says where in the configuration it stands."""
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        return None, _explain(error, prefix, known)


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        section = info.annotation
        keys.append(prefix + name)
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += _known_keys(section, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, prefix: str, known: list[str]) -> list[str]:
    unknown: list[str] = []
    found: dict[str, Any] = {}
    expected: dict[str, list[str]] = {}
    for item in error.errors():
        key = prefix + ".".join(part for part in item["loc"] if isinstance(part, str))
        if item["type"] == "extra_forbidden":
            # All keys of a section are listed once, however many strange ones it has.
            hint = _nearest(key, known)
            said = hint.startswith("; known") and any(one.endswith(hint) for one in unknown)
            unknown.append(f"the key '{shortened(key, MOST_OF_A_VALUE)}' does not exist{'.' if said else hint}")
            continue
        # pydantic appends the members of a union to the place; a person knows only the key.
        while key not in known and "." in key:
            key = key.rpartition(".")[0]
        found.setdefault(key, item["input"])
        message = "keys and values" if item["type"] in ("model_type", "dict_type") else item["msg"]
        message = message.removeprefix("Value error, ").removeprefix("Input should be ")
        if message not in expected.setdefault(key, []):
            expected[key].append(message)
    wrong = [f"{key}: {_shown(found[key])} was found, but expected: {' or '.join(expected[key])}." for key in expected]
    problems = unknown + wrong
    left = len(problems) - MOST_PROBLEMS
    return problems if left <= 0 else [*problems[:MOST_PROBLEMS], f"{left} more like these."]


def _nearest(key: str, known: list[str]) -> str:
    """The end of the sentence about an unknown key. A bare `lr` finds `train.lr`: the last parts are compared."""
    section, _, last = key.rpartition(".")
    by_last: dict[str, list[str]] = {}
    for name in known:
        by_last.setdefault(name.rpartition(".")[2], []).insert(0, name)
    here = {end: [name for name in names if name.rpartition(".")[0] == section] for end, names in by_last.items()}
    beside = [name for name in known if name.rpartition(".")[0] == section]
    return did_you_mean(
        last,
        by_last,
        otherwise=f"; known: {', '.join(beside)}.",
        shown={end: here[end] or names for end, names in by_last.items()},
    )

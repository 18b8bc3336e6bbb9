from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from knowsam import config as config_module
from knowsam.config import (
    SHORT_BUDGET,
    Config,
    load_recipe,
    load_yaml,
    parse_overrides,
    read_resolved,
    recipe_names,
    resolve_config,
)
from knowsam.errors import InputError
from knowsam.methods import METHODS
from knowsam.methods.knowsam import KnowSAMOptions
from knowsam.methods.supervised import SupervisedOptions


def nested(key: str, value: Any) -> dict[str, Any]:
    """`"a.b", 1` -> `{"a": {"b": 1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def get(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_the_paper_preset_is_the_papers_schedule() -> None:
    config = resolve_config({"preset": "paper"})
    train, sam = config.train, config.sam
    assert (train.optimiser, train.lr, train.momentum, train.weight_decay) == ("sgd", 0.01, 0.9, 1e-4)
    assert (train.batch, train.warmup, train.ema, config.data.size) == ((12, 12), 0, 0.0, (256, 256))
    assert (sam.lr, sam.temperature, sam.kd_weight, sam.kd_ramp) == (1e-4, 10.0, 1.0, False)
    options = KnowSAMOptions()
    assert (options.entropy_weight, options.consistency_weight, options.ramp_end) == (0.9, 1.0, 1.0)
    assert (options.ugda_start, options.ugda_cells, options.ugda_grid) == (0.24, 5, 4)
    assert (options.entropy_ramp, options.standardise) == (False, False)
    assert config.options == options.model_dump()


@pytest.mark.parametrize(
    ("steps", "preset"), [(SHORT_BUDGET - 1, "short"), (SHORT_BUDGET, "paper"), (1, "short"), (50_000, "paper")]
)
def test_auto_chooses_the_preset_by_budget_and_writes_down_which(steps: int, preset: str) -> None:
    assert resolve_config({"train": {"steps": steps}}).preset == preset


NETWORK = {"network": "unet", "network_arguments": {}, "standardise": False}
EMA = {"ema_decay": 0.99, "consistency_weight": 0.1, "ramp_end": 1.0, "noise": 0.1, "noise_limit": 0.2}
PAPER_OPTIONS = {
    "supervised": NETWORK,
    "mean_teacher": NETWORK | EMA,
    "ua_mt": NETWORK | EMA | {"passes": 8},
    "cps": NETWORK | {"pseudo_weight": 1.5, "ramp": False},
    "urpc": NETWORK | {"consistency_weight": 0.1, "ramp_end": 1.0},
    "bcp": NETWORK | {"box": 2 / 3, "unlabelled_weight": 0.5, "ema_decay": 0.99, "largest_component": True},
    "unimatch": NETWORK
    | {"confidence": 0.95, "image_weight": 0.5, "feature_weight": 0.5, "feature_dropout": 0.5, "cutmix": 0.5},
    "kd_sam": {"weights": "tiny", "train": "decoder", "dice": "plain", "standardise": False},
    "preference": NETWORK
    | {
        "target": "student", "thresholds": [0.3, 0.4, 0.5, 0.6], "pair_weights": [1.0, 0.5], "judge": "agreement",
        "swap": 0.0, "normalise": "region", "beta": 1.0, "anchor_weight": 1.0, "stay_weight": 0.1,
        "ramp_end": 1.0, "prompts": "student", "ema_decay": 0.99,
    },
    "sam_fed": NETWORK
    | {"agreement": "adaptive", "global_weight": 1.0, "agreement_weight": 1.0, "temperature": 2.0, "rounds": 50}
    | {"global_network": {}, "sam_start": 0.25, "ramp_end": 1.0},
    "sss": NETWORK
    | {"combine": "add", "pair": "weak_strong", "cutmix": 0.5, "confidence": 0.0, "ema_decay": 0.996}
    | {"prompt_every": 200, "window": "best", "continuity": 0.8, "teacher": "mean", "sam_start": 0.25, "memory": 0},
    "knowsam": {
        "entropy_weight": 0.9, "entropy_ramp": False, "consistency_weight": 1.0, "ramp_end": 1.0, "ugda_start": 0.24,
        "ugda_teacher": "sam", "ugda_confidence": 0.0, "ugda_cells": 5, "ugda_grid": 4, "ugda_select": "uncertain",
        "vnet_normalisation": "none", "residual_fusion": False, "standardise": False,
    },
}  # fmt: skip
SHORT_OPTIONS = {
    "mean_teacher": {"consistency_weight": 1.0, "ramp_end": 0.6},
    "ua_mt": {"consistency_weight": 1.0, "ramp_end": 0.6},
    "cps": {"ramp": True},
    "urpc": {"consistency_weight": 0.3, "ramp_end": 0.6},
    "knowsam": {
        "entropy_weight": 0.0, "entropy_ramp": True, "ugda_teacher": "mean", "ugda_confidence": 0.8,
        "vnet_normalisation": "batch", "residual_fusion": True,
    },
}  # fmt: skip
SHORT_TRAIN = {"optimiser": "adamw", "lr": 0.002, "ema": 0.99, "flip": "auto", "class_prior": True}
SHORT_SAM = {"lr": 0.001, "temperature": 2.0, "kd_weight": 1.0, "kd_ramp": True, "prompt_spoil": 0.5}


@pytest.mark.parametrize("method", PAPER_OPTIONS)
@pytest.mark.parametrize(("steps", "pretrain", "every"), [(100, 0.6, 10), (800, 0.3, 80), (20_000, 0.3, 200)])
def test_the_values_of_every_method_and_preset(method: str, steps: int, pretrain: float, every: int) -> None:
    """As they were when they were measured: a run of today is a run of then."""

    def resolved(preset: str) -> dict[str, Any]:
        return resolve_config({"method": method, "preset": preset, "train": {"steps": steps}}).model_dump()

    plain = Config(method=method).model_dump()
    plain["train"]["validate_every"] = every
    paper = plain | {"preset": "paper", "options": PAPER_OPTIONS[method]}
    first_stage = {"bcp": 0.25, "preference": 1 / 3}
    paper["train"] = plain["train"] | {"steps": steps, "pretrain": first_stage.get(method, 0.0)}
    paper["sam"] = plain["sam"] | {"prompt": "box+point" if method == "sss" else "mask"}
    assert resolved("paper") == paper

    short = paper | {"preset": "short", "options": PAPER_OPTIONS[method] | SHORT_OPTIONS.get(method, {})}
    short["train"] = plain["train"] | SHORT_TRAIN | {"steps": steps, "pretrain": pretrain}
    short["sam"] = paper["sam"] | SHORT_SAM
    if method in ("knowsam", "sam_fed", "sss"):
        short["options"]["ugda_start" if method == "knowsam" else "sam_start"] = pretrain
    assert resolved("short") == short


@pytest.mark.parametrize(
    ("steps", "every"), [(1, 1), (4, 1), (5, 1), (19, 1), (20, 2), (600, 60), (2000, 200), (30_000, 200)]
)
def test_a_run_is_validated_every_tenth_of_it_and_the_number_is_written_down(steps: int, every: int) -> None:
    config = resolve_config({"train": {"steps": steps}})
    assert config.train.validate_every == every
    assert steps // every >= min(5, steps)
    assert resolve_config({"train": {"steps": steps, "validate_every": 7}}).train.validate_every == 7
    # What was written down stays, also for a run that trains longer.
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 10 * steps})})
    assert longer.train.validation_steps == every


def test_every_method_has_its_values_here() -> None:
    assert list(METHODS.own) == list(PAPER_OPTIONS)


def test_no_method_but_the_default_is_named_by_the_configuration() -> None:
    text = Path(config_module.__file__).read_text(encoding="utf-8")
    assert [name for name in METHODS.own for _ in range(text.count(f'"{name}"'))] == ["knowsam"]


@pytest.mark.parametrize("key", [*leaves({"train": SHORT_TRAIN, "sam": SHORT_SAM}), "train.pretrain"])
def test_what_a_user_sets_wins_over_the_preset(key: str) -> None:
    default = get(Config(), key)
    assert get(resolve_config({"preset": "short"}, nested(key, default)), key) == default


@pytest.mark.parametrize("key", [*SHORT_OPTIONS["knowsam"], "ugda_start"])
def test_an_option_that_a_user_sets_wins_over_the_preset(key: str) -> None:
    default = KnowSAMOptions().model_dump()[key]
    config = resolve_config({"preset": "short", "options": {key: default}})
    assert config.options[key] == default
    assert config.options != KnowSAMOptions().model_dump()  # the preset's other options stand


@pytest.mark.parametrize(("steps", "share"), [(100, 0.6), (480, 0.5), (800, 0.3), (9000, 0.3)])
def test_short_runs_spend_more_of_their_steps_on_labels_alone(steps: int, share: float) -> None:
    config = resolve_config({"train": {"steps": steps}})
    assert config.train.pretrain == config.options["ugda_start"] == share


def test_a_presets_options_are_those_of_the_method_alone() -> None:
    assert set(resolve_config({"preset": "short", "method": "supervised"}).options) == set(
        SupervisedOptions.model_fields
    )


def test_later_layers_win_key_by_key() -> None:
    config = resolve_config(
        {"train": {"lr": 0.1, "steps": 7}, "options": {"ugda_cells": 2}},
        {"train": {"lr": 0.2}},
        {"train": {"seed": 3}, "options": {"ugda_grid": 3}},
    )
    assert (config.train.lr, config.train.steps, config.train.seed) == (0.2, 7, 3)
    assert (config.options["ugda_cells"], config.options["ugda_grid"]) == (2, 3)


def test_resolving_changes_no_layer() -> None:
    layer = {"train": {"lr": 0.1}, "options": {}}
    resolve_config(layer, {"train": {"lr": 0.2}, "options": {"ugda_cells": 1}})
    assert layer == {"train": {"lr": 0.1}, "options": {}}


@pytest.mark.parametrize("value", ["none", None, False, {"name": "none"}])
def test_sam_can_be_switched_off_in_all_the_ways_people_write_it(value: Any) -> None:
    assert resolve_config({"sam": value}).sam.name == "none"


def test_sam_null_in_yaml_is_no_sam(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("sam: null\n")
    assert resolve_config(load_yaml(file)).sam.name == "none"


@pytest.mark.parametrize(("text", "amp"), [("no", "no"), ("off", "no"), ("'no'", "no"), ("bf16", "bf16")])
def test_mixed_precision_can_be_switched_off_on_the_command_line(text: str, amp: str) -> None:
    config = resolve_config(parse_overrides([f"train.amp={text}"]))
    assert config.train.amp == amp
    assert resolve_config(yaml.safe_load(config.to_yaml())) == config


def test_a_sam_given_by_name_keeps_the_other_settings_of_lower_layers() -> None:
    config = resolve_config({"sam": {"name": "vit_b", "lr": 0.5}}, {"sam": "tiny"})
    assert (config.sam.name, config.sam.lr) == ("tiny", 0.5)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (96, (96, 96)),
        ("96", (96, 96)),
        ("96x128", (96, 128)),
        ("96X128", (96, 128)),
        ([96, 128], (96, 128)),
        ([96], (96, 96)),
    ],
)
def test_size_shorthands(value: Any, size: tuple[int, int]) -> None:
    assert resolve_config({"data": {"size": value}}).data.size == size


@pytest.mark.parametrize("value", ["4+6", [4, 6], (4, 6), "4 + 6"])
def test_batch_shorthands(value: Any) -> None:
    assert resolve_config({"train": {"batch": value}}).train.batch == (4, 6)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data.size", 100, "multiples of 16, e.g. 96 instead of 100"),
        ("data.size", "8x32", "multiples of 16, e.g. 16 instead of 8"),
        ("data.size", [32, 32, 32], "a side in pixels, or height x width"),
        ("train.batch", "12", r"labelled \+ unlabelled images, e.g. 4\+4"),
        ("train.batch", 12, r"labelled \+ unlabelled images, e.g. 4\+4"),
        ("train.batch", "0+4", "at least one labelled image"),
        ("train.steps", 0, "greater than or equal to 1"),
        ("train.lr", float("inf"), "a finite number"),
        ("train.optimiser", "adam", "'sgd' or 'adamw'"),
        ("sam", 3, "keys and values"),
        ("train", 3, "keys and values"),
        ("options", 3, "keys and values"),
        ("options.ugda_select", "best", "'uncertain' or 'confident'"),
        ("data.classes", 2.5, "a valid integer.* or a valid list"),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_what_was_expected(key: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError, match=rf"{key}: .* was found, but expected: {expected}") as error:
        resolve_config(nested(key, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("lr", "'train.lr' or 'sam.lr'"),
        ("stepps", "'train.steps'"),
        ("train.lrr", "'train.lr'"),
        ("train.sise", "'sam.size' or 'data.size'"),
        ("data.sizes", "'data.size'"),
        ("sam.temprature", "'sam.temperature'"),
        ("options.ugda_strat", "'options.ugda_start'"),
        ("ugda_start", "'options.ugda_start'"),
        ("methd", "'method'"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(key: str, nearest: str) -> None:
    with pytest.raises(InputError, match=rf"the key '{key}' does not exist; did you mean {nearest}\?"):
        resolve_config(nested(key, 1))


def test_a_key_that_resembles_none_is_told_with_all_keys_beside_it() -> None:
    with pytest.raises(InputError, match="'zzzz' does not exist; known: method, preset, data, sam, train, options"):
        resolve_config({"zzzz": 1})


def test_all_keys_beside_strange_ones_are_listed_once_for_each_section() -> None:
    with pytest.raises(InputError) as error:
        resolve_config({"zzzz": 1, "1234": 1, "train": {"zzzz": 1, "1234": 1}})
    text = str(error.value)
    assert text.count("does not exist") == 4
    assert text.count("; known: method,") == text.count("; known: train.steps,") == 1


def test_an_option_of_another_method_is_unknown() -> None:
    with pytest.raises(InputError, match=r"'options.ugda_start' does not exist"):
        resolve_config({"method": "supervised", "options": {"ugda_start": 0.1}})


def test_an_unknown_method_is_told_with_the_nearest_known_one() -> None:
    with pytest.raises(InputError, match="did you mean 'knowsam'"):
        resolve_config({"method": "knowsan"})


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        resolve_config(
            {
                "lrr": 1,
                "data": {"size": 100},
                "train": {"steps": -1, "batch": "0+1"},
                "options": {"foo": 1, "ugda_grid": 0},
            }
        )
    for part in ("'lrr'", "data.size", "train.steps", "train.batch", "'options.foo'", "options.ugda_grid"):
        assert part in str(error.value), part


@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"preset": "short", "sam": None},
        {"method": "supervised", "train": {"steps": 5, "lr": 1e-5, "clip": 1e-7, "checkpoint_every": 3}},
        {"data": {"size": "32x48", "labelled": 0.1, "classes": ["a", "ä: b"], "label_values": [0, 255], "axis": 2}},
        {"data": {"labelled": "10%", "path": "a b/ü", "classes": 4, "ignore_value": 255}},
    ],
)
def test_yaml_round_trip_is_exact(layer: dict[str, Any], tmp_path: Path) -> None:
    config = resolve_config(layer)
    file = tmp_path / "c.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert resolve_config(load_yaml(file)) == config


def test_a_resolved_configuration_does_not_change_its_preset_with_the_budget() -> None:
    config = resolve_config({"train": {"steps": 5}})
    longer = resolve_config(config.model_dump(), {"train": {"steps": 10 * SHORT_BUDGET}})
    assert longer == config.model_copy(update={"train": config.train.model_copy(update={"steps": 10 * SHORT_BUDGET})})


@pytest.mark.parametrize("method", ["supervised", "knowsam"])
def test_a_setting_that_an_older_run_did_not_know_changes_nothing_in_it(method: str) -> None:
    resolved = resolve_config({"method": method, "train": {"steps": 300, "lr": 0.004}, "data": {"path": "a"}})
    assert read_resolved(resolved.model_dump(mode="json")) == resolved
    older = resolved.model_dump(mode="json")
    del older["train"]["class_prior"]
    older["options"].pop("ugda_teacher", None)
    read = read_resolved(older)
    assert not read.train.class_prior
    assert read.options.get("ugda_teacher", "sam") == "sam"
    assert read.train.flip == "auto"
    assert read.train.lr == 0.004


def test_overrides_are_read_as_yaml() -> None:
    arguments = [
        "train.lr=0.02",
        "sam=none",
        "data.classes=[a, b]",
        "train.clip=null",
        "train.batch=4+4",
        "data.size=32x48",
    ]
    assert parse_overrides(arguments) == {
        "train": {"lr": 0.02, "clip": None, "batch": "4+4"},
        "sam": {"name": "none"},
        "data": {"classes": ["a", "b"], "size": "32x48"},
    }


def test_a_number_in_scientific_notation_is_a_number() -> None:
    # YAML 1.1 reads 1e-3 as text.
    assert resolve_config(parse_overrides(["train.lr=1e-3"])).train.lr == 1e-3


@pytest.mark.parametrize("argument", ["train.lr", "=3", "train.lr=[1"])
def test_an_override_that_cannot_be_read_is_quoted(argument: str) -> None:
    with pytest.raises(InputError) as error:
        parse_overrides([argument])
    assert str(error.value).startswith(f"'{argument}' was found")


@pytest.mark.parametrize(
    ("text", "match"), [("- a\n- b\n", "list was found"), ("a: [1\n", "no valid YAML"), (None, "could not be read")]
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str | None, match: str) -> None:
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=match) as error:
        load_yaml(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "value", ["2001-13-45", "1" * 5000, "[" * 5000, "[1", "2001-12-05", "&a [*a]", "x" * 100_000], ids=lambda v: v[:12]
)
def test_whatever_yaml_holds_is_one_short_sentence(value: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"train:\n  lr: {value}\n")
    for read in (lambda: parse_overrides([f"train.lr={value}"]), lambda: load_yaml(tmp_path / "c.yaml")):
        with pytest.raises(InputError) as error:
            resolve_config(read())
        assert len(str(error.value)) < 400 + len(str(tmp_path))
        assert "\n" not in str(error.value)


def test_of_a_file_that_is_none_of_ours_the_first_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("".join(f"key_{i}: 1\n" for i in range(30)))
    with pytest.raises(InputError, match=r"'key_7' .* 22 more like these\.$"):
        resolve_config(load_yaml(tmp_path / "c.yaml"))


def test_an_empty_file_is_the_default_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert resolve_config(load_yaml(tmp_path / "c.yaml")) == resolve_config()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_configuration(name: str) -> None:
    config = resolve_config(load_recipe(name))
    short = name.endswith("-short")
    assert config.preset == ("short" if short else "paper")
    assert (config.train.steps, config.train.batch) == ((300, (4, 4)) if short else (50_000, (12, 12)))
    assert config.data.size == ((128, 128) if short else (256, 256))
    assert config.data.labelled == "10%"


def test_recipe_of_a_small_machine_keeps_the_task() -> None:
    assert load_recipe("cardiac-short")["data"]["classes"] == load_recipe("cardiac")["data"]["classes"]


@pytest.mark.parametrize("name", ["colon", "short", "colonoscopy-long"])
def test_unknown_recipe(name: str) -> None:
    with pytest.raises(InputError, match=f"recipe: '{name}' was found, but expected one of cardiac, cardiac-short"):
        load_recipe(name)


@pytest.mark.parametrize("last", ["data: {classes: *f}", "options: *f"])
def test_aliases_that_multiply_are_refused(last: str, tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in pairwise("abcdef")]
    path = tmp_path / "a.yaml"
    path.write_text("\n".join([*lines, last]) + "\n")
    with pytest.raises(InputError, match="more than 10,000 values were found"):
        resolve_config(load_yaml(path))
    path.write_text("data: &a {classes: *a}\n")
    with pytest.raises(InputError, match="values were found"):
        resolve_config(load_yaml(path))


@pytest.mark.parametrize("setting", ["train.seed=0xfffffffffffffffffff", "train.steps=99999999999", "data.size=160000"])
def test_numbers_that_nothing_can_hold_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match="was found, but expected"):
        resolve_config(parse_overrides([setting]))

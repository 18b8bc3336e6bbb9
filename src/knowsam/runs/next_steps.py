"""The commands to run after a training: the same lines on the terminal and in the report."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from knowsam.config import Config, DataConfig, TrainConfig

# Settings that decide on which images a run is validated, and when: two runs are comparable only if these are equal.
KEPT_FOR_BASELINE = (
    ("data", "val_fraction", DataConfig),
    ("data", "classes", DataConfig),
    ("data", "channels", DataConfig),
    ("data", "label_values", DataConfig),
    ("data", "ignore_value", DataConfig),
    ("data", "mask_threshold", DataConfig),
    ("data", "instances", DataConfig),
    ("data", "stray_share", DataConfig),
    ("data", "normalise", DataConfig),
    ("data", "axis", DataConfig),
    ("train", "validate_every", TrainConfig),
)


class NextCommand(NamedTuple):
    """A command to copy, and its purpose. Words in capitals are for the user to replace."""

    purpose: str
    command: str


def next_commands(run: Path, data: str, steps: int, unlabelled: bool) -> list[NextCommand]:
    """What can be done with a trained run.

    Args:
        run: The run's folder.
        data: The data folder it was trained on.
        steps: The steps it was trained for.
        unlabelled: Whether the data have images without a mask that could be labelled next.
    """
    name = shlex.quote(str(run))
    commands = [
        NextCommand("segment new images", f"knowsam predict {name} IMAGES --out preds/ --overlay"),
        NextCommand("score them against true masks", "knowsam evaluate preds/ TRUE_MASKS --out scores/"),
        NextCommand("deploy without torch", f"knowsam export {name} --to model.onnx"),
        NextCommand("train longer", f"knowsam train --resume {name} --steps {2 * steps}"),
        NextCommand("draw the report again", f"knowsam report {name}"),
    ]
    if unlabelled:
        choose = NextCommand("choose what to label next", f"knowsam suggest {name} {shlex.quote(data)} -n 10")
        commands.insert(2, choose)
    return commands


def baseline_command(run: Path, config: Config) -> NextCommand:
    """The command for a supervised run beside this one, on the same data, split, size, steps, batch and seed."""
    data, train = config.data, config.train
    beside = (run.parent if run.name else Path("..")) / f"{run.resolve().name}-supervised"
    words = ["knowsam", "train", data.path, "--out", str(beside)]
    words += ["--method", "supervised", "--size", "x".join(map(str, data.size)), "--steps", str(train.steps)]
    words += ["--batch", "+".join(map(str, train.batch)), "--seed", str(train.seed), "sam=none"]
    if data.labelled is not None:
        words += ["--labelled", str(data.labelled)]
    for section, key, model in KEPT_FOR_BASELINE:
        value = getattr(getattr(config, section), key)
        if value != model.model_fields[key].default:
            words.append(f"{section}.{key}={json.dumps(value)}")
    return NextCommand("train the supervised baseline to compare with", shlex.join(words))

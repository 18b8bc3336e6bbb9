"""The commands to run after a training: the same lines on the terminal and in the report."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from knowsam.config import Config, DataConfig, TrainConfig, default_validate_every
from knowsam.presentation.text import size_text

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


WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
"""A word as a shell sees it, quotes and all."""


def wrapped_command(command: str, width: int, indent: int = 0) -> str:
    """A command in lines that fit and that a shell takes as one, each but the last ending in a backslash.

    Args:
        command: In one line.
        width: Of the terminal, in characters; a word that is longer has a line of its own.
        indent: Spaces before the first line; later ones have two more.
    """
    lines, line = [], " " * indent
    for word in WORD.findall(command):
        longer = f"{line} {word}" if line.strip() else line + word
        if len(longer) > width - 2 and line.strip():  # 2: the backslash
            lines.append(line + " \\")
            longer = " " * (indent + 2) + word
        line = longer
    return "\n".join([*lines, line])


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
    words += ["--method", "supervised", "--size", size_text(data.size), "--steps", str(train.steps)]
    words += ["--batch", "+".join(map(str, train.batch)), "--seed", str(train.seed), "sam=none"]
    if data.labelled is not None:
        words += ["--labelled", str(data.labelled)]
    for section, key, model in KEPT_FOR_BASELINE:
        value = getattr(getattr(config, section), key)
        default = model.model_fields[key].default
        if key == "validate_every":
            default = default_validate_every(train.steps)
        if value != default:
            words.append(f"{section}.{key}={json.dumps(value)}")
    return NextCommand("train the supervised baseline to compare with", shlex.join(words))

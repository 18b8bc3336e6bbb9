"""`MODEL_CARD.md`: what a person must know about an exported file before using it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsam.config import load_yaml
from knowsam.data.split import Split
from knowsam.errors import InputError
from knowsam.presentation.markdown import Markdown, code, plain, table
from knowsam.presentation.pictures import class_colour, css_colour
from knowsam.runs.data_record import read_masks_judged
from knowsam.runs.folder import RunFolder, seconds_spent

if TYPE_CHECKING:
    from knowsam.inference.export import Exported
    from knowsam.runs.student_file import StudentInfo

CARD_NAME = "MODEL_CARD.md"
UNKNOWN = "The file was exported from a student without its run folder: not known here.\n"

INTENDED_USE = """Research on images like those it was trained on: the same kind of scanner or camera, view and
patients. *Add here who may use it, for what, and who answers for it.*

**Not a medical device.** No regulator has cleared it, and nothing here shows that it is safe or useful for a patient.
Its masks are proposals that a person qualified to draw them must check; they must not decide on a diagnosis or a
treatment.
"""

LIMITS = """- It answers every image, also one of another organ, modality or view, and does not say that it does not
  know.
- Images are stretched to {height} x {width} pixels (height x width) before, probabilities back after: what is smaller
  than a pixel there is lost.
- It looks at single slices: neighbouring slices of a volume may disagree.
- Probabilities are the network's softmax. They were not calibrated.
- The scores above come from images that helped to choose the checkpoint, from the same source as the training images:
  expect less elsewhere. Measure on your own annotated images (`knowsam predict`, `knowsam evaluate`) before any use.
"""


def check_card_is_ours(card: Path, model: Path) -> None:
    """Make sure that the card to be written does not replace the card of another file.

    Raises:
        InputError: If one is there.
    """
    if card.exists() and _mark(model) not in card.read_text(encoding="utf-8"):
        raise InputError(
            f"{card}: the card of another model was found, but expected none or that of {model.name}; export into a"
            " folder of its own, or move that card away."
        )


def model_card(exported: Exported, folder: RunFolder) -> str:
    """The card of an exported file, as Markdown.

    Args:
        exported: The file, already written.
        folder: The run it came from; the card calls unknown what is missing there.
    """
    info, path = exported.info, exported.path
    config = load_yaml(folder.config) if folder.config.exists() else None
    content = path.read_bytes()
    height, width = info.preprocessing.size
    file = {
        "file": Markdown(f"{code(path.name)}, {len(content) / 1e6:.1f} MB"),
        "sha256": code(hashlib.sha256(content).hexdigest()),
        "network": f"{exported.network}, {exported.parameters:,} parameters, after {info.step} training steps",
        "input": Markdown(
            f"{code(f'(batch, {info.preprocessing.in_channels}, H, W)')} float32 in [0, 1], H and W multiples of 16;"
            f" trained at {height} x {width}"
        ),
        "output": Markdown(f"class probabilities {code(f'(batch, {len(info.class_names)}, H, W)')} float32"),
        "verified": str(exported.verification),
        "written by": f"knowsam {info.version}",
    }
    parts = [
        f"# Model card: {plain(path.stem)}\n\n{_mark(path)}\n",
        table(("", ""), file.items()),
        "## Intended use\n\n" + INTENDED_USE,
        "## Classes\n\n" + _classes(info),
        "## Data\n\n" + (UNKNOWN if config is None else _data(config, folder)),
        "## Scores\n\n" + _scores(info),
        "## Training\n\n" + (UNKNOWN if config is None else _training(config, folder)),
        "## Limits\n\n" + LIMITS.format(height=height, width=width),
    ]
    return "\n".join(parts)


def _mark(model: Path) -> str:
    return f"<!-- Written by `knowsam export` for {plain(model.name)}; exporting it again writes it anew. -->"


def _classes(info: StudentInfo) -> str:
    values = info.mask_values or range(len(info.class_names))
    rows = [
        (index, name, value, "not drawn" if index == 0 else css_colour(class_colour(index)))
        for index, (name, value) in enumerate(zip(info.class_names, values, strict=True))
    ]
    return table(("index", "name", "value in a mask file", "colour"), rows)


def _data(config: dict[str, Any], folder: RunFolder) -> str:
    name = Path(config["data"]["path"]).name
    if not folder.split.exists():
        return f"Folder {code(name)}; how it was split is not known here.\n"
    split = Split.read(folder.split)
    judged = read_masks_judged(folder)
    rows = [
        ("labelled: images and masks trained on", len(split.labelled)),
        ("unlabelled: without masks, or with masks hidden from training", len(split.unlabelled)),
        *([("of these, masks read to rank candidate masks", judged)] if judged else []),
        ("validation: chose the checkpoint", len(split.val)),
        ("test: never opened in training", len(split.test)),
    ]
    said = f"Folder {code(name)}. No group (patient) is on two sides of the split, as far as the data state groups.\n\n"
    return said + table(("part", "files"), rows)


def _scores(info: StudentInfo) -> str:
    if not info.validation:
        return "None: the weights were kept without validation.\n"
    rows = []
    for network, scores in info.validation.items():
        spread = scores.get("sd", [None] * len(scores["per_class"]))
        classes = [_with_spread(value, sd) for value, sd in zip(scores["per_class"], spread, strict=True)]
        rows.append((network, *classes, f"{scores['dice']:.3f}"))
    first = next(iter(info.validation.values()))
    volumes = f"{first['volumes']} validation volumes" if "volumes" in first else "the validation volumes"
    spread_text = (
        "± is the standard deviation over volumes"
        if "sd" in first
        else "their spread over volumes was not recorded (one volume, or an older run)"
    )
    return (
        f"Dice per volume at native size, mean over {volumes}, at the step that was kept; {spread_text}. A class absent"
        " from mask and truth counts as 1.\n\n" + table(("network", *info.class_names[1:], "mean"), rows)
    )


def _with_spread(value: float | None, sd: float | None) -> str:
    if value is None:
        return "in no mask"
    return f"{value:.3f}" if sd is None else f"{value:.3f} ± {sd:.3f}"


def _training(config: dict[str, Any], folder: RunFolder) -> str:
    train, data = config["train"], config["data"]
    rows = {
        "method": f"{config['method']}, SAM teacher: {config['sam']['name']}, preset {config['preset']}",
        "steps, batch": f"{train['steps']}, {train['batch'][0]}+{train['batch'][1]}",
        "size": f"{data['size'][0]} x {data['size'][1]} pixels (height x width)",
        "optimiser": f"{train['optimiser']}, learning rate {train['lr']}, averaged weights {train['ema'] or 'none'}",
        "seed": train["seed"],
    }
    if folder.metrics.exists():
        rows["time"] = f"{seconds_spent(folder.read_metrics()) / 60:.0f} min"
    if folder.environment.exists():
        found = json.loads(folder.environment.read_text(encoding="utf-8"))
        packages = found["packages"]
        rows["hardware"] = f"{found['device']}, CPU threads: {found['threads']}"
        rows["software"] = f"Python {found['python']}, torch {packages['torch']}, knowsam {packages['knowsam']}"
        rows["source revision"] = found["git_revision"] or "unknown"
    return table(("", ""), rows.items())

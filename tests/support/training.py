"""Methods, batches and runs small enough for one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from knowsam.config import Config, resolve_config
from knowsam.methods import Method
from knowsam.sam.prompts import LAST_WEIGHT
from knowsam.training.build import build_method
from knowsam.types import Batch
from support.small_sam_2 import small_sam_2_folder
from support.tiny_vit_sams import small_lite_medsam

SIZE = (32, 48)
DFE_BACK = tuple(f"enhance.scales.{scale}.back." for scale in range(5))


def small_method(name: str, sam: str = "none", K: int = 3, **options: Any) -> Method:
    """A method with the paper's constants for grey images of `SIZE`, as `train` builds it.

    `sam` is a name as in a configuration, `small_lite_medsam` or `small_sam_2`.
    """
    teacher: Any = sam
    if sam == "small_lite_medsam":  # sees less than the students, and boxes
        teacher = {"name": small_lite_medsam(), "size": 32, "prompt": "box+mask", "train": "adapters"}
    elif sam == "small_sam_2":  # sees the images larger than they are
        teacher = small_sam_2_folder()
    values = {"method": name, "preset": "paper", "data": {"size": SIZE}, "sam": teacher, "options": options}
    return build_method(resolve_config(values), 1, K)


def wake_adapters(method: Method) -> None:
    """Leave the zero initialisation of adapters, prompts and DFE, under which what lies before it has no gradient."""
    for name, parameter in method.named_parameters():
        if ".adapter.up." in name or name.endswith(LAST_WEIGHT) or name.startswith(DFE_BACK):
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))


def small_batch(K: int = 3, labelled: int = 2, unlabelled: int = 3, seed: int = 0) -> Batch:
    """Noise images with blocky labels in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, K, (labelled, 4, 6), generator=generator)
    blocks[:, 0, :K] = torch.arange(K)
    label = blocks.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    image = torch.rand(labelled + unlabelled, 1, *SIZE, generator=generator)
    return Batch(image[:labelled], label, image[labelled:] if unlabelled else None)


def run_config(data: Path, *layers: dict[str, Any], sam: str = "none", steps: int = 4) -> Config:
    """A run that logs every step, validates and saves every second one, and draws nothing at its end."""
    base = {
        "method": "knowsam",
        "preset": "paper",
        "sam": sam,
        "data": {"path": str(data), "size": 32, "val_fraction": 0.25},
        "train": {"steps": steps, "batch": "2+2", "validate_every": 2, "log_every": 1, "report": False},
    }
    return resolve_config(base, *layers)


def make_run_with_cases(root: Path, **data: Any) -> Path:
    """A run of three classes with three validation cases and a supervised run beside it, both of four steps."""
    from knowsam.training.run import train
    from support.folders import make_folder

    folder = make_folder(root / "data", n_images=12, n_masks=9, groups=[f"g{i}" for i in range(12)])
    chosen = {"data": {"val_fraction": 0.34, **data}}
    train(run_config(folder, chosen, {"method": "supervised", "options": {}}), root / "runs" / "base", quiet=True)
    train(run_config(folder, chosen), root / "runs" / "mine", quiet=True)
    return root / "runs" / "mine"

"""A SAM from a Hugging Face directory, or from the hub's cache on this machine."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knowsam.errors import InputError
from knowsam.presentation.text import quoted, shortened
from knowsam.sam.loading.report import LoadReport, report_of, require_known_keys, weights_sha256
from knowsam.storage import reason_of

HUB_NAMES = {
    "vit_b": "facebook/sam-vit-base",
    "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
    "sam2_tiny": "facebook/sam2.1-hiera-tiny",
    "sam2_small": "facebook/sam2.1-hiera-small",
    "sam2_base_plus": "facebook/sam2.1-hiera-base-plus",
    "sam2_large": "facebook/sam2.1-hiera-large",
}
CONFIG = "config.json"
VIDEO_TYPE = "sam2_video"
"""`model_type` of the published SAM 2, whose memory of videos no image needs."""
# In transformers' order. A file of shards is listed by its index.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
HUB_FILES = (CONFIG, "model.safetensors")
PARTS = re.compile(r"^num_|depth|layers|blocks")
"""Keys of a configuration that say how many of something are built."""
MOST_PARTS, LARGEST_NUMBER = 1_000, 1_000_000
"""Far beyond every published SAM."""


def load_hub(name: str) -> tuple[nn.Module, LoadReport]:
    """Load published weights by their short name: from the cache if they are in it, else from the hub.

    Args:
        name: A key of `HUB_NAMES`.

    Returns:
        As `load_folder`.

    Raises:
        InputError: If they are not in the cache and cannot be fetched, with what to do without a network.
    """
    repository = HUB_NAMES[name]
    folder = _cached(repository)
    if folder is None:
        folder = _fetched(repository, name)
    return load_folder(folder, name, repository)


def load_folder(folder: Path, name: str, source: str | None = None) -> tuple[nn.Module, LoadReport]:
    """Load a directory made by `save_pretrained` or downloaded from the hub; nothing is downloaded here.

    Args:
        folder: Holds `config.json` and the weights of a `SamModel`, a `SamHQModel`, or a `Sam2Model` with or without
            its memory of videos, which is left out.
        name: The name it goes by, for the report.
        source: Where it came from, for the report; the folder by default.

    Returns:
        The model in evaluation mode, in single precision, and what was loaded.

    Raises:
        InputError: If it is no SAM, broken, or has a key too many or too few.
    """
    model_class = _model_class(folder)
    files = _weight_files(folder)
    try:
        with silent_transformers():
            sam, info = model_class.from_pretrained(
                folder, output_loading_info=True, dtype=torch.float32, local_files_only=True, weights_only=True,
                ignore_mismatched_sizes=True,  # reported below, with all other keys
            )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # transformers, torch and safetensors stumble over strange files in many ways
        raise InputError(
            f"{folder}: could not be loaded ({reason_of(error)}), but expected the whole files of a Hugging Face"
            " SamModel, SamHQModel or Sam2Model; copy or download them again."
        ) from error
    mismatched = {
        str(key): f"{list(found)} instead of {list(expected)}" for key, found, expected in info["mismatched_keys"]
    }
    require_known_keys(folder, list(info["missing_keys"]), list(info["unexpected_keys"]), mismatched)
    report = report_of(sam, name, source or str(folder), weights_sha256(files))
    if sam.config.model_type == VIDEO_TYPE:
        report = dataclasses.replace(report, note="its memory of other frames is left out: images are seen one by one")
    return sam.eval(), report


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Within the block transformers prints no progress bar and no table of keys; both are reported by this package."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _model_class(folder: Path) -> Any:
    from transformers import Sam2Model, SamHQModel, SamModel

    from knowsam.sam.backbone.student import FINE_MODEL_TYPE, FineStudentSam, StudentSam
    from knowsam.sam.backbone.student import MODEL_TYPE as STUDENT
    from knowsam.sam.backbone.tiny import MODEL_TYPE, TinySam

    kinds = {
        "sam": SamModel, "sam_hq": SamHQModel, "sam2": Sam2Model, VIDEO_TYPE: Sam2Model, MODEL_TYPE: TinySam,
        STUDENT: StudentSam, FINE_MODEL_TYPE: FineStudentSam,
    }  # fmt: skip
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = str(values.get("model_type"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no {CONFIG} was found, but expected a Hugging Face directory of a SamModel, SamHQModel or"
            " Sam2Model; give the folder that holds it, or the file of an original checkpoint (.pth)."
        ) from error
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: it could not be read as JSON ({reason_of(error)}), but expected the configuration of a"
            " SamModel; copy or download it again."
        ) from error
    if kind.startswith("sam3"):
        raise InputError(
            f"{path}: a SAM 3 ({quoted(kind)}) was found, but expected a SAM or SAM 2: this version does not know it"
            " yet; give the folder of a Sam2Model, e.g. facebook/sam2.1-hiera-small."
        )
    if kind not in kinds:
        raise InputError(
            f"{path}: a model of type {quoted(kind)} was found, but expected one of {', '.join(kinds)}; give the"
            " folder of a SamModel, SamHQModel or Sam2Model."
        )
    _check_numbers(path, values)
    return kinds[kind]


def _check_numbers(path: Path, values: Any) -> None:
    """Refuse numbers that no SAM has: transformers would build so many layers, for hours."""
    left = [("", values)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, one) for one in value]
        elif isinstance(value, int) and abs(value) > (most := MOST_PARTS if PARTS.search(key) else LARGEST_NUMBER):
            raise InputError(
                f"{path}: {quoted(key)} of {shortened(str(value))} was found, but expected at most {most} in a SAM;"
                " copy or download it again."
            )


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a directory's weights."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{folder}: no weights were found, but expected {WEIGHTS[0]} beside {CONFIG}; copy or download them again."
        )
    if found.suffix != ".json":
        return [found]
    try:
        shards = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
        sound = all(isinstance(name, str) and Path(name).name == name for name in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{found}: no list of weight files could be read; copy or download it again.") from error
    if not sound:
        raise InputError(
            f"{found}: it lists files outside its folder, but expected names beside it; download it again."
        )
    absent = [name for name in shards if not (folder / name).is_file()]
    if absent:
        raise InputError(f"{found}: it lists {absent[0]}, which is not there; copy or download it again.")
    return [folder / name for name in shards]


def _cached(repository: str) -> Path | None:
    """Return the cache's folder of a repository if it is complete; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    files = [try_to_load_from_cache(repository, name) for name in HUB_FILES]
    return Path(files[0]).parent if all(isinstance(file, str) for file in files) else None  # type: ignore[arg-type]


def _fetched(repository: str, name: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub's errors, the network's and the disk's: all end the same way for a user
        raise InputError(
            f"sam: '{name}' ({repository}) was not found in the cache {constants.HF_HUB_CACHE} and could not be"
            f" downloaded ({type(error).__name__}); connect this machine once, copy that cache or the model's folder"
            " here and give its path, or use sam=tiny."
        ) from error

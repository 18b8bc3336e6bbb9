"""Versions, hardware and source revision of a process."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = (
    "knowsam",
    "torch",
    "transformers",
    "accelerate",
    "kornia",
    "numpy",
    "scipy",
    "safetensors",
)


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and git revision of this process, as plain values."""
    import torch

    packages = {}
    for package in RECORDED_PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed as a package"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": packages,
        "git_revision": git_revision(),
    }


def git_revision() -> str | None:
    """The revision of the source tree this package runs from, with `+changes` if it is not clean; None outside git."""
    here = str(Path(__file__).parent)
    try:
        revision, changed = _git(here, "rev-parse", "HEAD"), _git(here, "status", "--porcelain", "--", here)
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+changes" if changed else "")


def _git(folder: str, *arguments: str) -> str:
    """What git says, run in a folder."""
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

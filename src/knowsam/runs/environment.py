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
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--", str(here)],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+changes" if changed else "")

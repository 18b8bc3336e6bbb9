"""Where a network computes."""

from __future__ import annotations

import re

import torch

from knowsam.errors import InputError


def resolve_device(text: str | None = None) -> str:
    """The device that was asked for, if it is there.

    Args:
        text: `"cpu"`, `"cuda"`, `"cuda:1"` (the second GPU) or `"mps"` (Apple's); None: a CUDA GPU where there is one,
            else the CPU.

    Returns:
        Its name, as torch takes it.

    Raises:
        InputError: There is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    there = ["cpu"]
    if accelerator is not None:
        kind, count = accelerator.type, torch.accelerator.device_count()
        there += [kind, *(f"{kind}:{index}" for index in range(count))]
    if text is None:
        return "cuda" if "cuda" in there else "cpu"
    if text in there:
        return text
    reason = "which is no device"
    if re.fullmatch(r"(cuda|mps)(:\d+)?", text):
        not_built = text.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None
        reason = "for which this torch was not built" if not_built else "which is not here"
    raise InputError(
        f"device: '{text}' was found, {reason}, but expected {' or '.join(there)}; choose one, or leave the device out."
    )

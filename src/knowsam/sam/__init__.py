"""Segment Anything as a second teacher: build or load, adapt, prompt, distil.

`SamDistillation.from_name("vit_b", size=(256, 256), classes=4)` is the whole plug-in, for any training loop. The names
are imported when they are first used; `transformers` when a SAM is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knowsam.sam.distillation import SamDistillation, SamStep
    from knowsam.sam.loading.build import build_sam
    from knowsam.sam.teacher import SamTeacher

__all__ = ["SamDistillation", "SamStep", "SamTeacher", "build_sam"]

PLACES = {
    "SamDistillation": "knowsam.sam.distillation",
    "SamStep": "knowsam.sam.distillation",
    "SamTeacher": "knowsam.sam.teacher",
    "build_sam": "knowsam.sam.loading.build",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What server and sites say to each other: named tensors and plain values, and nothing else.

Towards a site go `public.*` and `start.*` once (public images and masks; what of SAM has learned, and the network that
prompts it), and `weights.*`, the global network, in each round. From a site come `weights.*`, its own, or, where
networks differ, `public_logits`; and counters. No image, mask or file name of a site is in any of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowsam.storage import write_safetensors

HEADER_KEY = "knowsam"
WEIGHTS = "weights"
"""Prefix of a network's weights, the same in both directions: filters of an engine look at what has changed."""


@dataclass(frozen=True)
class Message:
    """A message.

    Attributes:
        values: Plain values (JSON).
        tensors: By name, on the CPU.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of its tensors and values, without what a transport adds or saves."""
        return sum(value.nbytes for value in self.tensors.values()) + len(json.dumps(self.values))

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `PREFIX.`, without it."""
        return {name[len(prefix) + 1 :]: value for name, value in self.tensors.items() if name.startswith(f"{prefix}.")}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Its tensors as arrays, for an engine."""
        return {name: value.numpy() for name, value in self.tensors.items()}

    @classmethod
    def from_arrays(cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Message:
        """Inverse of `to_arrays`."""
        return cls(dict(values), {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})

    def write(self, path: Path) -> None:
        """Write it into one file, whole or not at all."""
        tensors = {name: value.contiguous() for name, value in self.tensors.items()}
        write_safetensors(path, tensors, {HEADER_KEY: json.dumps(self.values)})

    @classmethod
    def read(cls, path: Path) -> Message:
        """Inverse of `write`."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            values = json.loads(file.metadata()[HEADER_KEY])
            return cls(values, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a common prefix, detached copies on the CPU."""
    return {f"{prefix}.{name}": value.detach().cpu().clone() for name, value in tensors.items()}

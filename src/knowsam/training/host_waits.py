"""What in a step makes a GPU and its processor wait for each other: it cannot be recorded and replayed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

READS_VALUES = frozenset(
    {
        aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal, aten.bincount,
        aten._unique2, aten.unique_dim, aten.unique_consecutive,
    }
)  # fmt: skip
"""Operations whose result, or its shape, the processor must know before it goes on."""

COPIES = frozenset({aten._to_copy, aten.copy_})


class HostWaits(TorchDispatchMode):
    """Within the block, note what would not be replayed.

    Attributes:
        found: Name of an operation -> how often it waited for the other side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}
        self._drawn = _host_generators()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        if packet in COPIES:
            devices = {leaf.device.type for leaf in (*tensors, *tree_leaves(result)) if isinstance(leaf, Tensor)}
            waits = len(devices) > 1
        elif packet in (aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_):
            waits = any(
                index.dtype in (torch.bool, torch.uint8) or index.device != args[0].device for index in _indices(args)
            )
        else:
            waits = packet in READS_VALUES
        if waits:
            name = str(packet)
            self.found[name] = self.found.get(name, 0) + 1
        return result

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        names = ("torch's CPU generator", "NumPy", "random")
        for name, before, now in zip(names, self._drawn, _host_generators(), strict=True):
            if before != now:
                self.found[f"random numbers of {name}"] = 1


def _indices(args: Any) -> list[Tensor]:
    return [index for index in args[1] if index is not None]


def _host_generators() -> tuple[Any, ...]:
    """The states of the generators that live on the processor, for a comparison."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  it is the global one that a step might use unseen
    return (
        torch.get_rng_state().numpy().tobytes(),
        (numpy_state[1].tobytes(), numpy_state[2]),
        random.getstate(),
    )

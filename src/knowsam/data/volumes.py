"""Maps that come with unlabelled images: labels of their whole volumes, or what was known of them before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from knowsam.data.dataset import SliceStore


class VolumeMaps:
    """What a method makes of the volumes of a store: each is labelled when one of its slices is first asked for.

    Args:
        store: Slices by name; those of one volume may come from several files.
        label: `(S, C, H, W)` float32 -> `(S, H, W)` integers, for a whole volume.
    """

    def __init__(self, store: SliceStore, label: Callable[[Tensor], Tensor]) -> None:
        self.store, self.label = store, label
        self._volumes = store.volumes()
        self._places = {
            store.name(index): (number, position)
            for number, volume in enumerate(self._volumes)
            for position, index in enumerate(volume)
        }
        self._maps: dict[int, Tensor] = {}

    def of(self, names: Sequence[str]) -> Tensor:
        """Maps of these slices, `(B, H, W)` int64 on the CPU."""
        places = [self._places[name] for name in names]
        for number in dict.fromkeys(number for number, _ in places):
            if number not in self._maps:
                image = torch.stack([self.store[index][0] for index in self._volumes[number]])
                label = self.label(image).cpu()
                # A volume has few classes; eight bits are an eighth of the memory.
                small = label.numel() == 0 or bool(label.max() < torch.iinfo(torch.int8).max)
                self._maps[number] = label.to(torch.int8 if small else torch.int16)
        return torch.stack([self._maps[number][position].long() for number, position in places])

    def forget(self) -> None:
        """Label every volume again when it is asked for."""
        self._maps.clear()


class KnownMaps:
    """Maps that were made before training, by the name of their slice.

    Args:
        names: Of the slices.
        maps: `(N, H, W)` integers, in their order.
    """

    def __init__(self, names: Sequence[str], maps: Tensor) -> None:
        self.maps = maps
        self._places = {name: position for position, name in enumerate(names)}

    def of(self, names: Sequence[str]) -> Tensor:
        """Maps of these slices, `(B, H, W)` int64 on the CPU."""
        return self.maps[[self._places[name] for name in names]].long()

    def forget(self) -> None:
        """What was known stays so."""

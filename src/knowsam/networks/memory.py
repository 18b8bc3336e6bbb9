"""A small self-sorting memory of image embeddings (MedSAM-2, taken over by SSS), and how features look into it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IOU_SLACK = 0.1
"""A newcomer may be worse than what it replaces by this much."""


class MemoryBank(nn.Module):
    """At most `size` embeddings with their estimated IoU, kept in the state of a method.

    Args:
        size: Entries.
        channels: D, of an embedding.
    """

    entries: Tensor
    quality: Tensor
    count: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.zeros(size, channels))
        self.register_buffer("quality", torch.zeros(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return int(self.count)

    @torch.no_grad()
    def draw(self, embedding: Tensor, number: int) -> Tensor:
        """Draw entries for each image, with replacement: `p = softmax(cos(embedding, entries))`.

        Args:
            embedding: `(B, D)`.
            number: Entries per image.

        Returns:
            `(B, number, D)`, by torch's global generator; the bank must not be empty.
        """
        kept = self.entries[: len(self)]
        similarity = F.normalize(embedding.to(kept.dtype), dim=1) @ F.normalize(kept, dim=1).T
        chosen = torch.multinomial(similarity.softmax(dim=1), number, replacement=True)
        return kept[chosen]

    @torch.no_grad()
    def offer(self, embedding: Tensor, quality: Tensor) -> bool:
        """Offer a newcomer to the bank; while there is room it is taken.

        Into a full bank it comes in the place of n, the nearest neighbour of the entry that is least similar to the
        newcomer, if these two are more alike than the newcomer is to that entry, and the newcomer's quality is greater
        than n's minus .1. The bank thereby stays diverse.

        Args:
            embedding: `(D,)`.
            quality: 0-dim, its estimated IoU in [0, 1].

        Returns:
            Whether it was taken.
        """
        held, size = len(self), len(self.entries)
        if held < size:
            place = held
            self.count += 1
        else:
            kept = F.normalize(self.entries, dim=1)
            to_newcomer = kept @ F.normalize(embedding.to(kept.dtype), dim=0)
            least = int(to_newcomer.argmin())
            to_least = kept @ kept[least]
            to_least[least] = -torch.inf
            place = int(to_least.argmax())
            if not (to_least[place] > to_newcomer[least] and quality > self.quality[place] - IOU_SLACK):
                return False
        self.entries[place] = embedding
        self.quality[place] = quality
        return True


class MemoryAttention(nn.Module):
    """Features attend to embeddings drawn from a bank; it begins as nothing.

    Args:
        channels: D, of features and embeddings.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)  # the same for all keys, a bias would change no weight
        self.back = nn.Linear(channels, channels)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)

    def forward(self, features: Tensor, memory: Tensor) -> Tensor:
        """`(B, D, h, w)` and `(B, M, D)` -> the features with what they found, of their shape."""
        tokens = features.flatten(2).transpose(1, 2)
        memory = memory.to(tokens.dtype)
        found = F.scaled_dot_product_attention(self.query(tokens), self.key(memory), self.value(memory))
        return features + self.back(found).transpose(1, 2).reshape(features.shape)

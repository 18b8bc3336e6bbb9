"""Randomness as a function of seed, step and process."""

from __future__ import annotations

import numpy as np
import torch


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step of one process.

    Augmentation and dropout are thereby functions of (seed, step, process): there is no state to save, and a resumed
    run draws what the uninterrupted one would have drawn. The seed is a hash of all three, because torch's CPU
    generator uses the lower 32 bits only.
    """
    words = np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))

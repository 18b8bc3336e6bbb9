"""Names of written files: their suffix, and the endings of the stems of what `predict` writes beside a label map."""

from __future__ import annotations

from pathlib import Path

OVERLAY_SUFFIX = "_overlay"
"""The picture of the label map over the image."""

PROBABILITY_SUFFIX = "_prob"
"""The class probabilities."""

ENTROPY_SUFFIX = "_entropy"
"""The map of how unsure the network is."""

DISAGREEMENT_SUFFIX = "_disagreement"
"""The map of how far its students differ."""

EXTRA_SUFFIXES = (OVERLAY_SUFFIX, PROBABILITY_SUFFIX, ENTROPY_SUFFIX, DISAGREEMENT_SUFFIX)
"""All of them: a file with such a stem is never taken for a label map."""


def add_suffix(path: Path, suffix: str) -> Path:
    """The path with a suffix after its whole name, dots included: `"patient.001"` -> `"patient.001.png"`."""
    return path.with_name(path.name + suffix)

"""Endings of the stems of the files that `predict` writes beside a label map."""

from __future__ import annotations

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

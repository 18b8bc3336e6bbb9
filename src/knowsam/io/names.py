"""File names: known suffixes, stems, and what `predict` writes beside a label map."""

from __future__ import annotations

OVERLAY_SUFFIX = "_overlay"
"""End of the stem of a picture that `predict` draws beside a label map; never taken for a label map."""


PROBABILITY_SUFFIX = "_prob"
"""End of the stem of the soft maps that `predict` writes."""


ENTROPY_SUFFIX = "_entropy"
"""End of the stem of the map of how unsure the network is."""


DISAGREEMENT_SUFFIX = "_disagreement"
"""End of the stem of the map of how far its students differ."""


EXTRA_SUFFIXES = (OVERLAY_SUFFIX, PROBABILITY_SUFFIX, ENTROPY_SUFFIX, DISAGREEMENT_SUFFIX)
"""What `predict` writes beside label maps; never taken for one."""

"""What was loaded as the base of the SAM teacher: which file, which sizes, which keys were resized or left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from knowsam.errors import InputError
from knowsam.sam.backbone.interface import interface_of
from knowsam.storage import checksum

LITE_MEDSAM_PATCH = 4
"""Pixels along a side of LiteMedSAM's tokens; no other SAM has so small ones."""

SHOWN_DIGITS = 12
"""Digits of a sha256 in messages; the run's files have all 64."""

PixelNormalisation = Literal["sam", "unit"]
"""By mean and deviation of SAM's training images, or images in [0, 1] as they are, as MedSAM was trained."""

Resized = dict[str, tuple[list[int], list[int]]]
"""Key -> shape in the file, shape in use."""


@dataclass(frozen=True)
class LoadReport:
    """Where a SAM comes from.

    Attributes:
        name: As in the configuration: `tiny`, `vit_b`, a path.
        source: The file, directory or hub name the weights came from, or `"random weights"`.
        sha256: Of the weights (`weights_sha256`), None for random ones.
        sizes: Of the encoder: width, layers, heads, patch and window in px and tokens, global layers; the class.
        parameters: Number of weights.
        made_for: Side in pixels of the images it was pretrained on.
        pixels: In which pixel values they were, see `pixels_of`.
        unused: Keys of the file that the model has no place for -> why that is right. What has no reason is an error
            (`require_known_keys`), and so is every key the file lacks.
        resized: Keys resized to the input's token grid, see `Resized`.
        note: What is odd about it, empty for nothing.
    """

    name: str
    source: str
    sha256: str | None
    sizes: dict[str, Any]
    parameters: int
    made_for: int
    pixels: PixelNormalisation = "sam"
    unused: dict[str, str] = field(default_factory=dict)
    resized: Resized = field(default_factory=dict)
    note: str = ""

    @property
    def pretrained(self) -> bool:
        """Whether the weights came from a file."""
        return self.sha256 is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a run's files."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return lines for a person to read: what was loaded, and what was resized or left out."""
        origin = [] if self.source == self.name else [self.source]
        if self.sha256 is not None:
            origin.append(f"sha256 {self.sha256[:SHOWN_DIGITS]}")
        sizes = self.sizes
        lines = [
            f"sam: {self.name} ({', '.join(origin)}): {sizes['class']}, width {sizes['width']},"
            f" {sizes['layers']} layers, patch {sizes['patch_px']} px, {self.parameters / 1e6:.1f} M parameters"
        ]
        if self.note:
            lines.append(f"sam: {self.note}")
        if self.resized:
            shapes = sorted({f"{_shape(old)} to {_shape(new)}" for old, new in self.resized.values()})
            lines.append(f"sam: {len(self.resized)} positional tables resized to the input: {', '.join(shapes)}")
        return lines + [f"sam: unused: {key} ({reason})" for key, reason in self.unused.items()]


def report_of(
    sam: Any, name: str, source: str, sha256: str | None, unused: Mapping[str, str] | None = None
) -> LoadReport:
    """Make the report of a model before anything is resized."""
    parameters = sum(parameter.numel() for parameter in sam.parameters())
    interface = interface_of(sam)
    sizes, made_for = interface.sizes(sam), interface.made_for(sam)
    pixels = getattr(sam.config, "pixels", None) or pixels_of(name, sizes)
    return LoadReport(name, source, sha256, sizes, parameters, made_for, pixels, dict(unused or {}))


def pixels_of(name: str, sizes: Mapping[str, Any]) -> PixelNormalisation:
    """Return the pixel values that a SAM was trained on; no file says it.

    `"unit"` for what has LiteMedSAM's layout (patches of 4 px), and for a file or directory with `medsam` in its name.

    Args:
        name: As in the configuration: `tiny`, `vit_b`, a path.
        sizes: `LoadReport.sizes`.
    """
    return "unit" if sizes["patch_px"] == LITE_MEDSAM_PATCH or "medsam" in Path(name).name.lower() else "sam"


def weights_sha256(files: Sequence[Path]) -> str:
    """Return the sha256 of a weight file as `sha256sum` prints it; of several files, that of their names and sums."""
    sums = {path.name: checksum(path) for path in files}
    if len(sums) == 1:
        return next(iter(sums.values()))
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def require_known_keys(
    path: Path, missing: Sequence[str], unused: Sequence[str], mismatched: Mapping[str, str] | None = None
) -> None:
    """Raise an error if a file has keys too many or too few.

    Args:
        path: The file or directory.
        missing: Keys without a value.
        unused: Keys without a place.
        mismatched: Keys whose shape does not fit -> both shapes, in words.

    Raises:
        InputError: With the number of each and the first of them.
    """
    shapes = [f"{key} ({words})" for key, words in (mismatched or {}).items()]
    kinds = {"missing": list(missing), "unused": list(unused), "of another shape": shapes}
    told = [f"{len(keys)} keys {kind} ({_first(sorted(keys))})" for kind, keys in kinds.items() if keys]
    if told:
        raise InputError(
            f"{path}: {' and '.join(told)} were found, but expected every key of a SAM and no other; check that it is a"
            " whole SAM, SAM-HQ, MedSAM, SAM-Med2D, LiteMedSAM or MobileSAM checkpoint."
        )


def require_same_base(saved: Mapping[str, Any] | None, found: LoadReport | None, checkpoint: Path) -> None:
    """Check that a checkpoint, which holds no frozen weights, is loaded onto the base it was trained on.

    Args:
        saved: The checkpoint's record of its base (`base_record`).
        found: The base that was loaded now.
        checkpoint: The file, for the message.

    Raises:
        InputError: If the sums differ.
    """
    if saved is None or found is None or saved["sha256"] == found.sha256:
        return
    raise InputError(
        f"{checkpoint}: a checkpoint on the SAM weights '{saved['name']}' ({_sum(saved['sha256'])}) was found, but"
        f" '{found.name}' now gives {found.source} ({_sum(found.sha256)}); put the former weights back, or let sam.name"
        " in config.yaml point to them."
    )


def base_record(report: LoadReport | None) -> dict[str, Any] | None:
    """Return what a checkpoint keeps of its base: name and sha256."""
    return None if report is None else {"name": report.name, "sha256": report.sha256}


def _sum(sha256: str | None) -> str:
    return "random" if sha256 is None else f"sha256 {sha256[:SHOWN_DIGITS]}"


def _first(keys: Sequence[str], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (", ..." if len(keys) > shown else "")


def _shape(shape: Sequence[int]) -> str:
    """The part of a table's shape that is resized: `(1, 64, 64, 768)` -> `64x64`, `(127, 64)` -> `127`."""
    return f"{shape[1]}x{shape[2]}" if len(shape) == 4 else str(shape[0])

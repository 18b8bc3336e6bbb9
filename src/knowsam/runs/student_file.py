"""`student.safetensors`: weights, preprocessing and class names, enough to predict without SAM or method."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knowsam.data.preprocess import Preprocessing
from knowsam.errors import InputError
from knowsam.networks import SegmentationNetwork, build_network
from knowsam.runs import CHECKPOINT_FILE, DISTIL_FILE, DISTILLED_FOLDER, STUDENT_FILE
from knowsam.runs.checkpoint import read_progress
from knowsam.storage import checksum, not_finite, read_json, reason_of, write_safetensors

STUDENT_FORMAT = 1
HEADER_KEY = "knowsam"
"""Key of the file's metadata with the JSON of `StudentInfo`."""


@dataclass(frozen=True)
class StudentInfo:
    """What travels with a student's weights, in the header of its file.

    Attributes:
        network: Name and arguments for `build_network`.
        preprocessing: How an image becomes network input.
        class_names: Names of the K classes, background first.
        step: Number of training steps the weights have seen.
        validation: Validation Dice at that step, empty without validation.
        version: The knowsam version that wrote the file.
        mask_values: Values that label maps are written with, in the order of the classes; None: class indices.
    """

    network: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    step: int
    validation: dict[str, Any]
    version: str
    mask_values: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file header."""
        return {
            "format": STUDENT_FORMAT,
            "network": self.network,
            "preprocessing": self.preprocessing.to_json(),
            "class_names": list(self.class_names),
            "step": self.step,
            "validation": self.validation,
            "version": self.version,
            "mask_values": None if self.mask_values is None else list(self.mask_values),
        }

    @property
    def is_best(self) -> bool:
        """Whether validation chose these weights; else they are the last ones at the time."""
        return bool(self.validation)

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Path) -> StudentInfo:
        """Inverse of `to_json`; `path` is the file, for messages, and further keys of the header are ignored.

        Raises:
            InputError: If another format of header was written, or it is no header of ours.
        """
        try:
            return cls._from_json(values, path)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unreadable_header(path, error) from error

    @classmethod
    def _from_json(cls, values: dict[str, Any], path: Path) -> StudentInfo:
        if values["format"] != STUDENT_FORMAT:
            raise InputError(
                f"{path}: format {values['format']} was found, but this knowsam reads format {STUDENT_FORMAT}; use the"
                f" knowsam version that wrote it ({values['version']})."
            )
        return cls(
            values["network"],
            Preprocessing.from_json(values["preprocessing"]),
            tuple(values["class_names"]),
            values["step"],
            values["validation"],
            values["version"],
            None if values.get("mask_values") is None else tuple(values["mask_values"]),
        )


def unreadable_header(path: Path, error: Exception) -> InputError:
    """The sentence for a file whose header is none of ours."""
    return InputError(
        f"{path}: a header was found that cannot be read ({type(error).__name__}: {reason_of(error)}), but expected"
        " what `knowsam train` wrote; restore the file."
    )


def save_student(path: Path, student: nn.Module, info: StudentInfo) -> None:
    """Write weights and everything prediction needs into one safetensors file, atomically.

    Raises:
        InputError: A weight is not finite.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, weights, {HEADER_KEY: json.dumps(info.to_json())})


def load_student(path: Path, device: str | torch.device = "cpu") -> tuple[SegmentationNetwork, StudentInfo]:
    """Open a student file: the network in evaluation mode, and what belongs to it.

    Raises:
        InputError: If the file is missing, truncated or not a student file, a weight is not finite, or its network is
            not known here.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # By its bytes: safetensors opens no path that is not UTF-8.
        content = path.read_bytes()
        weights = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(HEADER_KEY)
        values = None if header is None else json.loads(header)
    except (OSError, SafetensorError, ValueError, RecursionError, AttributeError) as error:
        raise InputError(
            f"{path}: could not be opened ({reason_of(error)}), but expected a student.safetensors written by `knowsam"
            " train`; check the path or train again."
        ) from error
    if values is None:
        raise InputError(
            f"{path}: weights without a knowsam header were found, but expected a student.safetensors written by"
            " `knowsam train`; give that file or its run folder."
        )
    info = StudentInfo.from_json(values, path)
    if name := not_finite(weights):
        raise InputError(
            f"{path}: a weight that is not finite was found in {name}, but expected numbers; restore the file, or train"
            " again with a lower train.lr."
        )
    try:
        student = build_network(**info.network)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: a network was found that cannot be built ({reason_of(error)}), but expected one of"
            " `knowsam train`; restore the file."
        ) from error
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:  # torch's list of every tensor that does not fit
        raise InputError(
            f"{path}: weights were found that do not fit the network '{info.network['name']}' as it is known here;"
            " register the class it was trained with, or use the same version of its package."
        ) from error
    return student.to(device).eval(), info


DISTILLED = "distilled"
"""The name by which a run's distilled network is asked for."""


def find_student(path: Path, network: str | None = None) -> Path:
    """The file to predict with: the path itself, or a run folder's student.

    Args:
        path: A file, or a run folder.
        network: `DISTILLED` for a run's distilled network; None for the run's own.

    Raises:
        InputError: If there is none.
    """
    if network is not None:
        if network != DISTILLED:
            raise InputError(f"--network: '{network}' was found, but expected {DISTILLED}, or nothing; correct it.")
        distilled = path / DISTILLED_FOLDER / STUDENT_FILE
        if not distilled.exists():
            raise InputError(
                f"{distilled}: no such file was found, but expected a run's distilled network; make it with"
                f" `knowsam distil {shlex.quote(str(path))}`, or leave --network out."
            )
        return distilled
    if path.is_dir():
        path = path / STUDENT_FILE
    if not path.exists():
        raise InputError(
            f"{path}: no such file was found, but expected a run folder or a {STUDENT_FILE}; check the path, or"
            " wait for the run's first validation (without validation: its first checkpoint); if its training was"
            f" killed, `knowsam train --resume {shlex.quote(str(path.parent))}` goes on."
        )
    return path


def outdated_by(student: Path, info: StudentInfo) -> str | None:
    """What to say of a student whose run has a newer one to give; None where it is the newest, or has no run.

    Args:
        student: Its file.
        info: What belongs to it.
    """
    own = student.parent.parent / STUDENT_FILE
    if student.parent.name == DISTILLED_FOLDER and own.exists() and not is_taught_by(student.parent, own):
        return (
            f"{student}: a network was found that was distilled from another one than {own};"
            f" `knowsam distil {shlex.quote(str(own.parent))}` does it once more"
        )
    checkpoint = student.with_name(CHECKPOINT_FILE)
    if student.name != STUDENT_FILE or not checkpoint.exists():
        return None
    try:
        state = read_progress(checkpoint)
    except InputError:  # it is no checkpoint of this package, or broken, which is not what was asked for
        return None
    # With validation the best one counts; of older checkpoints nobody knows at which step that was.
    due = state.step if state.best is None else state.best_step
    if due is None or due <= info.step:
        return None
    return (
        f"{student}: the network of step {info.step} was found, but the run's checkpoint has one of step {due};"
        f" `knowsam train --resume {shlex.quote(str(student.parent))}` writes it"
    )


def is_taught_by(distilled: Path, student: Path) -> bool:
    """Whether what is in a folder was distilled from this very student file."""
    try:
        return read_json(distilled / DISTIL_FILE, "")["teacher"]["student_sha256"] == checksum(student)
    except (InputError, KeyError, TypeError, OSError):
        return False

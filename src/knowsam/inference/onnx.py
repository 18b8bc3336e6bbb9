"""An exported ONNX file in the place of a student: prediction through onnxruntime, settings from its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsam.errors import InputError
from knowsam.io.checks import unreadable
from knowsam.runs.student_file import HEADER_KEY, StudentInfo, unreadable_header

INPUT, OUTPUT = "image", "probabilities"
"""Names of the exported file's one input `(B, C, H, W)` and one output `(B, K, H, W)`."""

INSTALL_EXPORT = "pip install 'knowsam[export]'"
SILENT = 4  # onnxruntime's severity "fatal": all other errors reach the user as an InputError


class OnnxStudent:
    """Called like a student: images in, logits out.

    The file gives probabilities; their logarithms are logits of the same softmax, so that it can be used wherever a
    student is expected.

    Args:
        path: A file written by `knowsam.inference.export.export`.
        threads: CPU threads to run in, by default torch's.
    """

    classes: int | None = None
    """K that the file must give; None: any."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        options.log_severity_level = SILENT
        if not path.is_file():
            raise InputError(f"{path}: no such file was found, but expected an ONNX file; check the path.")
        try:
            # Without its fallback, which prints what was wrong and tries the same again.
            self.session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
            self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise unreadable(path, "ONNX file", error) from error

    def __call__(self, image: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` of images `(B, C, H, W)` float in [0, 1]."""
        probs = self.probabilities(image)
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()

    def probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities `(B, K, H, W)` float32, as the file gives them.

        Raises:
            InputError: It cannot be run, or gives something else.
        """
        try:
            given = self.session.run([OUTPUT], {INPUT: image.float().contiguous().numpy()})[0]
        except Exception as error:  # as above
            raise unreadable(self.path, "ONNX file", error) from error
        probs = torch.from_numpy(given)
        expected = (len(image), *([self.classes] if self.classes else probs.shape[1:2]), *image.shape[2:])
        if probs.shape != expected or not bool(probs.isfinite().all()):
            raise InputError(
                f"{self.path}: an output of shape {tuple(probs.shape)}"
                f"{', not all of it finite,' if probs.shape == expected else ''} was found, but expected probabilities"
                f" of shape {expected}; export the run again."
            )
        return probs


def load_onnx_student(path: Path, device: str | None = None) -> tuple[OnnxStudent, StudentInfo]:
    """Open an exported file: the callable student, and its settings.

    Args:
        path: A file written by `knowsam export`.
        device: None or `"cpu"`.

    Raises:
        InputError: If onnxruntime is missing, another device is asked for, or the file is not one of ours.
    """
    if device not in (None, "cpu"):
        raise InputError(
            f"{path}: the device {device} was asked for, but expected cpu, where ONNX files run; leave the device out,"
            " or predict with the run's student.safetensors."
        )
    student = OnnxStudent(path)
    header = student.metadata.get(HEADER_KEY)
    if header is None:
        raise InputError(
            f"{path}: an ONNX file without knowsam's metadata was found, but expected one written by `knowsam export`,"
            " which says how images are prepared and what the classes are; export the run again."
        )
    try:
        values = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise unreadable_header(path, error) from error
    info = StudentInfo.from_json(values, path)
    student.classes = len(info.class_names)
    return student, info


def import_onnxruntime() -> Any:
    """The module onnxruntime.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"onnxruntime was not found ({error}), but is needed to run ONNX files; install it with {INSTALL_EXPORT}."
        ) from error
    return onnxruntime

"""An exported ONNX file in the place of a student: prediction through onnxruntime, settings from its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsam.errors import InputError
from knowsam.io.checks import unreadable
from knowsam.runs.student_file import HEADER_KEY, StudentInfo

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

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        options.log_severity_level = SILENT
        if not path.is_file():
            raise InputError(f"{path}: no such file was found, but expected an ONNX file; check the path.")
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise unreadable(path, "ONNX file", error) from error
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def __call__(self, image: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` of images `(B, C, H, W)` float in [0, 1]."""
        probs = self.probabilities(image)
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()

    def probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities `(B, K, H, W)` float32, as the file gives them."""
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: image.float().contiguous().numpy()})[0])


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
    return student, StudentInfo.from_json(json.loads(header), path)


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

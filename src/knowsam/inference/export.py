"""Export: a student as one file that predicts without this package, verified against the network it was made of.

The file takes prepared images `(B, C, H, W)` (in [0, 1], resized; H and W multiples of the stride) and gives class
probabilities of the same size. Its metadata say under the key `knowsam`, as JSON, how an image is prepared.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knowsam import __version__
from knowsam.data.preprocess import PERCENTILES
from knowsam.errors import InputError, did_you_mean
from knowsam.inference.model_card import CARD_NAME, check_card_is_ours, model_card
from knowsam.inference.onnx import INPUT, INSTALL_EXPORT, OUTPUT, OnnxStudent, import_onnxruntime
from knowsam.inference.predictor import ONNX_SUFFIX
from knowsam.inference.verification import Verification, verification_batches, verify
from knowsam.networks import SegmentationNetwork
from knowsam.presentation.pictures import class_colour
from knowsam.runs.folder import RunFolder
from knowsam.runs.student_file import DISTILLED, HEADER_KEY, StudentInfo, find_student, load_student, outdated_by
from knowsam.storage import output_folder, whole_file, write_text
from knowsam.types import LUMINANCE

PROGRAM_SUFFIX = ".pt2"

OPSET = 18
"""ONNX operator set of the files: the one torch's exporter writes without converting, read by onnxruntime >= 1.14."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: The file.
        card: The model card beside it.
        network: Which prediction it gives.
        parameters: Number of its parameters.
        info: What belongs to the student.
        verification: How it compares with the network it was made of.
        outdated: What to say if the run has a newer network to give, one sentence; else None.
    """

    path: Path
    card: Path
    network: str
    parameters: int
    info: StudentInfo
    verification: Verification
    outdated: str | None = None


class ProbabilityNetwork(nn.Module):
    """A student with its softmax: `(B, C, H, W)` images -> `(B, K, H, W)` probabilities, float32.

    Args:
        student: Images -> logits.
        channels: C.
        stride: What H and W are multiples of.
    """

    def __init__(self, student: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        self.student, self.channels, self.stride = student, channels, stride

    def forward(self, image: Tensor) -> Tensor:
        """Class probabilities, summing to 1 over the classes."""
        return self.student(image).softmax(dim=1)


def export(run: str | Path, to: str | Path, network: str | None = None, images: str | Path | None = None) -> Exported:
    """Export a student to ONNX (`.onnx`) or as a `torch.export` program (`.pt2`), and verify the file.

    Args:
        run: A run folder or a `student.safetensors`.
        to: The file to write; the suffix says which kind. It appears only once it was verified.
        network: One of the student's parts, e.g. `"fused"`, `"unet"` or `"vnet"`; `"distilled"` for what the run was
            distilled into; None for what `predict` uses.
        images: A file or folder of images to verify with as well; random images are always used.

    Returns:
        What was written.

    Raises:
        InputError: If the run, the suffix or the network does not fit, a package is missing, or the file's
            probabilities differ from the network's.
    """
    to = Path(to)
    formats = {ONNX_SUFFIX: (write_onnx, open_onnx), PROGRAM_SUFFIX: (write_program, open_program)}
    if to.suffix.lower() not in formats:
        raise InputError(
            f"{to}: a file ending in '{to.suffix}' was asked for, but expected {ONNX_SUFFIX} (ONNX) or"
            f" {PROGRAM_SUFFIX} (a torch.export program); choose one."
        )
    write, open_again = formats[to.suffix.lower()]
    distilled = network == DISTILLED
    source = find_student(Path(run), network if distilled else None)
    student, info = load_student(source)
    if not student.exportable:
        raise InputError(
            f"{source}: a network '{info.network['name']}' was found, which cannot be exported, but expected a U-Net, a"
            " V-Net or the like; predict with the file itself."
        )
    name, part = select_network(student, info, None if distilled else network, source)
    height, width = info.preprocessing.size
    if to.suffix.lower() == PROGRAM_SUFFIX and min(height, width) < 2 * part.stride:
        raise InputError(
            f"{source}: a network for images of {height}x{width} pixels was found, but a {PROGRAM_SUFFIX} program"
            f" expected at least {2 * part.stride} along each axis (torch.export); export to {ONNX_SUFFIX} instead."
        )
    card = to.parent / CARD_NAME
    check_card_is_ours(card, to)
    exported = ProbabilityNetwork(part, info.preprocessing.in_channels, part.stride).eval()
    batches = verification_batches(info.preprocessing, part.stride, images)
    with output_folder(to.parent), whole_file(to) as temporary:
        write(exported, metadata(info, name, part.stride), temporary)
        verification = verify(open_again(temporary), part, batches, to)
    parameters = sum(parameter.numel() for parameter in part.parameters())
    name = f"{DISTILLED} ({name})" if distilled else name
    written = Exported(to, card, name, parameters, info, verification, outdated_by(source, info))
    write_text(card, model_card(written, RunFolder(Path(run) if distilled else source.parent)))
    return written


def select_network(
    student: SegmentationNetwork, info: StudentInfo, name: str | None, path: Path
) -> tuple[str, SegmentationNetwork]:
    """Select one prediction of a student as a network of its own.

    Args:
        student: The whole student, see `SegmentationNetwork.parts`.
        info: What belongs to it.
        name: Which, None for the one `predict` uses.
        path: The student's file, for messages.

    Returns:
        Its name, and the network: images -> logits.

    Raises:
        InputError: If the student has no such network, naming those it has.
    """
    parts = student.parts() or {info.network["name"]: student}
    name = next(iter(parts)) if name is None else name
    if name not in parts:
        raise InputError(
            f"{path}: the network '{name}' was asked for, but expected one this student has:"
            f" {', '.join(parts)}{did_you_mean(name, parts)}"
        )
    return name, parts[name]


def metadata(info: StudentInfo, network: str, stride: int) -> dict[str, Any]:
    """Return all that is needed to use the file: the student's header, and how its images are prepared, in full."""
    colours = [[0, 0, 0]] + [list(class_colour(index)) for index in range(1, len(info.class_names))]
    context = info.preprocessing.context
    neighbours = (
        f"{context} neighbouring slices as channels, the ends of a volume repeated; the middle one is segmented"
    )
    return info.to_json() | {
        "preparation": {
            **({} if context == 1 else {"slices": neighbours}),
            "percentiles": PERCENTILES,
            "luminance": LUMINANCE,
            "resize": "bilinear, half-pixel centres, anti-aliased when shrinking; probabilities back: not anti-aliased",
        },
        "class_colours": colours,
        "exported_network": network,
        "exported_by": f"knowsam {__version__}",
        "input": {"name": INPUT, "shape": ["batch", info.preprocessing.in_channels, "height", "width"],
                  "range": [0, 1], "height_and_width": f"multiples of {stride}"},
        "output": {"name": OUTPUT, "shape": ["batch", len(info.class_names), "height", "width"],
                   "values": "class probabilities"},
    }  # fmt: skip


def write_onnx(network: ProbabilityNetwork, header: dict[str, Any], path: Path) -> None:
    """Write an ONNX file.

    Args:
        network: In evaluation mode.
        header: Its metadata, see `metadata`.
        path: The file.

    Raises:
        InputError: If a package that this needs is not installed.
    """
    import_onnxruntime()  # needed to verify; it fails before the work, not after it
    try:
        import onnx  # noqa: F401 - imported to say how to install it
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} was not found, but is needed to export to ONNX; install it with {INSTALL_EXPORT}."
        ) from error
    with _quiet():
        program: Any = torch.onnx.export(
            network, (_example(network),), dynamo=True, opset_version=OPSET, verbose=False, external_data=False,
            input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes={"image": _dynamic_axes(network)},
        )  # fmt: skip
    model = program.model
    # The exporter records at every node the file and line it came from; paths of this machine are removed.
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    model.metadata_props[HEADER_KEY] = json.dumps(header | {"opset": OPSET}, ensure_ascii=False)
    model.doc_string = "Segmentation network trained with knowsam; not a medical device."
    program.save(path, external_data=False)


def write_program(network: ProbabilityNetwork, header: dict[str, Any], path: Path) -> None:
    """Write a `torch.export` program; arguments as for `write_onnx`."""
    with _quiet():
        program = torch.export.export(
            network, (_example(network),), dynamic_shapes={"image": _dynamic_axes(network)}, strict=False
        )
        # As above; and torch would name the folders in the file after a path.
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={f"{HEADER_KEY}.json": json.dumps(header)})
    path.write_bytes(content.getvalue())


def open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Open an ONNX file: images `(B, C, H, W)` -> probabilities `(B, K, H, W)`."""
    return OnnxStudent(path).probabilities


def open_program(path: Path) -> Callable[[Tensor], Tensor]:
    """Open a `torch.export` program: images `(B, C, H, W)` -> probabilities `(B, K, H, W)`."""
    with _quiet():
        return torch.export.load(path).module()


def _example(network: ProbabilityNetwork) -> Tensor:
    """Any image; batch, H and W differ, and none is 1, which the exporter would take for fixed."""
    return torch.zeros(2, network.channels, 2 * network.stride, 3 * network.stride)


def _dynamic_axes(network: ProbabilityNetwork) -> dict[int, Any]:
    # A program is specialised on a deepest stage of a single row, and refuses it; an ONNX file takes it all the same.
    height, width = torch.export.Dim("h", min=2), torch.export.Dim("w", min=2)
    return {0: torch.export.Dim("batch"), 2: network.stride * height, 3: network.stride * width}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block the exporter does not log, and torch does not warn of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

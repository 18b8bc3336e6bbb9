"""One KnowSAM training step against its floor: forward and backward of the students alone, as often as the step needs.

    python benchmarks/step.py --sam tiny --size 256 --batch 2+2
    python benchmarks/step.py --sam vit_b --size 256 --batch 2+2 --rounds 5

The floor has no augmentation, losses, SAM or optimiser: U-Net, V-Net and fusion head in plain eager PyTorch (default
memory layout), one pass before UGDA and two after. `own passes` are the same as the training loop runs them. All share
one allocator, by default the one the training loop sets; `--allocator system` shows what it costs to leave it alone.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knowsam.comparison.cell import peak_memory_mb
from knowsam.config import resolve_config
from knowsam.functional.losses import segmentation_loss
from knowsam.runs.folder import RunFolder
from knowsam.training.memory import keep_freed_memory
from knowsam.training.trainer import Trainer  # the loop itself: one step of it is what is measured
from knowsam.types import Batch, Progress
from measure import Times, keep, parser, ratio, show, spread, summary, take_turns, total, write_pictures

PARTS = ("data", "augmentation", "own passes", "SAM", "losses", "optimisers")


def main() -> None:
    options = parser(__doc__, rounds=9)
    options.add_argument("--sam", default="tiny", help="none, tiny, or with random weights vit_b, vit_l, vit_h")
    options.add_argument("--sam-train", default="auto", help="auto, adapters, all")
    options.add_argument("--size", default="256")
    options.add_argument("--batch", default="2+2")
    options.add_argument("--amp", default="auto")
    options.add_argument("--checkpointing", action="store_true", help="SAM's blocks and the students' passes twice")
    options.add_argument("--allocator", choices=("kept", "system"), default="kept")
    arguments = options.parse_args()
    report: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(arguments).items() if k not in ("out", "rounds")}}
    allocator = keep_freed_memory() if arguments.allocator == "kept" else nullcontext()
    with allocator, tempfile.TemporaryDirectory() as folder:
        data = write_pictures(Path(folder) / "data", images=24, masks=12, side=int(arguments.size.split("x")[0]))
        sam = {"name": arguments.sam, "pretrained": arguments.sam == "tiny", "train": arguments.sam_train}
        sam["checkpointing"] = arguments.checkpointing
        settings = {
            "method": "knowsam", "preset": "paper", "sam": sam,
            "data": {"path": str(data), "size": arguments.size, "val_fraction": 0},
            "train": {"steps": 1000, "batch": arguments.batch, "report": False, "amp": arguments.amp,
                      "checkpointing": arguments.checkpointing},
        }  # fmt: skip
        torch.manual_seed(0)
        run = Trainer(resolve_config(settings), RunFolder(Path(folder) / "run"), quiet=True)
        # Memory first, of the loop alone: the measurements below hold other things at the same time.
        for _ in range(2):
            step_at(run, 600)
        report["peak_mb"] = round(peak_memory_mb())
        print(f"peak memory of two steps after UGDA: {report['peak_mb']} MB")
        for name, step, passes in (("before UGDA", 0, 1), ("after UGDA", 600, 2)):
            times = measure_step(run, step, passes, arguments.rounds)
            report[name] = tell(name, times, passes)
    keep(arguments.out, report)


def step_at(run: Trainer, step: int) -> None:
    """Train one step as if it were that of this index."""
    run.position = step
    run.step(run.batches[step])


def measure_step(run: Any, step: int, passes: int, rounds: int) -> dict[str, Times]:
    """The whole step, its parts and its floor, in turns."""
    batch = run.batches[step]
    augmented = run.augment(batch)
    assert augmented.unlabelled_image is not None
    images = torch.cat([augmented.labelled_image, augmented.unlabelled_image])
    plain = copy.deepcopy(run.method.students).to(memory_format=torch.contiguous_format)
    contenders: dict[str, Callable[[], Any]] = {
        "step": lambda: step_at(run, step),
        "floor": student_passes(plain, images.contiguous(), passes),
        "own passes": student_passes(run.method.students, images, passes),
        "data": lambda: run.batches[step],
        "augmentation": lambda: run.augment(batch),
        "losses": losses_alone(run, augmented, images, Progress(step, 1000)),
        "optimisers": lambda: update(run),
    }
    if run.method.sam is not None:
        contenders["SAM"] = sam_alone(run, augmented, images)
    return take_turns(contenders, rounds)


def student_passes(students: Any, images: Tensor, passes: int) -> Callable[[], None]:
    """Forward and backward of all three networks; the sum of the logits' squares stands for a loss."""
    students.train()

    def go() -> None:
        for _ in range(passes):
            outputs = students.outputs(images)
            torch.autograd.backward(list(outputs.values()), [torch.ones_like(one) for one in outputs.values()])
        students.zero_grad()

    return go


def sam_alone(run: Any, batch: Batch, images: Tensor) -> Callable[[], None]:
    """SAM's forward pass on all images, and backward from the labelled ones."""
    sam, count = run.method.sam, len(batch.labelled_image)
    prompt = torch.randn(len(images), run.data.coding.classes, *images.shape[-2:])

    def go() -> None:
        sam.train()
        logits = sam.teacher(images, prompt)
        segmentation_loss(logits[:count], batch.label).backward()
        sam.zero_grad()

    return go


def losses_alone(run: Any, batch: Batch, images: Tensor, progress: Progress) -> Callable[[], None]:
    """The method's own step with networks that give logits at no cost."""
    shape = (len(images), run.data.coding.classes, *images.shape[-2:])
    students, sam = run.method.students, run.method.sam
    # `deepcopy` takes from its second argument what it finds there: the networks are replaced, not copied.
    instead = {id(students): _Constants({name: torch.randn(shape) for name in ("fused", "unet", "vnet")})}
    if sam is not None:
        instead[id(sam.teacher)] = _Constants({"sam": torch.randn(shape)})
    method = copy.deepcopy(run.method, instead)

    def go() -> None:
        method.step(batch, progress).loss.backward()

    return go


class _Constants(nn.Module):
    """Logits that want gradients, in place of a network."""

    def __init__(self, logits: dict[str, Tensor]) -> None:
        super().__init__()
        self.constants = logits

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        return {name: one.detach().requires_grad_() for name, one in self.constants.items()}

    def ask(self, image: Tensor, prompt: Tensor, regions: Tensor | None = None, frozen: bool = False) -> Tensor:
        return image

    def answer(self, image: Tensor) -> tuple[Tensor, None]:
        return next(iter(self.outputs(image).values())), None


def update(run: Any) -> None:
    """What the optimisers do with gradients of zero, and the method afterwards."""
    for group in run.groups:
        for parameter in group.parameters:
            parameter.grad = torch.zeros_like(parameter)
    for optimiser in run.optimisers.values():
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    run.method.after_step(Progress(run.position, 1000))


def tell(name: str, times: dict[str, Times], passes: int) -> dict[str, Any]:
    """Print and return the ratios."""
    parts = {part: times[part] for part in PARTS if part in times}
    report: dict[str, Any] = {"seconds": summary(times), "step / floor": ratio(times["step"], times["floor"])}
    print(f"{name}: one step takes {spread(times['step'].cpu)['median']:.2f} s of CPU time")
    show("  step / floor", report["step / floor"])
    report["floor / own passes"] = ratio(times["floor"], times["own passes"])
    show("  floor / own passes", report["floor / own passes"])
    report["step, in plain passes"] = {k: v * passes for k, v in report["step / floor"].items()}
    show("  step, in single plain passes", report["step, in plain passes"])
    report["shares"] = {part: ratio(one, times["step"]) for part, one in parts.items()}
    rest = Times(cpu=total([times["step"].cpu, *[[-t for t in one.cpu] for one in parts.values()]]))
    report["shares"]["the rest"] = ratio(rest, times["step"])
    for part, share in report["shares"].items():
        show(f"  share of the step: {part}", share)
    return report


if __name__ == "__main__":
    main()

"""Where the time of a training step goes on one GPU: wall time, GPU time and kernels of each part, plain and replayed.

    python benchmarks/gpu.py --sam vit_b --out gpu.json
    python benchmarks/gpu.py --sam tiny --size 128
    python benchmarks/gpu.py --dry-run                 tiny sizes on the CPU: does the script itself work?

KnowSAM with the paper's settings after UGDA has started, bf16. SAM's weights are random where its file is not at hand:
time does not depend on them. `wall` is the median of rounds with its spread; `GPU` and `kernels` come from torch's
profiler in one round. The floor is two forward and backward passes of the students alone.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from knowsam.config import resolve_config
from knowsam.data.augment import strong_augmentation, weak_augmentation
from knowsam.training.build import build_method, build_optimiser
from knowsam.training.cuda_graph import PLAIN_STEPS, ReplayedSteps
from knowsam.training.determinism import repeatable
from knowsam.types import Batch, Progress, StepOutput
from measure import keep, parser, ratio, show, spread, summary, take_turns

PROGRESS = Progress(600, 1000)
PAPER_STEPS = 50_000


class Step:
    """A step as the training loop does it, and its parts, for one setting."""

    def __init__(self, sam: str, size: int, half: int, classes: int, device: str) -> None:
        self.device, self.size = torch.device(device), (size, size)
        torch.manual_seed(0)
        settings = {"name": sam, "pretrained": False, "train": "all" if sam == "tiny" else "adapters"}
        config = resolve_config({"method": "knowsam", "preset": "paper", "data": {"size": size}, "sam": settings})
        method: Any = build_method(config, 1, classes)
        self.method = method.to(self.device, memory_format=torch.channels_last)
        groups = self.method.parameter_groups()
        self.optimisers = [build_optimiser(group, config) for group in groups]
        self.weak = weak_augmentation(self.size).to(self.device)
        self.strong = strong_augmentation(self.size).to(self.device)
        self.batch = make_batch(half, classes, size, self.device)
        self.images = torch.cat([self.batch.labelled_image, self.batch.unlabelled_image])  # type: ignore[list-item]
        self.parameters = [weight for group in groups for weight in group.parameters]
        self.replayed = ReplayedSteps(self.gradients, self.parameters, self.device) if device == "cuda" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16, as the training loop has it."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def augment(self, batch: Batch) -> Batch:
        """Labelled images weakly, unlabelled ones strongly."""
        assert batch.unlabelled_image is not None
        image, label = self.weak(batch.labelled_image, batch.label)
        unlabelled, _ = self.strong(batch.unlabelled_image)
        return Batch(image, label, unlabelled)

    def gradients(self, batch: Batch, progress: Progress) -> StepOutput:
        """Augmentation, forward and backward pass."""
        batch = self.augment(batch)
        with self.autocast():
            output = self.method(batch, progress)
        output.loss.backward()
        return StepOutput(output.loss.detach(), output.terms)

    def forget(self) -> None:
        """Drop the last step's gradients."""
        for weight in self.parameters:
            weight.grad = None

    def optimise(self) -> None:
        """One step of every optimiser."""
        for optimiser in self.optimisers:
            optimiser.step()

    def plain(self) -> None:
        """A step, kernel by kernel."""
        self.forget()
        self.gradients(self.batch, PROGRESS)
        self.optimise()

    def replay(self) -> None:
        """The same, recorded and replayed."""
        assert self.replayed is not None
        self.replayed(self.batch, PROGRESS)
        self.optimise()

    def passes(self, forward: Callable[[], Tensor]) -> None:
        """Forward and backward pass of a part."""
        with self.autocast():
            value = forward()
        value.backward()

    def students(self) -> Tensor:
        """One forward pass of both students and the fusion head."""
        return torch.stack([one.float().mean() for one in self.method.students.outputs(self.images).values()]).sum()

    def floor(self) -> None:
        """Two forward and backward passes of the students."""
        self.forget()
        for _ in range(2):
            self.passes(self.students)

    def parts(self) -> dict[str, Callable[[], Any]]:
        """What a step consists of, each by itself."""
        teacher = self.method.sam.teacher
        prompt = torch.zeros(len(self.images), teacher.classes, *self.size, device=self.device)
        rgb = self.images.expand(-1, 3, -1, -1)
        if teacher.size is not None:
            rgb = torch.nn.functional.interpolate(rgb, teacher.size, mode="bilinear")
        with torch.no_grad(), self.autocast():
            embedding = teacher.sam.vision_encoder(rgb)[0]
        return {
            "students, forward and backward": lambda: self.passes(self.students),
            "SAM, forward and backward": lambda: self.passes(lambda: teacher(self.images, prompt).float().mean()),
            "  its encoder": lambda: self.passes(lambda: teacher.sam.vision_encoder(rgb)[0].float().mean()),
            "  its prompts": lambda: self.passes(lambda: teacher.prompts(embedding).float().mean()),
            "augmentation, weak and strong": lambda: self.augment(self.batch),
            "optimisers": self.optimise,
        }


def main() -> None:
    options = parser(__doc__, rounds=10)
    options.add_argument("--sam", default="vit_b", help="tiny, vit_b or lite_medsam")
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--half", type=int, default=12, help="labelled images, and as many unlabelled ones")
    options.add_argument("--classes", type=int, default=4)
    options.add_argument("--deterministic", action="store_true", help="as train.deterministic")
    options.add_argument("--dry-run", action="store_true")
    arguments = options.parse_args()
    device = "cpu" if arguments.dry_run else "cuda"
    if not arguments.dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU was found; to see whether the script works use --dry-run")
    if arguments.dry_run:
        arguments.sam, arguments.size, arguments.half, arguments.classes, arguments.rounds = "tiny", 32, 1, 2, 1
    with repeatable(arguments.deterministic):
        measure(arguments, device)


def measure(arguments: argparse.Namespace, device: str) -> None:
    """Measure and print everything for one setting."""
    step = Step(arguments.sam, arguments.size, arguments.half, arguments.classes, device)
    contenders: dict[str, Callable[[], Any]] = {"step, plain": step.plain, "floor": step.floor}
    if step.replayed is not None:
        for _ in range(PLAIN_STEPS + 1):
            step.replay()
        if step.replayed.obstacle is not None:
            print(f"not replayed: {step.replayed.obstacle}")
        contenders["step, replayed"] = step.replay
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = take_turns(contenders | step.parts(), arguments.rounds, warm_up=2)
    profiles = {name: profile(run, device) for name, run in (contenders | step.parts()).items()}
    title = f"{arguments.sam}, {arguments.size} px, {arguments.half}+{arguments.half}, K={arguments.classes}"
    print(f"{title:<34} {'wall ms':>24} {'GPU ms':>8} {'kernels':>8}")
    for name, one in times.items():
        wall = {key: value * 1000 for key, value in spread(one.wall).items()}
        found = profiles[name]
        print(
            f"{name:<34} {wall['median']:8.1f} ({wall['p10']:.1f} to {wall['p90']:.1f})"
            f" {found['gpu_ms']:8.1f} {found['kernels']:8d}"
        )
    fastest = "step, replayed" if step.replayed is not None else "step, plain"
    seconds = spread(times[fastest].wall)["median"]
    busy = profiles[fastest]["gpu_ms"] / 1000
    print(f"{1 / seconds:.2f} steps/s, {PAPER_STEPS * seconds / 3600:.2f} h for {PAPER_STEPS} steps")
    if busy:
        print(f"wall over GPU time: {seconds / busy:.2f}")
    show("step / floor", ratio(times[fastest], times["floor"], "wall"))
    flop = count(step.plain)
    product = matrix_product(device, 256 if arguments.dry_run else 8192)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    print(f"{flop / seconds / 1e12:.1f} TFLOP/s, one matrix product {product:.0f}; peak {peak} GB")
    print("most GPU time of a plain step:")
    for line in profiles["step, plain"]["most"]:
        print(f"  {line['ms']:8.2f} ms {line['calls']:6d}  {line['name'][:110]}")
    report = {"setting": {key: str(value) for key, value in vars(arguments).items()}, "seconds": summary(times)}
    keep(arguments.out, report | {"profiles": profiles, "flop": flop, "product_tflops": product, "peak_gb": peak})


def make_batch(half: int, classes: int, size: int, device: torch.device) -> Batch:
    def image() -> Tensor:
        return torch.rand(half, 1, size, size, device=device)

    return Batch(image(), torch.randint(0, classes, (half, size, size), device=device), image())


def count(step: Callable[[], None]) -> int:
    """FLOP of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def profile(run: Callable[[], Any], device: str) -> dict[str, Any]:
    """GPU time, number of kernels, and the kernels with most time (on a CPU: its operations)."""
    on_gpu = device == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA] if on_gpu else [activity.CPU]) as record:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    time_of: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in record.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent > 0 and not event.key.startswith(("cuda", "Activity", "ProfilerStep")):
            time_of[event.key] += spent / 1000
            calls[event.key] += event.count
    most = [{"name": name, "ms": round(ms, 3), "calls": calls[name]} for name, ms in time_of.most_common(30)]
    return {"gpu_ms": sum(time_of.values()) if on_gpu else 0.0, "kernels": sum(calls.values()), "most": most}


def matrix_product(device: str, side: int) -> float:
    """TFLOP/s of a square matrix product in bf16."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for number in range(13):
        if number == 3:
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()
    return 10 * 2 * side**3 / (time.perf_counter() - started) / 1e12


if __name__ == "__main__":
    main()

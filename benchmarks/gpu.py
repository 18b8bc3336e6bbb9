"""The paper's setting on one GPU, in one call: steps per second, share of the floor, memory, TFLOP/s, a profile.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --dry-run            tiny sizes on the CPU: does the script itself work?

256 px, 12+12 images, a SAM of ViT-B's size with random weights of which adapters and prompts learn, after UGDA has
started, for each K; full precision, bf16 autocast, and bf16 with torch.compile of the students. The floor is two
forward and backward passes of the students in the same precision and layout. FLOP are counted by torch on one step;
TFLOP/s stand beside those of one large matrix product of the same precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from knowsam.config import resolve_config
from knowsam.training.build import build_method, build_optimiser
from knowsam.types import Batch, Progress
from measure import keep, parser, ratio, show, spread, summary, take_turns

PROGRESS = Progress(600, 1000)
VARIANTS = {"fp32": (None, False), "bf16": (torch.bfloat16, False), "bf16, compiled": (torch.bfloat16, True)}
PAPER_STEPS = 50_000


def main() -> None:
    options = parser(__doc__, rounds=20)
    options.add_argument("--dry-run", action="store_true")
    arguments = options.parse_args()
    device = "cpu" if arguments.dry_run else "cuda"
    if not arguments.dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU was found; to see whether the script works use --dry-run")
    setting: dict[str, Any] = {"size": 256, "half": 12, "sam": "vit_b", "classes": (2, 4)}
    if arguments.dry_run:
        setting = {"size": 32, "half": 1, "sam": "tiny", "classes": (2,)}
    rounds = 1 if arguments.dry_run else arguments.rounds
    report: dict[str, Any] = {"setting": setting}
    for name, (precision, compiled) in VARIANTS.items():
        if compiled and arguments.dry_run:
            continue
        product = matrix_product(device, precision, 256 if arguments.dry_run else 8192)
        for classes in setting["classes"]:
            key = f"{name}, K={classes}"
            report[key] = measure(key, device, classes, precision, compiled, rounds, setting) | {
                "matrix_product_tflops": product
            }
            print(f"  a matrix product alone: {product:.2f} TFLOP/s")
    keep(arguments.out, report)


def measure(
    key: str, device: str, classes: int, precision: torch.dtype | None, compiled: bool, rounds: int, setting: Any
) -> dict[str, Any]:
    """One variant: its times, FLOP, memory and profile."""
    torch.manual_seed(0)
    sam = {"name": setting["sam"], "pretrained": False, "train": "adapters"}
    config = resolve_config({"method": "knowsam", "preset": "paper", "data": {"size": setting["size"]}, "sam": sam})
    method: Any = build_method(config, 1, classes).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers = [build_optimiser(group, config) for group in method.parameter_groups()]
    batch = make_batch(setting["half"], classes, setting["size"], device)
    if compiled:
        method.students.outputs = torch.compile(method.students.outputs)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device, precision or torch.bfloat16, enabled=precision is not None)

    def step() -> None:
        with autocast():
            loss = method(batch, PROGRESS).loss
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    images = torch.cat([batch.labelled_image, batch.unlabelled_image])  # type: ignore[list-item]

    def floor() -> None:
        for _ in range(2):
            with autocast():
                outputs = method.students.outputs(images)
            torch.autograd.backward(list(outputs.values()), [torch.ones_like(one) for one in outputs.values()])
        method.zero_grad(set_to_none=True)

    step()  # compiles, and lets cuDNN choose
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = take_turns({"step": step, "floor": floor}, rounds, warm_up=3)
    clock = spread(times["step"].wall)
    flop = count(step) if not compiled else None
    found = {
        "seconds": summary(times),
        "steps_per_s": 1 / clock["median"],
        "hours_of_the_paper": PAPER_STEPS * clock["median"] / 3600,
        "step / floor": ratio(times["step"], times["floor"], "wall"),
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "tflops": None if flop is None else flop / clock["median"] / 1e12,
        "profile": profile(step, device),
    }
    print(f"{key}: {found['steps_per_s']:.2f} steps/s, {found['hours_of_the_paper']:.2f} h for {PAPER_STEPS} steps")
    show("  step / floor", found["step / floor"])
    print(f"  {found['peak_gb']} GB, {found['tflops']} TFLOP/s; most time in:")
    for line in found["profile"]:
        print(f"    {line['ms']:9.2f} ms  {line['name']}")
    return found


def make_batch(half: int, classes: int, size: int, device: str) -> Batch:
    def image() -> Tensor:
        return torch.rand(half, 1, size, size, device=device).contiguous(memory_format=torch.channels_last)

    return Batch(image(), torch.randint(0, classes, (half, size, size), device=device), image())


def count(step: Callable[[], None]) -> int:
    """FLOP of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def profile(step: Callable[[], None], device: str) -> list[dict[str, Any]]:
    """The ten operations with most time of their own."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as record:
        step()
        if device == "cuda":
            torch.cuda.synchronize()
    attribute = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    events = sorted(record.key_averages(), key=lambda event: -getattr(event, attribute))[:10]
    return [{"name": event.key, "ms": getattr(event, attribute) / 1000, "calls": event.count} for event in events]


def matrix_product(device: str, precision: torch.dtype | None, side: int) -> float:
    """TFLOP/s of a square matrix product."""
    a = torch.randn(side, side, device=device, dtype=precision or torch.float32)
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

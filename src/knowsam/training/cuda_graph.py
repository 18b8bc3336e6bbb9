"""A training step recorded once as a CUDA graph and then replayed: thousands of kernels for the price of one launch.

A step of the paper's setting is thousands of small kernels, and launching them takes longer than computing them
(docs/performance.md). Shapes are the same at every step, so augmentation, forward and backward pass are recorded; the
optimisers stay outside. What changes from step to step reaches the recording in three ways: the batch and the weights
of the schedules (`Progress.weight`) are copied into tensors that it reads, and the random numbers follow from the seed
that is set before it. A decision about the course of the run (`Progress.reached`) belongs to the recording; when it
turns out otherwise, a new one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from knowsam.training.host_waits import HostWaits
from knowsam.types import Batch, Progress, StepOutput

PLAIN_STEPS = 3
"""Steps that are computed kernel by kernel before one is recorded, so that every library has chosen its algorithms."""

MOST_WEIGHTS = 16

Compute = Callable[[Batch, Progress], StepOutput]


class AskedProgress(Progress):
    """Where the run stands, noting what a step asks of it.

    Attributes:
        decisions: Each share that was asked for, and whether it was reached.
        schedules: Each schedule that was asked for, in order.
        asked_directly: Whether the step looked at its position as a number, which a replay would not follow.
    """

    plain: Progress
    decisions: list[tuple[float, bool]]
    schedules: list[Callable[[float], float]]
    asked_directly: bool

    def __new__(cls, progress: Progress) -> Self:
        """A tuple like the one it stands for."""
        self = super().__new__(cls, *progress)
        self.plain, self.decisions, self.schedules, self.asked_directly = progress, [], [], False
        return self

    @property
    def fraction(self) -> float:
        """`t` as a number."""
        self.asked_directly = True
        return self.plain.fraction

    @property
    def step(self) -> int:
        """The step's index as a number."""
        self.asked_directly = True
        return self.plain.step

    def reached(self, share: float) -> bool:
        """The decision, noted."""
        answer = self.plain.reached(share)
        self.decisions.append((share, answer))
        return answer

    def weight(self, schedule: Callable[[float], float]) -> float | Tensor:
        """The schedule's value, noted."""
        self.schedules.append(schedule)
        return self.plain.weight(schedule)

    def holds(self, progress: Progress) -> bool:
        """Whether every decision would be the same there."""
        return all(progress.reached(share) == answer for share, answer in self.decisions)


class RecordedProgress(AskedProgress):
    """Where the run stands, for a step that is being recorded: its weights are scalars on the device.

    Attributes:
        values: The scalars, `(MOST_WEIGHTS,)` float32.
    """

    values: Tensor

    def __new__(cls, progress: Progress, device: torch.device) -> Self:
        """With scalars on a device."""
        self = super().__new__(cls, progress)
        self.values = torch.zeros(MOST_WEIGHTS, device=device)
        return self

    def weight(self, schedule: Callable[[float], float]) -> Tensor:
        """A scalar that `set_weights` sets for every step."""
        self.schedules.append(schedule)
        return self.values[len(self.schedules) - 1]

    def set_weights(self, progress: Progress) -> None:
        """Set the scalars for a step."""
        if self.schedules:
            weights = torch.tensor([schedule(progress.fraction) for schedule in self.schedules])
            # A new pinned tensor each time: the device may still be reading the last one.
            self.values[: len(weights)].copy_(_pinned(weights, self.values.device), non_blocking=True)


@dataclass
class Recording:
    """One recorded step and the tensors that it reads and writes; gradients lie where the recording left them."""

    graph: Any
    batch: Batch
    progress: RecordedProgress
    names: list[str]
    values: Tensor

    def fits(self, batch: Batch, progress: Progress) -> bool:
        """Whether it can be replayed for a batch, there."""
        return shapes_of(self.batch) == shapes_of(batch) and self.progress.holds(progress)


class ReplayedSteps:
    """Compute gradients of a step: plainly at first, then by replaying what was recorded.

    Args:
        compute: Augmentation, forward and backward pass; returns detached values and leaves gradients in
            `parameters`, of which the old ones are gone when it is called.
        parameters: Everything that learns.
        device: The GPU.

    Attributes:
        obstacle: Why nothing is replayed, for a person to read; None while nothing stands against it.
    """

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self.compute, self.parameters, self.device = compute, list(parameters), device
        self.obstacle: str | None = None
        self._untold: str | None = None
        self._recording: Recording | None = None
        self._plain_steps = 0
        self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: Batch, progress: Progress) -> StepOutput:
        """Gradients of one step.

        Args:
            batch: On the processor or the device, not yet augmented.
            progress: Where the run stands.
        """
        if self._recording is not None and not self._recording.fits(batch, progress):
            # A run only goes forward: what it has left behind would hold its memory beside the next one's.
            self._recording, self._plain_steps = None, 0
        if self._recording is None and self.obstacle is None and self._plain_steps >= PLAIN_STEPS:
            self._recording = self._record(batch, progress)
        if self._recording is not None:
            return self._replay(self._recording, batch, progress)
        self._plain_steps += 1
        return self._plainly(batch, progress)

    def take_obstacle(self) -> str | None:
        """Return why nothing is replayed, once; None if there is nothing to say."""
        obstacle, self._untold = self._untold, None
        return obstacle

    def _plainly(self, batch: Batch, progress: Progress) -> StepOutput:
        self._forget_gradients()
        batch = to_device(batch, self.device)
        if self.obstacle is not None or self._plain_steps < PLAIN_STEPS:
            return self.compute(batch, progress)
        asked = AskedProgress(progress)
        with HostWaits() as waits:
            output = self.compute(batch, asked)
        found = [*waits.found, *(["the step's number"] if asked.asked_directly else [])]
        if found:
            self.obstacle = self._untold = f"it depends on the processor ({', '.join(found)})"
        return output

    def _record(self, batch: Batch, progress: Progress) -> Recording:
        self._forget_gradients()
        static = to_device(batch, self.device, copy=True)
        static.labelled_stems = static.unlabelled_stems = ()
        recorded = RecordedProgress(progress, self.device)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        # Threads that read files or write checkpoints may go on meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            output = self.compute(static, recorded)
            values = torch.stack([output.loss.float(), *(term.float() for term in output.terms.values())])
        return Recording(graph, static, recorded, list(output.terms), values)

    def _replay(self, recording: Recording, batch: Batch, progress: Progress) -> StepOutput:
        copy_batch(recording.batch, batch)
        recording.progress.set_weights(progress)
        recording.graph.replay()
        values = recording.values.clone()  # the next replay overwrites them
        return StepOutput(values[0], dict(zip(recording.names, values[1:].unbind(), strict=True)))

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def shapes_of(batch: Batch) -> dict[str, torch.Size]:
    """What of a batch a recording depends on."""
    return {name: tensor.shape for name, tensor in batch.tensors().items()}


def to_device(batch: Batch, device: torch.device, copy: bool = False) -> Batch:
    """The batch on the device, by way of pinned memory, so that nothing waits; `copy`: never the same tensors."""
    moved = {
        name: _pinned(tensor, device).to(device, non_blocking=True, copy=copy)
        for name, tensor in batch.tensors().items()
    }
    return batch.with_tensors(moved)


def copy_batch(target: Batch, source: Batch) -> None:
    """Copy a batch into one of the same shapes that lies on the device."""
    others = source.tensors()
    for name, own in target.tensors().items():
        own.copy_(_pinned(others[name], own.device), non_blocking=True)


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor where a GPU can fetch it by itself."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor

"""How many operations one training step hands to the device, by part: what a GPU launches. No GPU is needed.

    python benchmarks/operations.py --sam vit_b --out operations.json

Tensors without content (torch's meta device) go through KnowSAM's step as on a GPU, with the paper's settings after
UGDA has started. Views, which launch nothing, are not counted; attention and dropout count as one kernel each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from knowsam.config import resolve_config
from knowsam.data.augment import strong_augmentation, weak_augmentation
from knowsam.training.build import build_method
from knowsam.types import Batch, Progress
from measure import keep, parser

PROGRESS = Progress(600, 1000)
VIEWS = frozenset(
    {
        "view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias",
        "as_strided", "_unsafe_view", "unbind", "split", "split_with_sizes", "unfold", "diagonal", "lift_fresh",
        "empty", "empty_like", "new_empty", "new_empty_strided",
    }
)  # fmt: skip


class Operations(TorchDispatchMode):
    """Within the block, count what is dispatched, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


class AttentionKernel(torch.autograd.Function):
    """Stands for a fused attention: one operation forward, one backward, and the layout that its answer has."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`(B, heads, tokens, d)` each -> the same shape, without content."""
        ctx.save_for_backward(query, key, value)
        batch, heads, tokens = query.shape[:3]
        return value.new_empty(batch, tokens, heads, value.shape[-1]).neg_().transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients without content."""
        query, *others = (torch.empty_like(saved) for saved in ctx.saved_tensors)
        return query.neg_(), *others


@contextmanager
def fused_kernels() -> Iterator[None]:
    """Within the block attention and dropout are one operation each, as on a GPU; `meta` would take them apart."""

    def attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        answer: Tensor = AttentionKernel.apply(query, key, value)
        return answer

    def dropout(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        return torch.native_dropout(input, p, training)[0] if training and p > 0 else input

    own = F.scaled_dot_product_attention, F.dropout
    F.scaled_dot_product_attention, F.dropout = attention, dropout
    try:
        yield
    finally:
        F.scaled_dot_product_attention, F.dropout = own


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--sam", default="vit_b", help="none, tiny or vit_b; with random weights")
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--half", type=int, default=12, help="labelled images, and as many unlabelled ones")
    options.add_argument("--classes", type=int, default=4)
    arguments = options.parse_args()
    found = operations(arguments.sam, arguments.size, arguments.half, arguments.classes)
    print(f"{'part':<24} {'forward':>9} {'with backward':>15}")
    for name, (forward, both) in found.items():
        print(f"{name:<24} {forward:9d} {both:15d}")
    keep(arguments.out, {"operations": found})


def operations(sam: str, size: int, half: int, classes: int) -> dict[str, tuple[int, int]]:
    """Operations of each part: forward pass, and forward and backward pass together."""
    settings: Any = "none" if sam == "none" else {"name": sam, "pretrained": False}
    config = resolve_config({"method": "knowsam", "preset": "paper", "data": {"size": size}, "sam": settings})
    method: Any = build_method(config, 1, classes).to("meta", memory_format=torch.channels_last)
    with torch.device("meta"):
        label = torch.zeros(half, size, size, dtype=torch.long)
        image, both = (
            torch.rand(count, 1, size, size).contiguous(memory_format=torch.channels_last) for count in (half, 2 * half)
        )
        prompt = torch.zeros(2 * half, classes, size, size)
    batch = Batch(image, label, image)
    weak, strong = (make((size, size)).to("meta") for make in (weak_augmentation, strong_augmentation))
    parts: dict[str, Callable[[], Tensor | None]] = {
        "step": lambda: method(batch, PROGRESS).loss,
        "students, one pass": lambda: torch.stack([one.sum() for one in method.students.outputs(both).values()]).sum(),
    }
    if method.sam is not None:
        teacher = method.sam.teacher
        rgb = both.expand(-1, 3, -1, -1)
        embedding = teacher.sam.vision_encoder(rgb)[0].detach()
        parts["SAM"] = lambda: teacher(both, prompt).sum()
        parts["  its encoder"] = lambda: teacher.sam.vision_encoder(rgb)[0].sum()
        parts["  its prompts"] = lambda: teacher.prompts(embedding).sum()
    parts["weak augmentation"] = lambda: (weak(image, label), None)[1]
    parts["strong augmentation"] = lambda: (strong(image), None)[1]
    found = {}
    for name, run in parts.items():
        method.zero_grad()
        with fused_kernels(), Operations() as counted:
            value = run()
            forward = counted.count.total()
            if value is not None:
                value.backward()
        found[name] = (forward, counted.count.total())
    return found


if __name__ == "__main__":
    main()

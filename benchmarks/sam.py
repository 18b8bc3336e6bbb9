"""The adapted encoder and decoder, forward and backward, against transformers' own.

    python benchmarks/sam.py --sam vit_b --rounds 3
    python benchmarks/sam.py --sam tiny

`transformers` has the same weights and no adapters, and gradients go through it to the image; `transformers + adapters`
has the same adapters around transformers' own attention, windows padded, so that both do the same work.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from knowsam.sam.adapters import AdaptedAttention
from knowsam.sam.backbone.decode import MASK_PROMPT_SCALE, decode_masks
from knowsam.sam.backbone.tiny import Encoded
from knowsam.sam.loading.build import build_sam
from knowsam.sam.teacher import SamTeacher
from knowsam.training.memory import keep_freed_memory
from measure import keep, parser, ratio, show, spread, summary, take_turns


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--sam", default="vit_b", help="tiny, or with random weights vit_b, vit_l, vit_h")
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--images", type=int, default=4)
    options.add_argument("--classes", type=int, default=2)
    arguments = options.parse_args()
    torch.manual_seed(0)
    sam, _ = build_sam(arguments.sam, (arguments.size, arguments.size), pretrained=arguments.sam == "tiny")
    plain = copy.deepcopy(sam).requires_grad_(False)
    ours = SamTeacher(sam, arguments.classes, "adapters")
    theirs = as_transformers_does(copy.deepcopy(ours), copy.deepcopy(plain))
    image = torch.rand(arguments.images, 3, arguments.size, arguments.size)
    contenders: dict[str, Callable[[], Any]] = {
        "encoder": encoder(ours.sam, image),
        "encoder, transformers + adapters": encoder(theirs.sam, image),
        "encoder, transformers": encoder(plain, image.clone().requires_grad_()),
        "decoder": decoder(ours.sam, image, arguments.classes),
        "decoder, transformers": decoder(plain, image, arguments.classes),
    }
    with keep_freed_memory():
        times = take_turns(contenders, arguments.rounds)
    report: dict[str, Any] = {"sam": arguments.sam, "seconds": summary(times)}
    for name in contenders:
        show(name, spread(times[name].cpu), " s")
        part = name.split(",")[0]
        if name != part:
            report[f"{name} / ours"] = ratio(times[name], times[part])
            show(f"{name} / ours", report[f"{name} / ours"])
    keep(arguments.out, report)


def as_transformers_does(teacher: SamTeacher, plain: Any) -> SamTeacher:
    """The same teacher with transformers' attention in its adapted layers, and transformers' cutting into windows."""
    for adapted, own in zip(teacher.sam.vision_encoder.layers, plain.vision_encoder.layers, strict=True):
        adapted.attn = _Padded(adapted.attn)
        adapted.window_partition, adapted.window_unpartition = own.window_partition, own.window_unpartition
    return teacher


class _Padded(nn.Module):
    def __init__(self, adapted: AdaptedAttention) -> None:
        super().__init__()
        self.base, self.adapter = adapted.base, adapted.adapter

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        return self.adapter(self.base(hidden_states=hidden_states)[0]), None


def encoder(sam: Any, image: Tensor) -> Callable[[], None]:
    def go() -> None:
        sam.vision_encoder(image)[0].sum().backward()
        sam.zero_grad()

    return go


def decoder(sam: Any, image: Tensor, classes: int) -> Callable[[], None]:
    """All classes of all images in one batch, gradients to the embedding and the prompts."""
    with torch.no_grad():
        encoded = sam.vision_encoder(image)
    prompts, (dim, *grid) = len(image) * classes, encoded[0].shape[1:]
    tokens = torch.randn(prompts, 2, dim)
    mask = torch.randn(prompts, 1, MASK_PROMPT_SCALE * grid[0], MASK_PROMPT_SCALE * grid[1])

    def go() -> None:
        embedding = encoded[0].detach().requires_grad_()
        held = encoded._replace(embedding=embedding) if isinstance(encoded, Encoded) else (embedding,)
        dense = sam.prompt_encoder.mask_embed(mask)
        decode_masks(sam, held, tokens.requires_grad_(), dense, mask)[0].sum().backward()
        sam.zero_grad()

    return go


if __name__ == "__main__":
    main()

"""The pretraining loop: drawn scenes in, a promptable SAM in a Hugging Face directory out.

Each step encodes B images once and asks for P objects of each, with a spoilt mask, a mask and a point, a box or a point
as prompt; then a second time, with the model's own answer and a point where it is wrong, as SAM was trained (Kirillov
et al., 2023, appendix A). Sparse prompts come in once dense ones are understood, and for the first half the encoder is
also asked for all outlines, a dense task that needs no prompt.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from knowsam.errors import InputError
from knowsam.files import write_json
from knowsam.io.files import whole_file
from knowsam.networks.ema import ema_copy, ema_decay, update_ema
from knowsam.sam.decode import MASK_PROMPT_SCALE, decode_masks
from knowsam.sam.pretrain.scenes import draw_scenes
from knowsam.sam.pretrain.targets import boxes_of, choose_targets, jitter_boxes, points_in, spoil
from knowsam.sam.resize import resize_grid
from knowsam.sam.teacher import PIXEL_MEAN, PIXEL_STD
from knowsam.schedules import linear_decay

MASK, MASK_AND_POINT, BOX, POINT = range(4)
"""Kinds of prompt."""
SPARSE_SHARES = (0.5, 0.1, 0.25, 0.15)
"""Shares of the four kinds once sparse prompts have come in."""
CHECKPOINT, SETTINGS = "checkpoint.pt", "pretrain.json"
TIED = ("prompt_encoder.shared_embedding.positional_embedding",)
"""A second name of `shared_image_embedding.positional_embedding`."""
HELD_OUT_SEED = 2**31
"""Seed of the drawn scenes that only measure."""


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pretraining run.

    Attributes:
        steps: Optimiser steps in all.
        images: Images per step.
        prompts: Objects asked for per image.
        sizes: Image sides in pixels; each step draws one.
        lr: Learning rate of AdamW after the warm-up; it falls linearly to 0.
        warmup: Share of the run over which it rises.
        weight_decay: Of weight matrices; vectors and positions have none.
        ema: Decay of the running average that is kept.
        sparse_from: Share of the run after which points and boxes come in.
        outline_until: Share of the run until which the encoder is also asked for all outlines.
        amp: `"bf16"` or `"no"`.
        seed: Of initial weights and scenes.
        check_every: Steps between measurements on held-out scenes, and between checkpoints.
    """

    steps: int = 6000
    images: int = 8
    prompts: int = 4
    sizes: tuple[int, ...] = (96, 128)
    lr: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.05
    ema: float = 0.998
    sparse_from: float = 0.2
    outline_until: float = 0.5
    amp: str = "no"
    seed: int = 0
    check_every: int = 250


@dataclass
class DrawnStep:
    """What one step is made of.

    Attributes:
        image: `(B, 3, H, W)` float32 in [0, 1].
        target: `(B * P, H, W)` float32, 0 or 1.
        weight: `(B * P,)`, 0 where there is nothing to ask for.
        outline: `(B, 1, h, w)` float32, 1 where two layers meet, at the size of the mask prompt.
        logits: Spoilt mask prompts `(B * P, h, w)`.
        kind: `(B * P,)`, one of the four kinds.
        box: `(B * P, 4)` x0, y0, x1, y1 in [0, 1].
        point: `(B * P, 2)` x, y in [0, 1], inside the target.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    outline: Tensor
    logits: Tensor
    kind: Tensor
    box: Tensor
    point: Tensor


def draw_step(config: PretrainConfig, patch: int, step: int, seed: int, severity: tuple[float, float]) -> DrawnStep:
    """The data of a step: a function of the seed and the step alone."""
    words = np.random.SeedSequence((seed, step)).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
    side = config.sizes[int(torch.randint(len(config.sizes), (), generator=generator))]
    scenes = draw_scenes(config.images, (side, side), generator)
    targets = choose_targets(scenes, config.prompts, generator)
    target, scale = targets.mask.flatten(0, 1), patch // MASK_PROMPT_SCALE
    small, neighbour = (F.avg_pool2d(mask, scale).flatten(0, 1) for mask in (targets.mask, targets.neighbour))
    shares = torch.tensor(SPARSE_SHARES if step >= config.sparse_from * config.steps else (1.0, 0.0, 0.0, 0.0))
    return DrawnStep(
        scenes.image,
        target,
        targets.weight.flatten(),
        outlines(scenes.layer, scale),
        spoil(small, neighbour, generator, severity),
        torch.multinomial(shares, target.shape[0], replacement=True, generator=generator),
        jitter_boxes(boxes_of(target), generator) / side,
        points_in(target, generator) / side,
    )


def outlines(layer: Tensor, scale: int) -> Tensor:
    """Where neighbouring pixels of `(B, H, W)` differ, as `(B, 1, H / scale, W / scale)` float."""
    edge = torch.zeros_like(layer, dtype=torch.float32)
    edge[:, 1:] += layer[:, 1:] != layer[:, :-1]
    edge[:, :, 1:] += layer[:, :, 1:] != layer[:, :, :-1]
    return F.max_pool2d(edge.clamp(max=1).unsqueeze(1), scale)


class PretrainSteps(Dataset[DrawnStep]):
    """Drawn steps by number."""

    def __init__(self, config: PretrainConfig, patch: int) -> None:
        self.config, self.patch = config, patch

    def __getitem__(self, step: int) -> DrawnStep:
        return draw_step(self.config, self.patch, step, self.config.seed, (0.0, 1.0))


class PromptableSam(nn.Module):
    """A SAM with what its pretraining needs beside it: answers to mixed prompts, and a head for outlines."""

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.sam = sam
        self.outline_head = nn.Conv2d(sam.config.vision_config.output_channels, MASK_PROMPT_SCALE**2, 1)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)

    def embed(self, image: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` in [0, 1], of any size -> embeddings `(B, dim, g_h, g_w)`."""
        encoder = self.sam.vision_encoder
        # Layer by layer, because transformers' own pass knows one image size; the positions follow the grid.
        tokens = encoder.patch_embed.projection((image - self.mean) / self.deviation).permute(0, 2, 3, 1)
        tokens = tokens + resize_grid(encoder.pos_embed, (tokens.shape[1], tokens.shape[2]))
        for layer in encoder.layers:
            tokens = layer(tokens)
        return encoder.neck(tokens)

    def outlines(self, embedding: Tensor) -> Tensor:
        """Logits `(B, 1, 4 g_h, 4 g_w)` of `DrawnStep.outline`."""
        return F.pixel_shuffle(self.outline_head(embedding), MASK_PROMPT_SCALE)

    def answer(
        self, embedding: Tensor, kind: Tensor, logits: Tensor, point: Tensor, inside: Tensor, box: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One answer per prompt.

        Every prompt has two tokens: the corners of a box, or a point and SAM's sign for 'no point', or that sign twice.

        Args:
            embedding: `(B, dim, g_h, g_w)`.
            kind: `(N,)`, N = B * P.
            logits: Mask prompts `(N, 4 g_h, 4 g_w)`, used where the kind has a mask.
            point: `(N, 2)` x, y in [0, 1].
            inside: `(N,)` bool, whether the point belongs to the object.
            box: `(N, 4)` in [0, 1].

        Returns:
            Logits `(N, 4 g_h, 4 g_w)` and the estimated IoU `(N,)`.
        """
        encoder = self.sam.prompt_encoder
        places = self.sam.shared_image_embedding(torch.stack([box[:, :2], box[:, 2:], point], dim=1))
        corner, marks = places[:, :2], [entry.weight for entry in encoder.point_embed]
        corner = corner + torch.cat([marks[2], marks[3]])
        single = places[:, 2] + torch.where(inside[:, None], marks[1], marks[0])
        nothing = encoder.not_a_point_embed.weight.expand_as(single)
        with_point = ((kind == POINT) | (kind == MASK_AND_POINT))[:, None]
        tokens = torch.stack([torch.where(with_point, single, nothing), nothing], dim=1)
        tokens = torch.where((kind == BOX)[:, None, None], corner, tokens)
        with_mask = ((kind == MASK) | (kind == MASK_AND_POINT))[:, None, None, None]
        dense = torch.where(with_mask, encoder.mask_embed(logits[:, None]), encoder.no_mask_embed.weight[..., None, None])
        masks, quality = decode_masks(self.sam, embedding, tokens, dense)
        return masks[:, 0].float(), quality[:, 0].float()


def mask_loss(logits: Tensor, quality: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`BCE + Dice + (IoU - estimate)^2`, averaged over the prompts that count; and their mean IoU, detached.

    Args:
        logits: `(N, h, w)`.
        quality: Estimated IoU `(N,)`.
        target: `(N, h, w)` in [0, 1].
        weight: `(N,)`.
    """
    probs = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2))
    overlap, total = (probs * target).sum(dim=(1, 2)), (probs + target).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    iou = intersection_over_union(logits.detach() > 0, target > 0.5)
    loss = cross_entropy + dice + (quality - iou).square()
    count = weight.sum().clamp(min=1)
    return (loss * weight).sum() / count, (iou * weight).sum() / count


def intersection_over_union(answer: Tensor, truth: Tensor) -> Tensor:
    """IoU of boolean masks `(N, h, w)`: `(N,)`, 1 where both are empty."""
    overlap, either = (answer & truth).sum(dim=(1, 2)), (answer | truth).sum(dim=(1, 2))
    return torch.where(either > 0, overlap / either.clamp(min=1), 1.0)


def step_losses(model: PromptableSam, data: DrawnStep, generator: torch.Generator) -> dict[str, Tensor]:
    """Terms of one step: both answers, their IoU, the IoU of the given masks, the outlines."""
    embedding = model.embed(data.image)
    small = F.adaptive_avg_pool2d(data.target[:, None], data.logits.shape[-2:])[:, 0]
    inside = torch.ones(len(small), dtype=torch.bool)
    first, quality = model.answer(embedding, data.kind, data.logits, data.point, inside, data.box)
    first_loss, first_iou = mask_loss(first, quality, small, data.weight)
    # Again, with its own answer, and for half of them a point where it is wrong.
    own = first.detach().clamp(-32, 32)
    wrong = ((own > 0) != (small > 0.5)).float()
    place = points_in(wrong, generator)
    index = (place[:, 1].long() * wrong.shape[-1] + place[:, 0].long())[:, None]
    inside = small.flatten(1).gather(1, index)[:, 0] > 0.5
    sparse = bool((data.kind != MASK).any())
    pointed = (torch.rand(len(small), generator=generator) < 0.5) & sparse
    kind = torch.where(pointed, MASK_AND_POINT, MASK)
    scale = torch.tensor([wrong.shape[-1], wrong.shape[-2]])
    second, quality = model.answer(embedding, kind, own, place / scale, inside, data.box)
    second_loss, second_iou = mask_loss(second, quality, small, data.weight)
    drawn = model.outlines(embedding).float()
    outline = F.binary_cross_entropy_with_logits(drawn, data.outline, pos_weight=torch.tensor(4.0))
    masked = data.weight * (data.kind == MASK)
    given = (intersection_over_union(data.logits > 0, small > 0.5) * masked).sum() / masked.sum().clamp(min=1)
    answered = (intersection_over_union(first.detach() > 0, small > 0.5) * masked).sum() / masked.sum().clamp(min=1)
    return {
        "first": first_loss, "second": second_loss, "outline": outline, "iou_first": first_iou,
        "iou_second": second_iou, "iou_given_mask": given, "iou_mask": answered,
    }  # fmt: skip


def pretrain(config: PretrainConfig, sam: Any, out: Path, progress: Any = None) -> Path:
    """Pretrain `sam`; the same call on a folder with a checkpoint continues it.

    Args:
        config: All settings.
        sam: A `SamModel` with initial weights.
        out: The folder; gets `config.json` and `model.safetensors` (the running average, in half precision; a directory
            that `sam:` takes), `pretrain.json`, `metrics.jsonl`, `checkpoint.pt`.
        progress: Called with the step and the terms after each step.

    Returns:
        The folder.

    Raises:
        InputError: If the folder holds another run.
    """
    # On a CPU, transformers' plain attention takes two thirds of the time of torch's fused one at these sizes.
    sam.set_attn_implementation("eager")
    model = PromptableSam(sam)
    average = ema_copy(model)
    optimiser = _optimiser(model, config)
    out.mkdir(parents=True, exist_ok=True)
    done = _restore(config, out, model, average, optimiser)
    patch = sam.config.vision_config.patch_size
    loader = DataLoader(
        PretrainSteps(config, patch), batch_size=None, sampler=range(done, config.steps), num_workers=1,
        prefetch_factor=4,
    )  # fmt: skip
    sums: dict[str, float] = {}
    for step, data in enumerate(loader, start=done):
        terms = _train_step(config, model, optimiser, data, step)
        update_ema(average, model, ema_decay(step, config.ema))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) / config.check_every
        if progress is not None:
            progress(step + 1, terms)
        if (step + 1) % config.check_every == 0 or step + 1 == config.steps:
            record = {"step": step + 1, "terms": sums, "held_out": measure(config, average, patch)}
            _append(out / "metrics.jsonl", record)
            _save(config, out, model, average, optimiser, step + 1)
            sums = {}
    return out


def _train_step(
    config: PretrainConfig, model: PromptableSam, optimiser: torch.optim.Optimizer, data: DrawnStep, step: int
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.amp == "bf16"):
        terms = step_losses(model, data, generator)
    fading = max(0.0, 1 - step / (config.outline_until * config.steps))
    loss = (terms["first"] + terms["second"]) / 2 + 0.5 * fading * terms["outline"]
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    factor = linear_decay(step, config.steps, round(config.warmup * config.steps))
    for group in optimiser.param_groups:
        group["lr"] = config.lr * factor
    optimiser.step()
    return {name: term.detach() for name, term in {"loss": loss, **terms}.items()}


@torch.no_grad()
def measure(config: PretrainConfig, model: PromptableSam, patch: int, steps: int = 6) -> dict[str, float]:
    """Mean IoU on drawn scenes that training never sees, all kinds of prompts, in full precision."""
    model.eval()
    sums: dict[str, float] = {}
    for step in range(config.steps, config.steps + steps):
        data = draw_step(config, patch, step, config.seed + HELD_OUT_SEED, (0.0, 1.0))
        terms = step_losses(model, data, torch.Generator().manual_seed(step))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) / steps
    return sums


def _optimiser(model: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW; the random frequencies of the positional encoding stay as they are, as in SAM."""
    learning = [(name, weight) for name, weight in model.named_parameters() if "positional_embedding" not in name]
    matrices = [weight for name, weight in learning if weight.ndim > 1 and "embed" not in name]
    others = [weight for name, weight in learning if weight.ndim <= 1 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def _save(
    config: PretrainConfig, out: Path, model: nn.Module, average: PromptableSam, optimiser: Any, step: int
) -> None:
    """The checkpoint, and the running average as a directory that `sam:` takes."""
    state = {
        "step": step, "model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
    }  # fmt: skip
    with whole_file(out / CHECKPOINT) as temporary:
        torch.save(state, temporary)
    write_json(out / SETTINGS, {**asdict(config), "done": step})
    write_sam(average.sam, out)


def write_sam(sam: Any, out: Path) -> None:
    """A `SamModel` as `config.json` and `model.safetensors` in half precision, each whole or not at all."""
    from safetensors.torch import save_file

    weights = {name: value.half().contiguous() for name, value in sam.state_dict().items() if name not in TIED}
    with whole_file(out / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    write_json(out / "config.json", {**sam.config.to_diff_dict(), "dtype": "float16", "architectures": ["SamModel"]})


def _restore(
    config: PretrainConfig, out: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> int:
    """Steps done so far; 0 in a new folder."""
    if not (out / CHECKPOINT).exists():
        return 0
    settings = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(asdict(config)))
    different = [field.name for field in fields(config) if settings.get(field.name) != wanted[field.name]]
    if different:
        raise InputError(
            f"{out}: a pretraining run with another {', '.join(different)} was found, but expected the same settings to"
            " continue it; repeat them, or choose a new folder."
        )
    state = torch.load(out / CHECKPOINT, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")

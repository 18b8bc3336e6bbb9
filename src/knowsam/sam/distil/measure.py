"""How well a student does on images that it does not learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from knowsam.sam.distil.cache import Embeddings
from knowsam.sam.distil.students import Student
from knowsam.sam.distil.views import StepPlan, draw_views, resized, step_generator
from knowsam.sam.pretrain.promptable import PromptableSam, mean_iou_of
from knowsam.sam.pretrain.steps import BOX, MASK, DrawnStep

MOST = 48
"""Held-out images that are measured on."""


class HeldOut:
    """Fixed views of held-out images, as they are, with a box and a spoilt mask for objects in them.

    Attributes:
        boxes: Batches with boxes as prompts; a mask where an object is in pieces.
        masks: The same with spoilt masks.

    Args:
        plan: Of the held-out images.
        embeddings: The teacher's, of them; None where none is imitated.
    """

    def __init__(self, plan: StepPlan, embeddings: Embeddings | None) -> None:
        self.plan, self.embeddings = plan, embeddings
        with_object = torch.nonzero(plan.objects.chance.amax(dim=1) > 0)[:, 0]
        chosen = with_object[torch.linspace(0, len(with_object) - 1, min(MOST, len(with_object))).long()]
        # Neither turned nor cut out, so that the same objects are asked for at every size of the steps.
        self.boxes, self.masks = (
            [self._views(part, kind) for part in chosen.split(plan.batch) if len(part)] for kind in (BOX, MASK)
        )

    def _views(self, chosen: Tensor, kind: int) -> DrawnStep:
        shares = tuple(float(one == kind) for one in range(4))
        return draw_views(self.plan, chosen, step_generator(0, int(chosen[0])), shares, change=False)

    @torch.no_grad()
    def scores(self, student: Student, device: str) -> dict[str, float]:
        """`r2` of the embedding where one is imitated; mean IoU of answers (`box`, `mask`) and `given` masks."""
        model, found = student.kept(), dict[str, float]()
        if self.embeddings is not None:
            errors = []
            count = len(self.plan.images)
            for part in torch.linspace(0, count - 1, min(MOST, count)).long().split(self.plan.batch):
                image = resized(self.plan.images[part].float() / 255, self.plan.side).to(device)
                maps = [level.to(device) for level in self.embeddings.take(part)]
                errors += [float(student.unexplained(image, maps))] * len(part)
            found["r2"] = 1 - sum(errors) / len(errors)
        for name, batches in (("box", self.boxes), ("mask", self.masks)):
            if batches:
                answers = torch.cat([answered(model, views.to(device)) for views in batches])
                found[name] = _mean_iou(answers, batches)
        if self.masks:
            found["given"] = _mean_iou(torch.cat([views.logits for views in self.masks]), self.masks)
        return found


def _mean_iou(logits: Tensor, batches: list[DrawnStep]) -> float:
    """Of logits `(N, h, w)` with the targets of the batches that they answer."""
    truth, weight = (torch.cat([getattr(views, name) for views in batches]) for name in ("target", "weight"))
    return float(mean_iou_of(logits, truth, weight))


@torch.no_grad()
def answered(model: PromptableSam, views: DrawnStep) -> Tensor:
    """Answers `(B * P, h, w)`, on the CPU."""
    inside = torch.ones(len(views.kind), dtype=torch.bool, device=views.kind.device)
    encoded = model.encode(views.image)
    return model.answer(encoded, views.kind, views.logits, views.point, inside, views.box)[0].cpu()

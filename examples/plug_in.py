"""SAM as a second teacher in a training loop of your own, over a network of your own.

    python examples/plug_in.py

A random network learns from random tensors for a few steps; put yours in their places. `from_name` also takes "vit_b"
or a file of weights (docs/sam.md).
"""

from __future__ import annotations

import torch

from knowsam.functional import segmentation_loss
from knowsam.sam import SamDistillation
from knowsam.types import IGNORE, Progress

STEPS = 3


def main() -> list[float]:
    student = torch.nn.Conv2d(1, 3, 3, padding=1)  # any module: images (B, C, H, W) -> logits (B, K, H, W)
    sam = SamDistillation.from_name("tiny", size=(64, 64), classes=3)
    learning = [weight for module in (student, sam) for weight in module.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(learning, lr=1e-3)
    image, label = torch.rand(4, 1, 64, 64), torch.randint(0, 3, (4, 64, 64))
    label[2:] = IGNORE  # the last two images have no mask: they learn from SAM alone
    losses = []
    for step in range(STEPS):
        logits = student(image)
        taught = sam(image, [logits], label, Progress(step, STEPS))
        loss = segmentation_loss(logits, label) + taught.loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        print(f"step {step}: loss {losses[-1]:.3f}, of which SAM {taught.loss.item():.3f}")
    return losses


if __name__ == "__main__":
    main()

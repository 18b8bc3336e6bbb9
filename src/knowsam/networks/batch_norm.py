"""Batch normalisation without a count of its batches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's, with the same names of weights and statistics; `num_batches_tracked` stays as it was loaded.

    The count serves running statistics that weigh all batches alike (`momentum=None`), which nothing here uses, and
    takes one launch for each layer and pass.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`(B, C, H, W)` -> the same shape."""
        assert self.momentum is not None
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )

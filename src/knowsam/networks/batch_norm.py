"""Batch normalisation without a count of its batches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's, with the same names of weights and statistics; `num_batches_tracked` stays as it was loaded.

    The count takes one launch for each layer and pass, and serves statistics that weigh all batches alike alone
    (`momentum=None`), for which it goes on.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`(B, C, H, W)` -> the same shape."""
        if self.momentum is None:
            return super().forward(input)
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

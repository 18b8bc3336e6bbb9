"""Ways to run a network for a moment other than it is set; afterwards it is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def as_predicting(network: nn.Module) -> Iterator[None]:
    """Run a network as in prediction: no dropout, running statistics, which stay."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use its running statistics and leave them as they are; dropout stays."""
    learning = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    for module in learning:
        module.eval()
    try:
        yield
    finally:
        for module in learning:
            module.train()

"""Batch normalisation folded into the convolution before it: the same prediction from fewer passes over memory."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation that follows a convolution in an `nn.Sequential`, in place.

    In evaluation mode it is a factor and an offset per channel, which the convolution's weights and bias can carry.
    Results change by rounding only.

    Args:
        network: In evaluation mode; not to be trained or saved afterwards. Networks that do not put the two layers into
            an `nn.Sequential` (MONAI's, or one's own) are left as they are.

    Returns:
        The network.

    Raises:
        ValueError: If the network is in training mode: its batch normalisation is no constant.
    """
    if network.training:
        raise ValueError("the network is in training mode, expected evaluation mode: call .eval() first")
    for sequence in network.modules():
        if type(sequence) is not nn.Sequential:
            continue
        for place in range(len(sequence) - 1):
            convolution, normalisation = sequence[place], sequence[place + 1]
            if (
                isinstance(convolution, nn.Conv2d)
                and isinstance(normalisation, nn.BatchNorm2d)
                and normalisation.track_running_stats
            ):
                sequence[place] = fuse_conv_bn_eval(convolution, normalisation)
                sequence[place + 1] = nn.Identity()
    return network

"""The segmentation networks and the table that names them.

A network takes images `(B, C, H, W)` and returns logits `(B, K, H, W)`; its attribute `stride` says what H
and W must be divisible by.
"""

from knowsam.networks.base import SegmentationNetwork
from knowsam.networks.cotrained import CoTrainedStudents, FusionHead
from knowsam.networks.ema import ema_copy, ema_decay, teacher_decay, update_ema
from knowsam.networks.external import MONAI_PREFIX, ExternalNetwork
from knowsam.networks.input import standardise_image
from knowsam.networks.registry import NETWORKS, build_network, register_network
from knowsam.networks.side_heads import SideHeads
from knowsam.networks.unet import UNet
from knowsam.networks.vnet import VNet

__all__ = [
    "MONAI_PREFIX",
    "NETWORKS",
    "CoTrainedStudents",
    "ExternalNetwork",
    "FusionHead",
    "SegmentationNetwork",
    "SideHeads",
    "UNet",
    "VNet",
    "build_network",
    "ema_copy",
    "ema_decay",
    "register_network",
    "standardise_image",
    "teacher_decay",
    "update_ema",
]

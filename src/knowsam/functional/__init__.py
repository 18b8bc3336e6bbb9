"""Pure functions of tensors: losses, mixing, schedules, pseudo-labels, probabilities, uncertainty."""

from knowsam.functional.losses import (
    cross_consistency_loss,
    cross_entropy,
    dice_loss,
    distillation_loss,
    entropy_loss,
    entropy_map,
    preference_loss,
    pyramid_consistency,
    region_loss,
    segmentation_loss,
    soft_dice_loss,
    softmax_mse_loss,
)
from knowsam.functional.mixing import copy_paste_box, cutmix_boxes, cycled, exchange, halves, uncertain_cells
from knowsam.functional.probabilities import most_probable_class, probabilities_at
from knowsam.functional.pseudo_labels import confident_label, largest_components
from knowsam.functional.schedules import gaussian_rampup, linear_decay, uncertainty_threshold
from knowsam.functional.uncertainty import (
    CaseSums,
    Uncertainty,
    disagreement_share,
    entropy_share,
    measure_uncertainty,
)

__all__ = [
    "CaseSums",
    "Uncertainty",
    "confident_label",
    "copy_paste_box",
    "cross_consistency_loss",
    "cross_entropy",
    "cutmix_boxes",
    "cycled",
    "dice_loss",
    "disagreement_share",
    "distillation_loss",
    "entropy_loss",
    "entropy_map",
    "entropy_share",
    "exchange",
    "gaussian_rampup",
    "halves",
    "largest_components",
    "linear_decay",
    "measure_uncertainty",
    "most_probable_class",
    "preference_loss",
    "probabilities_at",
    "pyramid_consistency",
    "region_loss",
    "segmentation_loss",
    "soft_dice_loss",
    "softmax_mse_loss",
    "uncertain_cells",
    "uncertainty_threshold",
]

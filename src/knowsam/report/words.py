"""Names a reader understands for what the logs abbreviate, and numbers as text."""

from __future__ import annotations

import math

PREDICTIONS = {"fused": "fused", "unet": "U-Net", "vnet": "V-Net", "sam": "SAM", "student": "network"}
# The parts of a term's name, e.g. `unet_mix_pseudo`; a name with an unknown part is shown as it is.
SUBJECTS = {
    "student": "Network",
    "first": "First network",
    "second": "Second network",
    "unet": "U-Net",
    "vnet": "V-Net",
    "fused": "Fused",
    "sam": "SAM",
}
MATTERS = {
    "sup": "against the truth",
    "ent": "entropy",
    "cons": "agreement with the other student",
    "kd": "distillation into the students",
    "pseudo": "the other's pseudo-labels",
    "in": "unlabelled pasted into labelled",
    "out": "labelled pasted into unlabelled",
    "strong": "strong views against the weak one's labels",
    "features": "dropped features against the weak view's labels",
    "scales": "agreement of the scales",
    "divergence": "divergence of the scales",
    "mix": "mixed images, against their labels",
    "mix_sup": "mixed images, against their labels",
    "mix_ent": "mixed images, entropy",
    "mix_cons": "mixed images, agreement",
    "mix_pseudo": "mixed images, pseudo-labels",
}
# What the parts do not say rightly.
TERMS = {
    "loss": "Total loss",
    "student_cons": "Network: agreement with the EMA teacher",
    "student_pseudo": "Network: pseudo-labels",
    "ema_certain": "Share of pixels of which the EMA teacher is certain",
    "share_certain": "Share of pixels of which the weak view is certain",
    "share_removed": "Share of the pseudo-labels' foreground outside the largest pieces",
}


def prediction_name(name: str) -> str:
    """`"unet"` -> `"U-Net"`; a name that is not known stays."""
    return PREDICTIONS.get(name, name)


def term_name(name: str) -> str:
    """`"unet_sup"` -> `"U-Net: against the truth"`; a name that is not known stays."""
    if name in TERMS:
        return TERMS[name]
    subject, _, matter = name.partition("_")
    if subject in SUBJECTS and matter in MATTERS:
        return f"{SUBJECTS[subject]}: {MATTERS[matter]}"
    return name


def dice_text(value: float) -> str:
    """Three decimals; a dash where there is no number."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.3f}"


def points_text(difference: float) -> str:
    """A difference of Dice in points of a hundred, with its sign: `"+2.4"`."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def count_text(number: int, noun: str) -> str:
    """`"1 volume"`, `"1,176 images"`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration_text(seconds: float) -> str:
    """`"45 s"`, `"12 min"`, `"3 h 20 min"`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def share_text(share: float) -> str:
    """A share as percent, with more digits where it is small: `"0.07 %"`."""
    percent = 100 * share
    if percent == 0:
        return "0 %"
    if percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.{0 if percent >= 99.95 else 1 if percent >= 1 else 2}f} %"

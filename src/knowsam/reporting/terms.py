"""Names a reader understands for what the logs abbreviate, and numbers as text."""

from __future__ import annotations

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

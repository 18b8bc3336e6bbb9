"""Words for what the logs abbreviate: terms of the loss, and predictions. Each method names its own."""

from __future__ import annotations

from knowsam.methods import known_method

PREDICTIONS = {"student": "network", "sam": "SAM"}
TERMS = {
    "loss": "Total loss",
    "student_sup": "Network: against the truth",
    "sam_sup": "SAM: against the truth",
    "sam_kd": "SAM: distillation into the students",
}
"""What methods have in common; the rest is `Method.term_names` and `Method.prediction_names`."""


def prediction_name(method: str, name: str) -> str:
    """Return the words for a prediction, e.g. `"unet"` -> `"U-Net"`.

    Args:
        method: As in a configuration; the file of a method of the user's own is not run.
        name: As in the logs; a name without words is returned unchanged.
    """
    known = known_method(method)
    return (PREDICTIONS if known is None else {**PREDICTIONS, **known.prediction_names}).get(name, name)


def term_name(method: str, name: str) -> str:
    """Return the words for a term of the loss, e.g. `"unet_sup"` -> `"U-Net: against the truth"`.

    Args:
        method: As in a configuration; the file of a method of the user's own is not run.
        name: As in the logs; a name without words is returned unchanged.
    """
    known = known_method(method)
    return (TERMS if known is None else {**TERMS, **known.term_names}).get(name, name)

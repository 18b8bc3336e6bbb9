"""Sentences derived from a run's numbers: what they say, and what to try next. Pure functions of plain records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from knowsam.evaluation.scoring import ScoredVolume
from knowsam.presentation.text import count_text, points_text
from knowsam.reporting.baseline import Baseline
from knowsam.reporting.terms import prediction_name
from knowsam.runs.record import RunRecord
from knowsam.types import SAM

# In Dice. Smaller differences are left without comment.
STILL_RISING = 0.005
FALLEN = 0.01
FAR_APART = 0.03
CLASS_BEHIND = 0.1
FAILED = 0.5
LATE = 0.75
"""Share of the run after which a gain counts as 'at the end'."""
FEW_VOLUMES = 10


def advise(
    run: RunRecord, baseline: Baseline | None, class_names: Sequence[str], cases: Sequence[ScoredVolume]
) -> list[str]:
    """Everything the numbers say, the most useful first.

    Args:
        run: The run.
        baseline: Its baseline, if there is one.
        class_names: Names of classes 1..K-1.
        cases: The validation cases, empty where they could not be read.
    """
    found = [
        against_baseline(run, baseline),
        course(run),
        students(run),
        sam_teacher(run),
        weak_classes(class_names, cases),
        failed_cases(cases),
        certainty(cases),
    ]
    return [sentence for sentence in found if sentence]


def against_baseline(run: RunRecord, baseline: Baseline | None) -> str | None:
    """Whether the unlabelled images were worth it."""
    if run.best is None or baseline is None or not baseline.comparable:
        return None
    difference = run.best.score - baseline.score.score
    if difference > STILL_RISING:
        return None
    word = "below" if difference < -STILL_RISING else "level with"
    return (
        f"The run is {word} supervised training on the same labels ({points_text(difference)} points): the unlabelled"
        " images have not helped yet. Train longer, and look whether the curves of the mixed images still fall."
    )


def course(run: RunRecord) -> str | None:
    """Still rising, past its best, or neither."""
    if len(run.validations) < 3 or run.best is None:
        return None
    last, best, steps = run.validations[-1], run.best, run.steps
    before = [one for one in run.validations if one.step <= LATE * steps]
    if best.step == last.step and before:
        earlier = max(before, key=lambda one: one.score)
        gain = last.score - earlier.score
        if gain > STILL_RISING:
            return (
                f"Validation Dice was still rising at the end ({points_text(gain)} points since step {earlier.step}):"
                f" train longer, for example to {2 * steps} steps in all."
            )
    if best.step <= LATE * steps and best.score - last.score > FALLEN:
        return (
            f"Validation Dice was best at step {best.step} and fell by"
            f" {100 * (best.score - last.score):.1f} points until step {last.step}: the run overfits after that, and"
            " more steps will not help. More labelled images will; the network of the best step is the one that was"
            " kept."
        )
    return None


def students(run: RunRecord) -> str | None:
    """One student far behind the other, or the used prediction behind a single student."""
    if run.best is None:
        return None
    dice = {name: value for name, value in run.best.dice.items() if name not in (run.best.used, SAM)}
    if len(dice) < 2:
        return None
    weak, strong = min(dice, key=lambda name: dice[name]), max(dice, key=lambda name: dice[name])
    used = run.best.used
    if dice[strong] > run.best.score:
        return (
            f"{prediction_name(strong)} alone ({dice[strong]:.3f}) is better than the {prediction_name(used)} map"
            f" ({run.best.score:.3f}), held back by {prediction_name(weak)} ({dice[weak]:.3f}): compare again after"
            " more steps."
        )
    if dice[strong] - dice[weak] > FAR_APART:
        return (
            f"{prediction_name(weak)} ({dice[weak]:.3f}) is far below {prediction_name(strong)} ({dice[strong]:.3f}),"
            f" and it teaches {prediction_name(strong)} as well: compare their loss curves; where"
            f" {prediction_name(weak)}'s still falls, more steps help both."
        )
    return None


def sam_teacher(run: RunRecord) -> str | None:
    """SAM below the very map it is prompted with."""
    if run.best is None or SAM not in run.best.dice:
        return None
    difference = run.best.dice[SAM] - run.best.score
    if difference >= 0:
        return None
    if run.config.sam.name == "tiny":
        advice = "try a pretrained one (sam=vit_b or a directory), and compare with sam=none, which is much faster"
    else:
        advice = "compare with sam=none, which is much faster"
    return (
        f"SAM ({run.best.dice[SAM]:.3f}) is below the map it is prompted with ({points_text(difference)} points), so"
        f" that it has little to teach: {advice}."
    )


def weak_classes(class_names: Sequence[str], cases: Sequence[ScoredVolume]) -> str | None:
    """A class far behind the others."""
    if not cases or len(class_names) < 2:
        return None
    means = np.mean([case.dice for case in cases], axis=0)
    weakest = int(np.argmin(means))
    others = float(np.delete(means, weakest).mean())
    if others - means[weakest] <= CLASS_BEHIND:
        return None
    return (
        f"The class {class_names[weakest]} ({means[weakest]:.3f}) is far behind the others ({others:.3f} on average):"
        " label images that show it well, and look at its errors above."
    )


def failed_cases(cases: Sequence[ScoredVolume]) -> str | None:
    """Cases that a mean hides."""
    failed = sorted((case for case in cases if case.mean < FAILED), key=lambda case: case.mean)
    if not failed:
        return None
    names = ", ".join(case.name for case in failed[:3]) + (", ..." if len(failed) > 3 else "")
    verb, them = ("is", "it") if len(failed) == 1 else ("are", "them")
    return (
        f"{len(failed)} of {count_text(len(cases), 'validation case')} {verb} below Dice {FAILED:g} ({names}): look at"
        f" {them} first; images like {them} are the ones to label next."
    )


def certainty(cases: Sequence[ScoredVolume]) -> str | None:
    """How much a difference between two runs means on so few volumes."""
    if not 2 <= len(cases) < 4 * FEW_VOLUMES:
        return None
    error = float(np.std([case.mean for case in cases], ddof=1)) / len(cases) ** 0.5
    return (
        f"With {len(cases)} validation cases the mean Dice is known to about ±{100 * error:.1f} points (its standard"
        " error): read smaller differences between runs with care, and repeat with another seed."
    )

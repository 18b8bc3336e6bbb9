"""Sentences derived from a run's numbers: what they say, and what to try next. Pure functions of plain records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from knowsam.evaluation.scoring import ScoredVolume
from knowsam.presentation.text import count_text
from knowsam.reporting.baseline import Baseline
from knowsam.reporting.differences import LARGE, Difference, difference, paired
from knowsam.reporting.terms import prediction_name
from knowsam.runs.record import RunRecord
from knowsam.types import SAM

CLASS_BEHIND = 0.1
"""In Dice; a class less far behind the others is left without comment, however clear the difference."""
FAILED = 0.5
"""Dice below which a case counts as failed."""
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


def gain_over(run: RunRecord, baseline: Baseline | None) -> Difference | None:
    """How much better the run is than its baseline; None where the two cannot be compared."""
    if run.best is None or baseline is None or not baseline.comparable:
        return None
    return difference(run.best, baseline.score)


def against_baseline(run: RunRecord, baseline: Baseline | None) -> str | None:
    """Whether the unlabelled images were worth it."""
    gain = gain_over(run, baseline)
    if gain is None:
        return None
    if gain.clear and gain.mean < 0:
        return (
            f"The run is below supervised training on the same labels ({gain}): the unlabelled images have not helped"
            " yet. Train longer, and look whether the curves of the mixed images still fall."
        )
    if not gain.clear and gain.error is not None:
        return (
            f"Whether the unlabelled images help is open: the difference to supervised training on the same labels"
            f" ({gain}) may be chance on {count_text(gain.cases, 'validation case')}. More steps, more validation cases"
            " or another seed decide."
        )
    return None


def course(run: RunRecord) -> str | None:
    """Still rising, past its best, or neither."""
    if len(run.validations) < 3 or run.best is None:
        return None
    last, best, steps = run.validations[-1], run.best, run.steps
    before = [one for one in run.validations if one.step <= LATE * steps]
    if best.step == last.step and before:
        earlier = max(before, key=lambda one: one.score)
        gain = difference(last, earlier)
        if gain.clear:
            return (
                f"Validation Dice was still rising at the end ({gain} since step {earlier.step}): train longer, for"
                f" example to {2 * steps} steps in all."
            )
    if best.step <= LATE * steps:
        loss = difference(last, best)
        if loss.clear:
            return (
                f"Validation Dice was best at step {best.step} and fell by {loss.size} until step {last.step}: the run"
                " overfits after that, and more steps will not help. More labelled images will; the network of the best"
                " step is the one that was kept."
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
    used, words = run.best.used, partial(prediction_name, run.config.method)
    ahead = difference(run.best, run.best, strong, used)
    if ahead.mean > 0 and ahead.clear:
        return (
            f"{words(strong)} alone ({dice[strong]:.3f}) is better than the {words(used)} map ({run.best.score:.3f}) by"
            f" {ahead.size}, held back by {words(weak)} ({dice[weak]:.3f}): compare again after more steps."
        )
    apart = difference(run.best, run.best, strong, weak)
    if apart.mean > LARGE and apart.clear:
        return (
            f"{words(weak)} ({dice[weak]:.3f}) is far below {words(strong)} ({dice[strong]:.3f}),"
            f" and it teaches {words(strong)} as well: compare their loss curves; where"
            f" {words(weak)}'s still falls, more steps help both."
        )
    return None


def sam_teacher(run: RunRecord) -> str | None:
    """SAM clearly above or below the very map it is prompted with."""
    if run.best is None or SAM not in run.best.dice:
        return None
    lead = difference(run.best, run.best, SAM)
    if not lead.clear:
        return None
    if lead.mean > 0:
        return (
            f"SAM ({run.best.dice[SAM]:.3f}) is ahead of the map it is prompted with by {lead.size}: it still has"
            " something to teach. More steps, or a larger sam.kd_weight (now"
            f" {run.config.sam.kd_weight:g}), pass it on."
        )
    if run.config.sam.name == "tiny":
        advice = "try a pretrained one (sam=vit_b or a directory), and compare with sam=none, which is much faster"
    else:
        advice = "compare with sam=none, which is much faster"
    return (
        f"SAM ({run.best.dice[SAM]:.3f}) is below the map it is prompted with ({lead}), so that it has little to"
        f" teach: {advice}."
    )


def weak_classes(class_names: Sequence[str], cases: Sequence[ScoredVolume]) -> str | None:
    """A class far behind the others."""
    if not cases or len(class_names) < 2:
        return None
    dice = np.array([case.dice for case in cases])
    weakest = int(np.argmin(dice.mean(axis=0)))
    rest = np.delete(dice, weakest, axis=1).mean(axis=1)
    behind = paired(rest.tolist(), dice[:, weakest].tolist())
    if behind.mean <= CLASS_BEHIND or not behind.clear:
        return None
    return (
        f"The class {class_names[weakest]} ({dice[:, weakest].mean():.3f}) is far behind the others ({rest.mean():.3f}"
        f" on average, {behind.size} apart): label images that show it well, and look at its errors above."
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

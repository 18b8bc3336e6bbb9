r"""`preference` with each judge in one table: `compare` knows a method once, so each variant is a class here.

    F=benchmarks/preference_judges.py
    knowsam compare DATA --out DIR --sam none --seeds 0,1 \
        --methods supervised,$F:Agreement,$F:Confidence,$F:OracleRank,$F:OracleRating,$F:Mean,$F:Moved,$F:Sudden
    knowsam compare DATA --out DIR-sam --sam tiny --seeds 0,1 --methods supervised,$F:Agreement,$F:IouHead,$F:OnSam

`supervised` is stage 1 alone. `Mean` averages the likelihood over the image without anchor and stay term, `Moved` does
the same over the ring, `Sudden` has the whole weight from the first step of stage 2.
"""

from __future__ import annotations

from typing import Literal

from knowsam.methods.preference import PreferenceAlignment, PreferenceOptions


class Agreement(PreferenceAlignment):
    """As it comes."""

    footnote = "judge: agreement"


class Confidence(PreferenceAlignment):
    """Expected Dice."""

    footnote = "judge: expected Dice"

    class Options(PreferenceOptions):
        """Its judge."""

        judge: Literal["confidence"] = "confidence"


class IouHead(PreferenceAlignment):
    """SAM's own estimate."""

    footnote = "judge: SAM's estimate"

    class Options(PreferenceOptions):
        """Its judge."""

        judge: Literal["iou_head"] = "iou_head"


class OracleRank(PreferenceAlignment):
    """The truth ranks: how much of a gain is the masks'."""

    footnote = "judge: the truth"

    class Options(PreferenceOptions):
        """Its judge."""

        judge: Literal["oracle_rank"] = "oracle_rank"


class OracleRating(PreferenceAlignment):
    """The truth rates."""

    footnote = "judge: the truth, by ratings"

    class Options(PreferenceOptions):
        """Its judge."""

        judge: Literal["oracle_rating"] = "oracle_rating"


class Mean(PreferenceAlignment):
    """The failure that others report: the truth ranks, the mean over the image, nothing that holds the network."""

    footnote = "judge: the truth; mean over the image, no anchor, no stay term"

    class Options(PreferenceOptions):
        """Its judge, and what is left out."""

        judge: Literal["oracle_rank"] = "oracle_rank"
        normalise: Literal["mean"] = "mean"
        anchor_weight: float = 0.0
        stay_weight: float = 0.0


class Moved(PreferenceAlignment):
    """The same with the mean over the ring."""

    footnote = "judge: the truth; no anchor, no stay term"

    class Options(PreferenceOptions):
        """Its judge, and what is left out."""

        judge: Literal["oracle_rank"] = "oracle_rank"
        anchor_weight: float = 0.0
        stay_weight: float = 0.0


class Sudden(PreferenceAlignment):
    """As it comes, without the ramp."""

    footnote = "judge: agreement; no ramp"

    class Options(PreferenceOptions):
        """How it begins."""

        ramp_end: float = 0.0


class OnSam(PreferenceAlignment):
    """SAM's decoder is aligned, the network learns from its answers."""

    footnote = "on SAM's decoder"

    class Options(PreferenceOptions):
        """What is aligned."""

        target: Literal["sam"] = "sam"

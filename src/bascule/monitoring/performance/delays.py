"""How long truths take: the curve of delays, what is still to come, and whether late ones differ.

A prediction without a truth has waited for its age: its delay is censored on the right. The curve
is the product-limit estimate of Kaplan and Meier 1958 over all predictions, which takes such rows
into account; the delays of the truths that are in would alone be biased towards short ones,
because a long delay is seen only for old predictions (right truncation; where only arrived truths
are known, Lagakos, Barraj and De Gruttola 1988 estimate the curve in reverse time).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_ROWS = 100
"""Truths that are needed on either side to say whether late ones differ."""
_MATURE = 0.95
_MIN_Z = 3.29
"""Two-sided chance of 0.001."""


@dataclass(frozen=True, slots=True)
class DelayCurve:
    """The estimated distribution of delays.

    Attributes:
        delays_s: Where the curve steps, rising.
        shares: The share of predictions whose truth comes within `delays_s`. The same shape.
        predictions: How many it is estimated from.
        truths: How many of their truths are in.
    """

    delays_s: Floats
    shares: Floats
    predictions: int
    truths: int

    @property
    def eventual(self) -> float:
        """The share of predictions whose truth is seen to come at all."""
        return float(self.shares[-1]) if len(self.shares) else 0.0

    def at(self, ages_s: Floats) -> Floats:
        """The share that is in at each age."""
        if not len(self.delays_s):
            return np.zeros(len(ages_s))
        places = np.searchsorted(self.delays_s, ages_s, "right")
        made: Floats = np.append(0.0, self.shares)[places]
        return made

    def completeness(self, ages_s: Floats) -> float | None:
        """Of the truths that will come, the share that is expected to be in."""
        if not self.eventual or not len(ages_s):
            return None
        return float(self.at(ages_s).mean()) / self.eventual

    def quantile(self, share: float) -> float:
        """The delay within which this share of the truths that come is in, in seconds."""
        if not len(self.shares):
            return math.nan
        place = int(np.searchsorted(self.shares, share * self.eventual * (1 - 1e-12), "left"))
        return float(self.delays_s[min(place, len(self.delays_s) - 1)])


def delay_curve(delays_s: Floats, ages_s: Floats) -> DelayCurve:
    """The curve of delays, from every prediction.

    Args:
        delays_s: From the prediction to its truth; NaN where it has not come. Shape (rows,).
        ages_s: From the prediction to now. The same shape.
    """
    is_in = ~np.isnan(delays_s)
    waited = np.maximum(0.0, np.where(is_in, delays_s, ages_s))
    steps, counts = np.unique(waited[is_in], return_counts=True)
    at_risk = len(waited) - np.searchsorted(np.sort(waited), steps, "left")
    still_out: Floats = np.cumprod(1.0 - counts / at_risk, dtype=np.float64)
    return DelayCurve(steps, 1 - still_out, len(waited), int(is_in.sum()))


@dataclass(frozen=True, slots=True)
class LateTruths:
    """Whether truths that come early tell the same as those that come late.

    Attributes:
        split_s: The delay that parts them.
        early: The mean of what is compared, for early truths.
        late: The same for late ones.
        differ: Whether they differ by more than chance and by enough to matter.
    """

    split_s: float
    early: float
    late: float
    differ: bool


def compare_late(
    scores: Floats, delays_s: Floats, ages_s: Floats, curve: DelayCurve, least: float
) -> LateTruths | None:
    """Compare the rows whose truth came early with those whose truth came late.

    Only predictions so old that nearly all truths are in take part: among younger ones there
    are no late truths yet.

    Args:
        scores: Of each row: 1 for right and 0 for wrong, or its error.
        delays_s: NaN where the truth has not come.
        ages_s: Of the predictions.
        curve: Of the delays.
        least: The least difference that matters.

    Returns:
        None where fewer than `MIN_ROWS` truths are on one side.
    """
    is_old = curve.at(ages_s) >= _MATURE * curve.eventual
    rows = is_old & ~np.isnan(delays_s)
    split = curve.quantile(0.5)
    is_late = delays_s > split
    if not (rows & is_late).any():  # half of the truths come at the largest delay
        is_late = delays_s >= split
    early, late = scores[rows & ~is_late], scores[rows & is_late]
    if min(len(early), len(late)) < MIN_ROWS:
        return None
    error = math.sqrt(early.var() / len(early) + late.var() / len(late))
    change = float(late.mean() - early.mean())
    differ = abs(change) > _MIN_Z * error and abs(change) >= least
    return LateTruths(split, float(early.mean()), float(late.mean()), differ)

"""Whether one side of a comparison is wrong more often, exactly: many tests have small levels.

Two groups of rows are compared by Fisher's test, two models on the same rows by McNemar's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from bascule.stats.counting import beta_below
from bascule.stats.tails import hypergeometric_tail


@dataclass(frozen=True, slots=True)
class WrongShares:
    """How many rows each side answers wrong: `wrong` of `rows`, and `others_wrong` of `others`.

    For pairs, the rows are the same, and both sides answer `both_wrong` of them wrong.
    """

    rows: int
    wrong: int
    others: int
    others_wrong: int
    both_wrong: int | None = None

    @property
    def difference(self) -> float:
        """By how much the first side's share is larger."""
        return self.wrong / max(1, self.rows) - self.others_wrong / max(1, self.others)

    @property
    def p_value(self) -> float:
        """One-sided, where the first side is not worse."""
        if self.difference <= 0:
            return 1.0
        if self.both_wrong is None:
            marked, total = self.wrong + self.others_wrong, self.rows + self.others
            return hypergeometric_tail(self.wrong, self.rows, marked, total)
        alone, beside = self.wrong - self.both_wrong, self.others_wrong - self.both_wrong
        return beta_below(0.5, alone, beside + 1)

    def interval(self, share: float) -> tuple[float, float]:
        """Ends for the difference that err with the probability `share` each.

        Of groups by Agresti and Caffo 2000, of pairs by Agresti and Min 2005.
        """
        rows, others = self.rows + 2, self.others + 2
        if self.both_wrong is None:
            here, there = (self.wrong + 1) / rows, (self.others_wrong + 1) / others
            middle = here - there
            variance = here * (1 - here) / rows + there * (1 - there) / others
        else:
            middle = (self.wrong - self.others_wrong) / rows
            apart = self.wrong + self.others_wrong - 2 * self.both_wrong + 1
            variance = (apart / rows - middle**2) / rows
        half = -NormalDist().inv_cdf(share) * math.sqrt(variance)
        return max(-1.0, middle - half), min(1.0, middle + half)

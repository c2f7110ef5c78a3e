"""Whether one side of a comparison is wrong more often, exactly; and Holm's bound for many tests.

Exact tests hold at the small levels that many slices leave. Two groups of rows: Fisher's test (the
hypergeometric law). Two models on the same rows: McNemar's (the binomial law of the rows on which
one alone is wrong).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from bascule.stats.counting import beta_below
from bascule.stats.tails import hypergeometric_tail


@dataclass(frozen=True, slots=True)
class WrongShares:
    """How many rows each side answers wrong.

    Attributes:
        rows: Of the side that may be worse.
        wrong: Of them, how many are answered wrong.
        others: Rows of the other side; the same ones for pairs.
        others_wrong: Of them, how many are answered wrong.
        both_wrong: Of the same rows, how many both sides answer wrong; None for two groups.
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
        return beta_below(
            0.5, self.wrong - self.both_wrong, self.others_wrong - self.both_wrong + 1
        )

    def interval(self, share: float) -> tuple[float, float]:
        """Both ends for the difference, each of which errs with the probability `share`.

        Groups: Agresti and Caffo 2000. Pairs: Agresti and Min 2005.
        """
        if self.both_wrong is None:
            here, there = (
                ((wrong + 1) / (rows + 2), rows + 2)
                for wrong, rows in ((self.wrong, self.rows), (self.others_wrong, self.others))
            )
            middle = here[0] - there[0]
            variance = sum(rate * (1 - rate) / rows for rate, rows in (here, there))
        else:
            middle = (self.wrong - self.others_wrong) / (self.rows + 2)
            apart = self.wrong + self.others_wrong - 2 * self.both_wrong + 1
            variance = (apart / (self.rows + 2) - middle**2) / (self.rows + 2)
        half = -NormalDist().inv_cdf(share) * math.sqrt(variance)
        return max(-1.0, middle - half), min(1.0, middle + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in their order, whatever their dependence.

    Holm 1979: the chance of any false one at or below a level is at most this level.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
